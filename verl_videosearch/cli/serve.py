"""`videosearch serve`: the judge over HTTP.

    videosearch serve --state serving --root CLIPS --local outputs/demo/models/grpo
    curl --data-binary @a.mp4 http://127.0.0.1:8080/v1/videos
    curl http://127.0.0.1:8080/v1/compare \\
        --json '{"prompt": "a cat", "video_1": ..., "video_2": ...}'

The one idea: loopback without a token, anywhere else with one; docs/judge.md has every limit."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from verl_videosearch.cli.console import explain_errors, read_assignments, say
from verl_videosearch.cli.judge import JudgeOptions, offers_models
from verl_videosearch.models.option_groups import takes_group
from verl_videosearch.models.options import takes_source
from verl_videosearch.models.source import ModelSource  # takes_source looks it up


@offers_models
@takes_source()
@takes_group(JudgeOptions)
def run_serve(
    state: Annotated[
        Path, typer.Option(help="Folder of uploads, batches and remembered episodes.")
    ] = Path("videosearch-serve"),
    root: Annotated[
        list[Path] | None, typer.Option(help="Folder whose videos may be named; repeatable.")
    ] = None,
    host: Annotated[str, typer.Option(help="Others than loopback need a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8080,
    token_variable: Annotated[
        str | None, typer.Option(help="Environment variable that holds the bearer token.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(help="Name by which clients call it; repeatable. With a token: any."),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(help="A limit as name=value, such as max_seconds=60; see docs/judge.md."),
    ] = None,
    *,
    options: JudgeOptions,
    source: ModelSource,
) -> None:
    """Serve the judge over HTTP until SIGTERM."""
    from verl_videosearch.config import read_config
    from verl_videosearch.judge.server.run import run_server
    from verl_videosearch.judge.server.settings import ServerConfig

    with explain_errors():
        token = None
        if token_variable is not None and not (token := os.environ.get(token_variable)):
            raise ValueError(f"${token_variable} is not set; it has to hold the token")
        given = read_assignments(limit or [])
        known = {field.name for field in fields(ServerConfig)}
        settings = {
            "state": state.absolute(),
            "roots": tuple(root or ()),
            "host": host,
            "port": port,
            "token": token,
            "allowed_hosts": tuple(allowed_host) if allowed_host else None,
        }
        if clash := sorted(set(given) & set(settings) & known):
            raise ValueError(f"--limit must not set {clash}; they have options of their own")
        config = read_config(ServerConfig, settings | given)
        judge = options.make_judge(source, cache=config.state / "episodes.sqlite")
        run_server(judge, config, lambda url: say(f"serving {source.name} at {url}, {url}/docs"))
