"""`python -m verl_videosearch ...` is `videosearch ...`."""

from verl_videosearch.cli import app

app(prog_name="videosearch")
