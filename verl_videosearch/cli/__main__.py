"""`python -m verl_videosearch.cli ...` is `videosearch ...`."""

from verl_videosearch.cli import app

app()
