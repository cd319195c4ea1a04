"""A password in a URL is split off at the door and shown to nobody."""

import pytest

from verl_videosearch.models.address import Address, hide_password, read_address


@pytest.mark.parametrize(
    ("text", "url", "user", "password"),
    [
        ("http://host:8000/v1", "http://host:8000/v1", None, None),
        ("https://anna:s%40cret@host/v1/", "https://host/v1", "anna", "s@cret"),
        ("http://token@host/v1", "http://host/v1", "token", None),
        ("http://a:b@c@[::1]:80/v1", "http://[::1]:80/v1", "a", "b@c"),
    ],
)
def test_a_url_is_split(text: str, url: str, user: str | None, password: str | None) -> None:
    address = read_address(text)
    assert (address.url, address.user, address.password) == (url, user, password)
    assert password is None or password not in repr(address)


@pytest.mark.parametrize(
    "text",
    [
        "localhost:8000",
        "ftp://anna:secret@host",
        "http://",
        "",
        "http://anna:secret@host:port/v1",
        "http://anna:secret@host/v1\n",
        "http://[::1/anna:secret@",
    ],
)
def test_what_is_no_address_is_refused_without_its_password(text: str) -> None:
    with pytest.raises(ValueError, match="an endpoint must be a URL") as error:
        read_address(text)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "http://host/v1?api-key=secret",
        "http://anna:b@host/v1?x=secret",
        "http://host/v1;secret?",
        "http://host/v1#secret",
    ],
)
def test_a_key_in_the_query_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ValueError, match="--key-variable") as error:
        read_address(text)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("anna:secret@host/v1", "***@host/v1"), ("http://host/v1", "http://host/v1")],
)
def test_hiding(text: str, shown: str) -> None:
    assert hide_password(text) == shown


@pytest.mark.parametrize(
    ("url", "is_local"),
    [
        ("http://127.0.0.1:80", True),
        ("http://localhost/v1", True),
        ("http://[::1]:9", True),
        ("http://gpu7/v1", False),
        ("http://10.0.0.1/v1", False),
    ],
)
def test_this_machine_is_known(url: str, is_local: bool) -> None:
    assert Address(url).is_local is is_local
