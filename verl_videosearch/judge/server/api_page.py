"""The page at /docs: every route of the server, its fields and its answers, as one static document.

The one idea: it is written from the OpenAPI description and loads nothing - no script, no font, no
address of anybody else - so it also opens on a machine without a network.

>>> schema = {"info": {"title": "judge"}, "paths": {"/x": {"get": {"description": "Say <x>."}}}}
>>> page = render_api_page(schema)
>>> "GET /x" in page, "&lt;x&gt;" in page, "<script" in page
(True, True, False)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from verl_videosearch.report.page import render_page
from verl_videosearch.report.table import Table

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""Content-Security-Policy of the page: its own style and nothing else."""
Schema = Mapping[str, Any]


def render_api_page(schema: Schema) -> str:
    """Return the page of an OpenAPI description."""
    blocks = [
        _describe_route(schema, method, path, operation)
        for path, operations in schema["paths"].items()
        for method, operation in operations.items()
    ]
    facts = [("For programs", "/openapi.json"), ("Limits and examples", "docs/judge.md")]
    return render_page(schema["info"]["title"], blocks, facts)


def _describe_route(schema: Schema, method: str, path: str, operation: Schema) -> Table:
    """One table a route: what goes in, then what comes back."""
    rows = [_describe_parameter(each) for each in operation.get("parameters", ())]
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        body = _resolve(schema, content.get("schema", {}))
        rows += list(_list_fields(body)) or [("body", kind, "the file itself")]
    for status, answer in operation.get("responses", {}).items():
        rows.append((f"-> {status}", "answer", answer.get("description", "")))
    title = f"{method.upper()} {path}"
    return Table(title, ("field", "type", "meaning"), rows, operation.get("description", ""))


def _describe_parameter(parameter: Schema) -> tuple[str, str, str]:
    name, place = parameter["name"], f"in the {parameter['in']}"
    return name, _name_type(parameter.get("schema", {})), parameter.get("description", place)


def _list_fields(body: Schema) -> Iterator[tuple[str, str, str]]:
    required = body.get("required", ())
    for name, field in body.get("properties", {}).items():
        words = field.get("description", "")
        yield name, _name_type(field), words if name in required else f"{words} (optional)".strip()


def _resolve(schema: Schema, node: Schema) -> Schema:
    """Follow a reference into the description's own components."""
    name = node.get("$ref", "").rpartition("/")[2]
    return schema["components"]["schemas"][name] if name else node


def _name_type(field: Schema) -> str:
    """Say a type in words.

    >>> _name_type({"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]})
    'list of string or null'
    """
    if "anyOf" in field:
        return " or ".join(map(_name_type, field["anyOf"]))
    if field.get("type") == "array":
        return f"list of {_name_type(field.get('items', {}))}"
    return str(field.get("type") or field.get("$ref", "").rpartition("/")[2] or "any")
