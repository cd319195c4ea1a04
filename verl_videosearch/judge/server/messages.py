"""What requests and answers look like: the models behind the OpenAPI page."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

VIDEO = "A name that an upload has given, or the path of a file below the served folders."
MAX_NAME_CHARS = 1024


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class PairRequest(_Request):
    """Two videos of one prompt."""

    prompt: str = Field(min_length=1, description="Text prompt that both videos were made from.")
    video_1: str = Field(min_length=1, max_length=MAX_NAME_CHARS, description=VIDEO)
    video_2: str = Field(min_length=1, max_length=MAX_NAME_CHARS, description=VIDEO)


class CompareRequest(PairRequest):
    """Which of the two is better?"""

    deadline_s: float | None = Field(None, gt=0, description="Most seconds, waiting included.")


class RankRequest(_Request):
    """The clips of one prompt, to be put in order."""

    prompt: str = Field(min_length=1)
    videos: list[str] = Field(min_length=2, description=VIDEO)
    max_comparisons: int | None = Field(None, ge=1, le=100_000, description="Most new pairs.")
    deadline_s: float | None = Field(None, gt=0)


class RewardRequest(_Request):
    """The clips of one prompt, to be scored for reinforcement learning."""

    prompt: str = Field(min_length=1)
    clips: list[str] = Field(min_length=1, description=VIDEO)
    anchor: str | None = Field(None, description="Compare with this video instead of one another.")
    max_comparisons: int | None = Field(None, ge=1, le=100_000)
    deadline_s: float | None = Field(None, gt=0)


class BatchRequest(_Request):
    """Many pairs, judged in the background."""

    pairs: list[PairRequest] = Field(min_length=1)


class ErrorBody(BaseModel):
    """Why there is no result."""

    reason: str = Field(description="For programs: bad_video, busy, deadline, ...")
    detail: str = Field(description="For people.")


class ErrorAnswer(BaseModel):
    """Every answer that is not 2xx."""

    error: ErrorBody


class UploadAnswer(BaseModel):
    """The name of an uploaded video."""

    video: str


class CompareAnswer(BaseModel):
    """What `Comparison.to_json` holds, without whole episodes."""

    model_config = ConfigDict(extra="allow")

    overall: int | None = Field(description="1 or 2: that video is better; 0: a tie; null: unread.")
    winner: str | None
    verdicts: dict[str, int] | None
    confidence: float | None = Field(
        description="Calibrated probability; null without calibration."
    )
    orders_agree: bool | None


class RankAnswer(BaseModel):
    """Clips from best to worst."""

    model_config = ConfigDict(extra="allow")

    clips: list[dict[str, Any]]
    cycles: list[list[str]]


class RewardAnswer(BaseModel):
    """A score for every clip, in 0..1; null for a clip that no answer is about."""

    scores: list[float | None]
    num_comparisons: int
    num_flips: int
    num_failed: int


class BatchAnswer(BaseModel):
    """Where a batch stands."""

    id: str
    state: str = Field(description="running, done or cancelled")
    created_s: float
    num_pairs: int
    num_done: int
    num_failed: int
    num_cancelled: int


class BatchResults(BaseModel):
    """What became of the pairs of a batch."""

    results: list[dict[str, Any]]


class HealthAnswer(BaseModel):
    """Whether the server takes requests."""

    status: str = Field(description="ok or draining")
    num_running: int
    num_waiting: int
    num_batch_pairs: int
