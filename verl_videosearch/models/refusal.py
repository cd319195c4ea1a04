"""Read a server's refusal: another try may help, this pair never will, or nothing on this server
will.

The one idea: servers say the same thing in many words. Status, code, type and wording are read
once, here, into one of four exceptions:

| what it said | becomes |
|---|---|
| the context is too long (any of the wordings below) | `ContextTooLong`: it ends as `overlong` |
| 401 to 405, 410, a redirect, 429 for a quota that has ended | `ServerUnusable`: the run stops |
| 408, 409, 425, 429, 5xx | `EpisodeFailure`, passing, with the time to wait if it names one |
| any other 4xx | `EpisodeFailure`, permanent for this pair |

Sources of the wordings: vLLM (0.4 to 0.24), SGLang, llama.cpp, Ollama, text-generation-inference,
LM Studio, OpenAI and providers that speak its protocol, as their source or public logs have them.
"""

from __future__ import annotations

import email.utils
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from verl_videosearch.failures import (
    ContextTooLong,
    EpisodeFailure,
    FailureKind,
    ServerUnusable,
)
from verl_videosearch.models.said import quote
from verl_videosearch.models.transport import Answer

UNUSABLE_STATUSES = frozenset({401, 402, 403, 404, 405, 410})
"""No request of this run can succeed: wrong key, no money, no such model or path."""
PASSING_STATUSES = frozenset({408, 409, 425, 429})
"""And every status from 500."""
OVERLONG_CODES = frozenset(
    {
        "context_length_exceeded",  # OpenAI
        "exceed_context_size_error",  # llama.cpp
        "model_max_prompt_tokens_exceeded",  # GitHub's models
        "model_context_window_exceeded",
        "context_window_exceeded",
    }
)
SPENT_CODES = frozenset(
    {
        "insufficient_quota",  # OpenAI
        "billing_hard_limit_reached",
        "billing_not_active",
        "insufficient_balance",
        "credit_balance_too_low",
    }
)
_OVERLONG = re.compile(
    r"""
    maximum\ (context|model|prompt|sequence)\ length          # vLLM, SGLang, OpenAI, xAI, Mistral
    | longer\ than\ the\ (maximum\ model|model's\ (maximum\ )?context)\ length    # vLLM; SGLang
    | too\ long\ to\ fit\ into\ the\ model                     # vLLM 0.6 to 0.10
    | exceeds?\ the\ maximum\ allowed\ (input\ )?length        # SGLang's router
    | exceeds?\ (the\ )?model'?s?\ (maximum\ )?context
    | exceeds?\ the\ available\ context\ size                  # llama.cpp
    | context\ size\ (has\ been\ )?exceeded                    # llama.cpp, while generating
    | (input\ )?prompt\ is\ too\ big\ compared\ to\ KV\ size   # llama.cpp, older
    | exceed(s|ed)?\ (the\ |max\ |maximum\ )*context\ (length|window|limit)       # Ollama, OpenAI
    | context\ (length|window)\ (was\ |is\ |has\ been\ )?exceeded
    | `?inputs`?\ tokens\ \+\ `?max_new_tokens`?\ must\ be\ <=  # TGI
    | `?inputs`?\ must\ have\ less\ than\ \d+\ tokens
    | exceeds?\ the\ (configured\ )?limit\ of\ \d+             # Azure, Copilot
    | exceeds?\ the\ maximum\ number\ of\ tokens               # Gemini
    | prompt\ (is\ )?too\ long                                 # Anthropic, Ollama
    | input\ is\ too\ long\ for\ (the\ )?(requested\ )?model   # Bedrock
    | too\ large\ for\ model\ with                             # Mistral
    | with\ context\ length\ of\ only                          # LM Studio
    | reduce\ the\ length\ of\ the\ (messages|prompt|input)    # OpenAI, Groq
    """,
    re.IGNORECASE | re.VERBOSE,
)
_MAX_SHOWN = 400


@dataclass(frozen=True)
class Complaint:
    """What a refusal's body says."""

    message: str
    codes: frozenset[str] = frozenset()
    """Its code and type, in lower case."""

    @property
    def is_overlong(self) -> bool:
        return bool(self.codes & OVERLONG_CODES) or bool(_OVERLONG.search(self.message))

    @property
    def is_spent(self) -> bool:
        return bool(self.codes & SPENT_CODES)


@dataclass(frozen=True)
class Asker:
    """Who asked whom, for messages."""

    url: str
    model: str
    key_variable: str
    key: str | None = None
    episode: str = ""
    """The pair and its order."""

    def __repr__(self) -> str:
        return f"Asker({self.url!r}, {self.model!r}, {self.episode!r})"


def read_complaint(body: bytes) -> Complaint:
    """Read the body of a refusal, in any of the forms that are in use.

    >>> read_complaint(b'{"error": {"message": "no", "code": "insufficient_quota"}}').is_spent
    True
    >>> read_complaint(b'{"error": "`inputs` must have less than 9 tokens. Given: 10"}').is_overlong
    True
    >>> read_complaint(b"<html>Bad Gateway</html>").message
    '<html>Bad Gateway</html>'
    """
    text = body.decode("utf-8", "replace").strip()
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return Complaint(text)
    found = content
    for name in ("error", "detail"):
        if isinstance(content, Mapping) and content.get(name):
            found = content[name]
            break
    message: Any = found
    if isinstance(found, Mapping):
        message = next((found[n] for n in ("message", "msg", "error") if found.get(n)), found)
    sources = [each for each in (found, content) if isinstance(each, Mapping)]
    names = ("code", "type", "error_type", "errorType")
    codes = {str(each[n]).lower() for each in sources for n in names if each.get(n)}
    return Complaint(message if isinstance(message, str) else json.dumps(message), frozenset(codes))


def read_refusal(answer: Answer, asker: Asker) -> Exception:
    """Return the exception that a status other than 200 stands for."""
    complaint = read_complaint(answer.body)
    words = describe(answer.status, complaint, asker)
    if (
        complaint.is_overlong
        and 400 <= answer.status <= 500
        and answer.status not in (401, 403, 404)
    ):
        return ContextTooLong(words)
    if answer.status in UNUSABLE_STATUSES or 300 <= answer.status < 400:
        return ServerUnusable(f"{words}; {_advise(answer, asker)}")
    if answer.status == 429 and complaint.is_spent:
        return ServerUnusable(
            f"{words}; its quota has ended: repeat the command when there is a new one, "
            "nothing is lost"
        )
    return EpisodeFailure(
        FailureKind.SERVER,
        words,
        asker.episode,
        f"http_{answer.status}",
        is_passing=answer.status in PASSING_STATUSES or answer.status >= 500,
        retry_after_s=read_retry_after(answer.headers),
    )


def describe(status: int, complaint: Complaint, asker: Asker) -> str:
    """Write who refused what, with the server's own sentence, made harmless and without the key."""
    message = complaint.message.replace(asker.key, "***") if asker.key else complaint.message
    episode = f" (asked for {quote(asker.episode)})" if asker.episode else ""
    said = quote(" ".join(message.split()), _MAX_SHOWN) or "no word"
    return f"{asker.url} answers model {asker.model!r} with {status}{episode}: {said}"


def read_retry_after(headers: Mapping[str, str], now_s: float | None = None) -> float | None:
    """Return the seconds that a server asks to wait; None if it names none that can be read.

    >>> read_retry_after({"retry-after": "7"}), read_retry_after({"retry-after-ms": "250"})
    (7.0, 0.25)
    >>> read_retry_after({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, now_s=90.0)
    10.0
    """
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name, "")
        if re.fullmatch(r"\s*\d{1,9}(\.\d{1,6})?\s*", value, re.ASCII):
            return float(value) / scale
    try:
        moment = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
        return max(moment.timestamp() - (time.time() if now_s is None else now_s), 0.0)
    except (TypeError, ValueError, OverflowError):
        return None


def _advise(answer: Answer, asker: Asker) -> str:
    if 300 <= answer.status < 400:
        place = quote(answer.headers.get("location", "another address"), 200)
        return f"it points to {place}; give the final URL as --endpoint"
    if answer.status in (401, 403):
        return f"check the key in ${asker.key_variable}"
    if answer.status == 402:
        return "its credit has ended; nothing is lost, repeat the command when there is more"
    return "check the URL (most end in /v1) and the model's name"
