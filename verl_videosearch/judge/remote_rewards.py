"""Scores of clips from a judge on another machine: what a trainer calls beside `videosearch serve`.

    scores = ask_rewards("http://judge:8080", prompt, clips, token=os.environ["TOKEN"])

The one idea: the same clips and the same scores as `reward.ClipRewards`, with HTTP in between; the
server remembers comparisons by the clips' content, so a repeated group is answered at once.

Covers: uploads, one group, refusals as typed failures. Does not cover: retries - a passing failure
says after how many seconds to ask again."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from verl_videosearch.extras import Extra, require
from verl_videosearch.failures import EpisodeFailure, FailureKind, ServerUnusable
from verl_videosearch.judge.clips import Clips, write_clips

PASSING = (408, 429, 502, 503, 504)
"""Statuses after which the same request may succeed."""
UNUSABLE = (401, 403, 404, 405)
"""Statuses of a wrong address or token: no request will succeed."""


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
    httpx = require("httpx", Extra.JUDGE)
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    with (
        tempfile.TemporaryDirectory(prefix="videosearch-clips-") as folder,
        httpx.Client(base_url=server, headers=headers, timeout=timeout_s) as client,
    ):
        paths = write_clips(clips, Path(folder))
        names = [_upload(client, path) for path in paths]
        asked = {"prompt": prompt, "clips": names, "deadline_s": timeout_s}
        if anchor is not None:
            asked["anchor"] = _upload(client, write_clips([anchor], Path(folder))[0])
        if max_comparisons is not None:
            asked["max_comparisons"] = max_comparisons
        scores = _send(client, "/v1/reward", json=asked)["scores"]
    missing = [index for index, score in enumerate(scores) if score is None]
    if missing:
        detail = f"no score for the clips {missing}: no answer is about them"
        raise EpisodeFailure(FailureKind.SIBLING, detail, cause="no_score")
    return list(scores)


def _upload(client: Any, path: Path) -> str:
    """Send one video; returns the name that the server gave it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EpisodeFailure(FailureKind.VIDEO, f"{path} cannot be read: {error}") from error
    return str(_send(client, "/v1/videos", content=content)["video"])


def _send(client: Any, route: str, **body: Any) -> Any:
    """Post one request; a refusal becomes the failure that it stands for."""
    httpx = require("httpx", Extra.JUDGE)
    try:
        answer = client.post(route, **body)
        content = answer.json()
    except (httpx.TransportError, ValueError) as error:
        detail = f"{client.base_url}{route}: {type(error).__name__}: {error}"
        raise EpisodeFailure(FailureKind.SERVER, detail, is_passing=True) from error
    if answer.is_success:
        return content
    reason = content.get("error", {}).get("reason", "unknown")
    detail = f"{route} answered {answer.status_code}: {content.get('error', {}).get('detail')}"
    if answer.status_code in UNUSABLE:
        raise ServerUnusable(detail)
    wait = answer.headers.get("Retry-After", "")
    raise EpisodeFailure(
        FailureKind.SERVER,
        detail,
        cause=reason,
        is_passing=answer.status_code in PASSING,
        retry_after_s=float(wait) if wait.isdecimal() else None,
    )
