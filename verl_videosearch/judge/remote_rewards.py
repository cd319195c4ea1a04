"""Scores of clips from a judge on another machine: what a trainer calls beside `videosearch serve`.

    scores = ask_rewards("http://judge:8080", prompt, clips, token=os.environ["TOKEN"])

The one idea: the same clips and the same scores as `reward.ClipRewards`, with HTTP in between; the
server remembers comparisons by the clips' content, so a repeated group is answered at once.

Covers: uploads, one group, refusals as typed failures. Does not cover: retries - a passing failure
says after how many seconds to ask again."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from verl_videosearch.extras import Extra, require
from verl_videosearch.failures import EpisodeFailure, FailureKind, ServerUnusable
from verl_videosearch.judge.clips import Clips, write_clips
from verl_videosearch.models.address import hide_password, read_address

PASSING = (408, 429, 502, 503, 504)
"""Statuses after which the same request may succeed."""
UNUSABLE = (*range(300, 400), 401, 403, 404, 405)
"""Statuses of a wrong address or token: no request will succeed."""
_MAX_QUOTED = 100
Content = TypeVar("Content", bound=msgspec.Struct)


class Uploaded(msgspec.Struct):
    """What `POST /v1/videos` answers."""

    video: str


class Scored(msgspec.Struct):
    """What `POST /v1/reward` answers, as far as it is needed."""

    scores: list[Annotated[float, msgspec.Meta(ge=0, le=1)] | None]


class Why(msgspec.Struct):
    """The reason of a refusal."""

    reason: str = "unknown"
    detail: str = ""


class Refused(msgspec.Struct):
    """What the server answers with any other status."""

    error: Why


def ask_rewards(
    server: str,
    prompt: str,
    clips: Clips,
    anchor: Any = None,
    *,
    token: str | None = None,
    max_comparisons: int | None = None,
    timeout_s: float = 300.0,
) -> list[float]:
    """Return a score in 0..1 for every clip: its win rate in the group, or against `anchor`.

    Raises `EpisodeFailure` when a clip has no score or the server refuses (passing where asking
    again may help), and `ServerUnusable` for a wrong address or token."""
    with (
        tempfile.TemporaryDirectory(prefix="videosearch-clips-") as folder,
        _connect(server, token, timeout_s) as client,
    ):
        paths = write_clips(clips, Path(folder))
        names = [_upload(client, path) for path in paths]
        asked = {"prompt": prompt, "clips": names, "deadline_s": timeout_s}
        if anchor is not None:
            asked["anchor"] = _upload(client, write_clips([anchor], Path(folder))[0])
        if max_comparisons is not None:
            asked["max_comparisons"] = max_comparisons
        scores = _send(client, "/v1/reward", Scored, json=asked).scores
    if len(scores) != len(paths):
        raise ServerUnusable(
            f"{hide_password(server)} gave {len(scores)} scores for {len(paths)} clips: it is not "
            "the judge server of this version"
        )
    missing = [index for index, score in enumerate(scores) if score is None]
    if missing:
        detail = f"no score for the clips {missing}: no answer is about them"
        raise EpisodeFailure(FailureKind.SIBLING, detail, cause="no_score")
    return [score for score in scores if score is not None]


def _connect(server: str, token: str | None, timeout_s: float) -> Any:
    """Return a client of the server; raises `ServerUnusable` for what is no address or token."""
    httpx = require("httpx", Extra.JUDGE)
    if token is not None and not (token.isascii() and token.isprintable()):
        raise ServerUnusable(
            "the token holds a character that no header may hold; look for a line "
            "end in the variable or file that it comes from"
        )
    try:
        address = read_address(server)
    except ValueError as error:
        raise ServerUnusable(
            "the server must be a URL that starts with http:// or https:// and names a host, such "
            f"as http://judge:8080, got {hide_password(server)!r}"
        ) from error
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    login = None if address.user is None else (address.user, address.password or "")
    return httpx.Client(base_url=address.url, headers=headers, auth=login, timeout=timeout_s)


def _upload(client: Any, path: Path) -> str:
    """Send one video; returns the name that the server gave it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EpisodeFailure(FailureKind.VIDEO, f"{path} cannot be read: {error}") from error
    return _send(client, "/v1/videos", Uploaded, content=content).video


def _send(client: Any, route: str, expected: type[Content], **body: Any) -> Content:
    """Post one request; a refusal becomes the failure that it stands for."""
    httpx = require("httpx", Extra.JUDGE)
    address = f"{str(client.base_url).rstrip('/')}{route}"
    try:
        answer = client.post(route, **body)
    except httpx.RequestError as error:
        detail = f"{address}: {type(error).__name__}: {error}"
        raise EpisodeFailure(FailureKind.SERVER, detail, is_passing=True) from error
    if not answer.is_success:
        raise _read_refusal(answer, address)
    content = _read(answer, expected)
    if content is None:
        raise ServerUnusable(
            f"{address} is not a judge server (`videosearch serve`): it answered {_quote(answer)}"
        )
    return content


def _read_refusal(answer: Any, address: str) -> Exception:
    """Return what a status stands for; the body only adds words."""
    refused = _read(answer, Refused)
    why = Why(detail=_quote(answer)) if refused is None else refused.error
    detail = f"{address} answered {answer.status_code}: {why.detail}"
    if answer.status_code in UNUSABLE:
        return ServerUnusable(f"{detail}; check the address and the token")
    wait = answer.headers.get("Retry-After", "")
    return EpisodeFailure(
        FailureKind.SERVER,
        detail,
        cause=why.reason,
        is_passing=answer.status_code in PASSING,
        retry_after_s=float(wait) if wait.isdecimal() else None,
    )


def _read(answer: Any, expected: type[Content]) -> Content | None:
    """Read a body; None if it is not what was expected."""
    try:
        return msgspec.json.decode(answer.content, type=expected)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _quote(answer: Any) -> str:
    """Show the beginning of a body that is not ours."""
    return repr(answer.text[:_MAX_QUOTED]) if answer.text else "nothing"
