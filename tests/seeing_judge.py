"""A judge that looks: a small server whose verdict depends on the pixels it is sent, and pairs made
for it.

A pair's worse video has one white frame, outside the initial view. The judge asks for that frame of
both videos and prefers the darker answer; so it is always right with true frames, and other frames
change its mind. Faults of the server are planned by the number of the request.
"""

import base64
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.clips import write_clip
from tests.replies import call_frames
from tests.scripted_server import Handler, ScriptedServer, keep_serving
from verl_videosearch.sample import PreferenceSample, write_samples

NUM_FRAMES, HIDDEN = 8, 2
EPISODE = [
    "frames_per_video=8",
    "initial_frames_per_video=2",
    "max_tool_calls=1",
    "patch_multiple=28",
]
HIDDEN_NUMBERS = (HIDDEN + 1, NUM_FRAMES + HIDDEN + 1)
CLIPS = ("clean_a.mp4", "clean_b.mp4", "defect.mp4")
PAIRS = (
    [(1, "clean_a.mp4", "defect.mp4")] * 5
    + [(2, "defect.mp4", "clean_b.mp4")] * 4
    + [(0, *CLIPS[:2])] * 3
)
"""(label, video 1, video 2)."""

Judge = Callable[[dict[str, Any]], str]


def write_clips(folder: Path) -> None:
    grey = np.full((NUM_FRAMES, 56, 84, 3), 60, np.uint8)
    for name in CLIPS:
        frames = grey.copy()
        if name == "defect.mp4":
            frames[HIDDEN] = 255
        write_clip(folder / name, frames)


def make_samples(split: str = "test", first: int = 0) -> list[PreferenceSample]:
    return [
        PreferenceSample(
            f"{split}-{number:02d}",
            " ".join(["cat"] * (number + 1)),
            video_1,
            video_2,
            {"TA": 0, "VQ": label, "MQ": None, "OA": label},
            split=split,
            meta={"pair_type": "hidden" if label else "tie", "model_1": "kling", "model_2": "wan"},
        )
        for number, (label, video_1, video_2) in enumerate(PAIRS, first)
    ]


def write_pairs(folder: Path, split: str = "test", first: int = 0) -> Path:
    """Write the clips and their pairs; returns the file of pairs."""
    folder.mkdir(exist_ok=True)
    write_clips(folder)
    write_samples(folder / f"{split}.parquet", make_samples(split, first))
    return folder / f"{split}.parquet"


def search(request: dict[str, Any]) -> str:
    """Ask for the hidden frames, then prefer the darker one."""
    levels = read_levels(request["messages"][-1])
    if len(request["messages"]) == 2:
        return call_frames(*HIDDEN_NUMBERS)
    if len(levels) < 2:  # the call was refused
        return answer(0, confidence=3)
    return answer(
        0 if abs(levels[0] - levels[1]) < 40 else 1 if levels[0] < levels[1] else 2, confidence=1
    )


def prefer_first(request: dict[str, Any]) -> str:
    """Never search, always prefer what is shown first."""
    return answer(1, confidence=2)


def answer(label: int, confidence: int) -> str:
    thought = "<Snapshot>Frame 1 is grey, frames 3 and 99 too.</Snapshot><Think>look</Think>"
    return f"{thought}<Answer>TA=0, VQ={label}, MQ=0, OA={label}, CF={confidence}</Answer>"


def read_levels(message: dict[str, Any]) -> list[float]:
    """Return the mean grey of each image of a message."""
    urls = [item["image_url"]["url"] for item in message["content"] if item["type"] == "image_url"]
    images = [Image.open(BytesIO(base64.b64decode(url.split(",")[1]))) for url in urls]
    return [float(np.asarray(image).mean()) for image in images]


class JudgeHandler(Handler):
    def do_POST(self) -> None:
        request = self.read_request()
        if request is None:
            return
        fault = self.server.faults.get(len(self.server.requests), self.server.fault)
        time.sleep(self.server.delay_s)
        if fault is not None:
            self.behave(fault, 0)
        else:
            self.send_reply(self.server.judge(request), "stop")


def make_server(
    judge: Judge = search,
    *,
    faults: dict[int, str] | None = None,
    fault: str | None = None,
    delay_s: float = 0.0,
    port: int = 0,
) -> ScriptedServer:
    """Make a server that judges, see `serve_judge`; it does not run yet."""
    server = ScriptedServer("vllm", port)
    server.RequestHandlerClass = JudgeHandler
    server.judge, server.faults, server.fault, server.delay_s = judge, faults or {}, fault, delay_s
    return server


@contextmanager
def serve_judge(
    judge: Judge = search,
    *,
    faults: dict[int, str] | None = None,
    fault: str | None = None,
    delay_s: float = 0.0,
) -> Iterator[ScriptedServer]:
    """Run a server; `faults` maps the number of a request to a behaviour of `scripted_server`,
    `fault` is for all."""
    server = make_server(judge, faults=faults, fault=fault, delay_s=delay_s)
    with keep_serving(server):
        yield server
