"""Address: where a server is, in two parts - what may be shown, and what must not.

The one idea: a URL with a user and a password is split once, at the door. Files, messages and reprs
only ever see the address without them.

>>> address = read_address("http://anna:secret@gpu7:8000/v1/")
>>> address.url, address
('http://gpu7:8000/v1', Address(url='http://gpu7:8000/v1'))
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit, urlunsplit


@dataclass(frozen=True)
class Address:
    """One OpenAI-compatible server."""

    url: str
    """Base of its API without user and password, such as http://localhost:8000/v1."""
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def is_local(self) -> bool:
        """True on this machine, which is never asked through a proxy."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


def read_address(text: str) -> Address:
    """Split a URL; raises `ValueError` (without repeating a password) if it is none, or has a
    query, in which some services take a key."""
    try:
        parts = urlsplit(text)
        has_host = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port  # raises if it is no number
    except ValueError:
        has_host = False
    if not has_host or any(
        character.isspace() or not character.isprintable() for character in text
    ):
        raise ValueError(
            "an endpoint must be a URL that starts with http:// or https:// and names a host, "
            f"such as http://localhost:8000/v1, got {hide_password(text)!r}"
        )
    if (
        "?" in text or "#" in text or ";" in parts.path
    ):  # requests go below it; a key there would be shown
        shown = re.split("[?#;]", hide_password(text))[0]
        raise ValueError(
            f"an endpoint ends with its path, got {shown}... and more behind it; a key goes into "
            "the variable that --key-variable names"
        )
    user, password = parts.username, parts.password
    host = parts.netloc.rpartition("@")[2]
    url = urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
    return Address(
        url,
        None if user is None else unquote(user),
        None if password is None else unquote(password),
    )


def hide_password(text: str) -> str:
    """Leave out what stands before the last @, for a text that is no proper URL.

    >>> hide_password("http://anna:se/cret@host/v1"), hide_password("anna:secret@host")
    ('http://***@host/v1', '***@host')
    """
    scheme, slashes, rest = text.partition("://") if "://" in text else ("", "", text)
    _, at, host = rest.rpartition("@")
    return scheme + slashes + (f"***@{host}" if at else host)
