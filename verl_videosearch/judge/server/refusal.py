"""Refusal: why a request gets no result - a status and a sentence for the one who asked."""

from __future__ import annotations

from enum import Enum

from starlette.exceptions import HTTPException


class Reason(str, Enum):
    """Machine-readable part of a refusal; the status that goes with it."""

    BAD_REQUEST = "bad_request"
    UNAUTHORIZED = "unauthorized"
    NOT_FOUND = "not_found"
    SLOW_BODY = "slow_body"
    TOO_LARGE = "too_large"
    BAD_VIDEO = "bad_video"
    INVALID = "invalid"
    MODEL_REFUSED = "model_refused"
    BUSY = "busy"
    MODEL_AWAY = "model_away"
    DRAINING = "draining"
    DEADLINE = "deadline"
    INTERNAL = "internal"


STATUSES = {
    Reason.BAD_REQUEST: 400,
    Reason.UNAUTHORIZED: 401,
    Reason.NOT_FOUND: 404,
    Reason.SLOW_BODY: 408,
    Reason.TOO_LARGE: 413,
    Reason.BAD_VIDEO: 422,
    Reason.INVALID: 422,
    Reason.MODEL_REFUSED: 422,
    Reason.BUSY: 429,
    Reason.INTERNAL: 500,
    Reason.MODEL_AWAY: 503,
    Reason.DRAINING: 503,
    Reason.DEADLINE: 504,
}
RETRY_AFTER_S = 5
"""What 429 and 503 ask a client to wait."""
_HEADERS = {
    401: {"WWW-Authenticate": "Bearer"},
    429: {"Retry-After": str(RETRY_AFTER_S)},
    503: {"Retry-After": str(RETRY_AFTER_S)},
}


class Refusal(HTTPException):
    """A request is answered with a status and a reason instead of a result."""

    def __init__(self, reason: Reason, detail: str) -> None:
        status = STATUSES[reason]
        super().__init__(status, detail, _HEADERS.get(status))
        self.reason = reason

    def to_json(self) -> dict[str, dict[str, str]]:
        """Return the body of the answer."""
        detail = self.detail.encode("utf-8", "replace").decode()
        return {"error": {"reason": self.reason.value, "detail": detail}}
