"""Judge pairs with a served model: everything that talks to an OpenAI-compatible endpoint."""
