"""A judge of video pairs that searches frames before it decides, trained and served as a plugin of
verl.

The one idea: everything about frames, memory, prompts, verdicts and rewards is plain Python on
messages and images (no torch); only `verl_plugin` on top knows tokens. One `Episode` drives
training, evaluation and serving.

Importing this package does nothing; import the module you need. Where to look: `prompts` for what
the model reads, `episode` for what a turn does, `memory` for what is forgotten, `reward` for what
is paid, `sample` for a row of data.
"""
