"""LiFT-HRA (Fudan): a question about a video and an answer that starts with Good, Normal or Bad, in
LLaVA's JSON form.

    {"video": "videos/1.mp4", "conversations": [
        {"from": "human", "value": "<video>\\n A crane stands in water. Please identify the fidelity
        issues ..."}, {"from": "gpt", "value": "Good. The crane looks real."}]}

A video has up to three rows, one per question: semantic consistency (TA), fidelity (VQ), motion
(MQ). Good is 2, Normal 1, Bad 0. The prompt is what stands between `<video>` and the question.
"""

from __future__ import annotations

import re

from verl_videosearch.judgement import Dimension
from verl_videosearch.sources.fields import read_text, read_video
from verl_videosearch.sources.source import BadRow, DropReason, RatedVideo, RatingTable, Row, Source

QUESTIONS = {"semantic consistency": "TA", "fidelity": "VQ", "motion": "MQ"}
RATINGS = {"good": 2.0, "normal": 1.0, "bad": 0.0}
DIMENSIONS = (
    Dimension(
        "TA",
        "Semantic Consistency",
        "how well subjects, number, colour, scene and style match the prompt",
    ),
    Dimension(
        "VQ",
        "Fidelity",
        "how real people, animals and objects look, without missing or deformed parts",
    ),
    Dimension("MQ", "Motion", "how continuous, smooth and physically plausible the motion is"),
)
_QUESTION = re.compile(rf"\s*please identify the ({'|'.join(QUESTIONS)})", re.I)
_ANSWER = re.compile(rf"\W*({'|'.join(RATINGS)})\b", re.I)


def to_rating(row: Row) -> RatedVideo:
    question, answer = _read_exchange(row)
    asked, answered = _QUESTION.search(question), _ANSWER.match(answer)
    if asked is None or answered is None:
        raise BadRow(DropReason.NO_RATING, f"{answer!r:.40} to {question!r:.40}")
    prompt = {"prompt": question[: asked.start()].replace("<video>", " ")}
    return RatedVideo(
        prompt=read_text(prompt, "prompt", DropReason.NO_PROMPT),
        video=read_video(row, "video"),
        ratings={QUESTIONS[asked[1].lower()]: RATINGS[answered[1].lower()]},
    )


def _read_exchange(row: Row) -> tuple[str, str]:
    """Return (question, answer) of a row; raises `BadRow` unless there are both."""
    turns = row.get("conversations")
    said: dict[str, str] = {}
    for turn in turns if isinstance(turns, list) else []:
        speaker, text = (
            (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        )
        if isinstance(speaker, str) and isinstance(text, str):
            said.setdefault(speaker, text)
    if not {"human", "gpt"} <= set(said):
        raise BadRow(DropReason.NO_RATING, "no question and answer")
    return said["human"], said["gpt"]


SOURCE = Source(
    name="lift_hra",
    title="LiFT-HRA 10K and 20K (Fudan-FUXI, MIT)",
    splits={
        "train": RatingTable(
            ("LiFT-HRA-data.json", "*.json"), ("video", "conversations"), to_rating, DIMENSIONS
        )
    },
)
