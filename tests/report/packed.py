"""What a page of episodes holds packed, for tests that read it without a browser."""

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any


def unpack_block(html: str, name: str) -> str:
    """Return what the page's script finds under a name."""
    content = html.split(f'id="{name}"', 1)[1].split(">", 1)[1].split("<", 1)[0]
    return zlib.decompress(base64.b64decode(content)).decode()


def unpack_pairs(path: Path) -> str:
    """Return the markup of all pairs of a page."""
    html = path.read_text("utf-8")
    names = re.findall(r'<div hidden id="(p\d+)">', html)
    return "\n".join(unpack_block(html, name) for name in names)


def read_index(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a page's list."""
    return json.loads(unpack_block(path.read_text("utf-8"), "index"))
