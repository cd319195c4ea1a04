"""Write a request's body: the context as OpenAI's chat format has it, frames spliced in as they
lie.

The one idea: a body is some kB of JSON around megabytes of frames that are encoded already. Only
the former goes through the JSON encoder; each frame's data URL is joined in as bytes.

>>> hello = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
>>> write_body({"model": "m"}, hello, [])
b'{"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}'

Text of the system and of earlier replies is sent as plain text: some servers take nothing else."""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from verl_videosearch.episode import Message
from verl_videosearch.models.pictures import Picture

_MARK = f"picture-{secrets.token_hex(16)}-"
"""Stands for a data URL until the JSON is written; no text can hold it by chance."""


def write_body(
    fields: Mapping[str, Any],
    messages: Sequence[Message],
    pictures: Sequence[Picture],
    *,
    names_pictures: bool = False,
    known: Collection[str] = (),
) -> bytes:
    """Write one request; `pictures` stand, in order, for the image references of `messages`.

    `names_pictures` gives each its key, as vLLM's `uuid`; those in `known` are sent as a key
    only."""
    remaining = iter(enumerate(pictures))

    def convert(item: Mapping[str, Any]) -> Mapping[str, Any]:
        if item["type"] != "image":
            return item
        index, picture = next(remaining)
        name = {"uuid": picture.key} if names_pictures else {}
        if picture.key in known:
            return {"type": "image_url", "image_url": None} | name
        return {"type": "image_url", "image_url": {"url": f"{_MARK}{index}-"}} | name

    converted = [
        {"role": message["role"], "content": _convert_content(message, convert)}
        for message in messages
    ]
    text = json.dumps({**fields, "messages": converted})
    return _splice(text.encode("ascii"), pictures)


def _convert_content(message: Message, convert: Any) -> str | list[Any]:
    if message["role"] in ("assistant", "system"):
        return "".join(item["text"] for item in message["content"])
    return [convert(item) for item in message["content"]]


def _splice(text: bytes, pictures: Sequence[Picture]) -> bytes:
    """Put the data URLs where their marks stand."""
    start, *rest = text.split(_MARK.encode("ascii"))
    pieces = [start]
    for piece in rest:
        index, _, after = piece.partition(b"-")
        pieces += [pictures[int(index)].url, after]
    return b"".join(pieces)
