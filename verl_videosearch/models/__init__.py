"""Who writes replies: an OpenAI-compatible server, one that is started here, or a model in this
process."""
