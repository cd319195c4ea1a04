"""Options that several programs share, as groups: one place, one wording.

The one idea: a command has a parameter annotated with a group, and `takes_group` puts the group's
fields in its place as options; the command gets them back as one value.

    @app.command()
    @takes_source()
    @takes_group(RunOptions, concurrency=16)       # another default for this program
    def ask(out: Path, run: RunOptions, source: ModelSource): ...

Covers: typer, and any reader of signatures. Does not cover: who writes replies (`options`), what
only one program asks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from verl_videosearch.runs.jobs import MAX_FAILED_SHARE

Function = TypeVar("Function", bound=Callable[..., Any])

Store = Annotated[Path | None, typer.Option(help="Frame store; default: $VIDEOSEARCH_FRAME_STORE.")]
VideoRoot = Annotated[
    Path | None, typer.Option(help="Folder that relative video paths start from.")
]
Concurrency = Annotated[int, typer.Option(min=1, help="Episodes in flight, per server.")]
EpisodeTimeout = Annotated[
    float, typer.Option(help="Most seconds of one episode; then it is tried again.")
]
Recipe = Annotated[
    str | None,
    typer.Option(help="Episode settings of this recipe; default: the model's own, else built in."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", "--episode", help="Episode setting as name=value; repeatable."),
]


@dataclass(frozen=True)
class RunOptions:
    """How a run that can be killed and repeated plays its episodes."""

    concurrency: Concurrency = 8
    """Of each server."""
    episode_timeout_s: EpisodeTimeout = 900.0
    """In seconds."""
    max_failed_share: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Pairs that may fail for good, as a share; more: status 3."
        ),
    ] = MAX_FAILED_SHARE
    """From 0 to 1."""
    forget_failures: Annotated[
        bool, typer.Option("--forget-failures", help="Play what has failed for good again.")
    ] = False
    """Of earlier runs."""
    store: Store = None
    """Null: the default one."""


def takes_group(cls: type, **defaults: Any) -> Callable[[Function], Function]:
    """Replace the command's parameter of type `cls`, a dataclass of options, by its fields;
    `defaults` are this program's own."""
    if unknown := sorted(set(defaults) - {each.name for each in fields(cls)}):
        raise TypeError(f"{cls.__name__} has no options {unknown}")

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function, eval_str=True)
        parameters = signature.parameters.values()
        [name] = [each.name for each in parameters if each.annotation is cls]
        options = _make_parameters(cls, defaults)
        keyword = inspect.Parameter.KEYWORD_ONLY
        own = [each.replace(kind=keyword) for each in parameters if each.name != name]

        @functools.wraps(function)
        def command(**given: Any) -> Any:
            group = cls(**{each.name: given.pop(each.name) for each in options})
            return function(**given, **{name: group})

        every = [*own, *options]
        command.__signature__ = signature.replace(parameters=every)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in every}
        del command.__wrapped__  # typer must see the options, not what is behind them
        return command  # type: ignore[return-value]

    return decorate


def _make_parameters(cls: type, defaults: dict[str, Any]) -> list[inspect.Parameter]:
    kinds = get_type_hints(cls, include_extras=True)
    return [
        inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults.get(each.name, each.default),
            annotation=kinds[each.name],
        )
        for each in fields(cls)
    ]
