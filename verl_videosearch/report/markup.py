"""The one HTML engine: jinja2 templates in `templates/`, in which everything from outside is
escaped.

>>> render_text("{{ words }}", words="<script>")
'&lt;script&gt;'

Every page names its own script and style by their hashes in its Content-Security-Policy and allows
nothing else: whatever stands in a prompt or a reply neither runs nor asks anybody for anything.

Covers: rendering, the policy. Does not cover: what stands on a page (`page`, `episode_page`)."""

from __future__ import annotations

import base64
import hashlib
import os
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from verl_videosearch.extras import Extra, require


@lru_cache(maxsize=1)
def _environment() -> Any:
    jinja2 = require("jinja2", Extra.JUDGE)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("verl_videosearch.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["asset"] = read_asset
    environment.globals["policy"] = describe_policy
    return environment


def render(name: str, **values: Any) -> str:
    """Return a template of `templates/` filled in; a value that it needs and does not get is an
    error."""
    return _environment().get_template(name).render(**values)


def render_text(text: str, **values: Any) -> str:
    """Return a template given as text, filled in."""
    return _environment().from_string(text).render(**values)


def mark_safe(text: str) -> Any:
    """Mark what a template of ours has made, so that it is not escaped twice."""
    return require("markupsafe", Extra.JUDGE).Markup(text)


@lru_cache(maxsize=16)
def read_asset(name: str) -> Any:
    """Return a style or script of `templates/`, to be put on a page as it is."""
    path = files("verl_videosearch.report").joinpath("templates", name)
    return mark_safe(path.read_text("utf-8"))


def describe_policy(styles: tuple[str, ...] = (), scripts: tuple[str, ...] = ()) -> str:
    """Return the Content-Security-Policy of a page that holds just these styles and scripts.

    >>> describe_policy()
    "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'"
    """
    parts = ["default-src 'none'", "img-src data:", "base-uri 'none'", "form-action 'none'"]
    for kind, names in (("style-src", styles), ("script-src", scripts)):
        if names:
            hashes = " ".join(f"'sha256-{_hash(str(read_asset(name)))}'" for name in names)
            parts.append(f"{kind} {hashes}")
    return "; ".join(parts)


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def write_page(path: str | Path, text: str) -> Path:
    """Write a page in one step, so that nobody reads half of it; returns its path.

    Lone surrogates, which UTF-8 cannot hold, become question marks."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, "utf-8", errors="replace")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
