"""The options by which every program says who writes replies: one set, one wording.

The one idea: a command has a parameter `source: ModelSource`, and `takes_source` puts the options
in its place, made from ModelSource's fields.

    @app.command()
    @takes_source(temperature=0.7)                 # another default for this program
    def ask(out: Path, source: ModelSource): ...
    # videosearch ask --out a --endpoint URL --model m

Covers: typer, and any reader of signatures (`inspect.signature`). Does not cover: options of
episodes and runs."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from verl_videosearch.checkpoint import OVERRIDE
from verl_videosearch.models.said import quote

Function = TypeVar("Function", bound=Callable[..., Any])
_PARAMETER, _REFUSED = "source", 2

_KINDS: dict[str, Any] = {
    "endpoints": Annotated[
        list[str] | None,
        typer.Option(
            "--endpoint",
            help="OpenAI-compatible server, as http://localhost:8000/v1; several share the work.",
        ),
    ],
    "serve": Annotated[
        Path | None, typer.Option(help="Checkpoint: start vLLM for it, on every GPU, and stop it.")
    ],
    "local": Annotated[
        Path | None, typer.Option(help="Small checkpoint: load it into this process, no server.")
    ],
    "model": Annotated[
        str,
        typer.Option(help="Name under which the server knows the model; default: its folder's."),
    ],
    "serve_options": Annotated[
        list[str] | None,
        typer.Option(
            "--serve-option", help="Option of vllm serve: --max-model-len=4096; repeatable."
        ),
    ],
    "num_replicas": Annotated[
        int | None,
        typer.Option("--replicas", min=1, help="Servers of --serve; default: one per GPU."),
    ],
    "extra_body": Annotated[
        str | None,
        typer.Option("--extra-body", help="JSON object: further fields of every request."),
    ],
    "chat_template_kwargs": Annotated[
        str | None,
        typer.Option(
            "--chat-template-kwargs",
            help='JSON object for the chat template: {"enable_thinking": false}.',
        ),
    ],
    "max_tokens_parameter": Annotated[
        str, typer.Option(help="Name of the token limit in a request: max_completion_tokens.")
    ],
    "key_variable": Annotated[str, typer.Option(help="Environment variable with the key.")],
    "temperature": Annotated[float, typer.Option(min=0, help="Of the model; 0 is greedy.")],
    "top_p": Annotated[
        float, typer.Option(min=0, max=1, help="Share of the probability that is sampled from.")
    ],
    "max_turn_tokens": Annotated[int, typer.Option(min=1, help="Most tokens of one reply.")],
    "timeout_s": Annotated[
        float,
        typer.Option("--request-timeout-s", "--timeout-s", help="Most seconds of one request."),
    ],
    "max_requests_per_minute": Annotated[
        float | None, typer.Option("--rate", help="Most requests per minute to each endpoint.")
    ],
}
"""How each field of ModelSource is written on the command line."""

AcceptOtherSettings = Annotated[
    bool,
    typer.Option(
        OVERRIDE, help="Ask a checkpoint otherwise than it was trained (its videosearch.json)."
    ),
]
"""For every program that plays a checkpoint."""
PriceIn = Annotated[
    float | None, typer.Option(min=0, help="Price of a million prompt tokens, for the estimate.")
]
PriceOut = Annotated[
    float | None, typer.Option(min=0, help="Price of a million reply tokens, for the estimate.")
]


def takes_source(
    is_optional: bool = False, alias: str = "", no_alias: str = "", **defaults: Any
) -> Callable[[Function], Function]:
    """Replace a command's parameter `source` by its options; `defaults` are this program's own.

    The seed is the program's: a parameter `seed` of the command is passed on to the source. With
    `is_optional` the source is None where none is named. `alias` is a parameter of the command that
    may hold a URL, another word for --endpoint; `no_alias` is its value that is none."""
    from verl_videosearch.models.source import ModelSource

    if unknown := sorted(set(defaults) - set(_KINDS)):
        raise TypeError(f"no options of a source: {unknown}; there are {sorted(_KINDS)}")

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function, eval_str=True)
        own = [each for name, each in signature.parameters.items() if name != _PARAMETER]
        taken = {each.name for each in own}
        options = [
            _make_parameter(n, kind, defaults) for n, kind in _KINDS.items() if n not in taken
        ]

        @functools.wraps(function)
        def command(**given: Any) -> Any:
            values = {each.name: given.pop(each.name) for each in options}
            if "seed" in given:
                values["seed"] = given["seed"]
            if alias and given[alias] != no_alias:
                values["endpoints"] = [*(values["endpoints"] or ()), given[alias]]
            is_named = any(values[name] for name in ("endpoints", "serve", "local"))
            try:
                source = None if is_optional and not is_named else read_source(ModelSource, values)
            except ValueError as error:
                typer.echo(f"error: {quote(error, 4000)}", err=True)
                raise typer.Exit(_REFUSED) from error
            return function(**given, **{_PARAMETER: source})

        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [each.replace(kind=keyword) for each in (*own, *options)]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        del command.__wrapped__  # typer must see the options, not what is behind them
        return command  # type: ignore[return-value]

    return decorate


def read_source(cls: type, values: Mapping[str, Any]) -> Any:
    """Build a source from options as they are typed; raises `ValueError`."""
    typed = dict(values)
    for name in ("endpoints", "serve_options"):
        if name in typed:
            typed[name] = tuple(typed[name] or ())
    for name in ("extra_body", "chat_template_kwargs"):
        if name in typed:
            typed[name] = read_object(name, typed[name])
    return cls(**typed)


def read_object(name: str, text: str | None) -> Mapping[str, Any]:
    """Read an option that holds a JSON object.

    >>> read_object("extra_body", '{"top_k": 5}'), read_object("extra_body", None)
    ({'top_k': 5}, {})
    """
    if not text:
        return {}
    option = f"--{name.replace('_', '-')}"
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{option} takes a JSON object, got {text!r}: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"""{option} takes a JSON object such as {{"top_k": 5}}, got {text!r}""")
    return value


def _make_parameter(name: str, kind: Any, defaults: Mapping[str, Any]) -> inspect.Parameter:
    from verl_videosearch.models.source import ModelSource

    default = defaults.get(name, ModelSource.__dataclass_fields__[name].default)
    if not isinstance(default, str | int | float):  # tuples and mappings start empty
        default = None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
