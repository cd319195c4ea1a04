"""Films of a generator's size, made here: 1280 x 720, 5 s, h264, and their rows."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import av
import numpy as np

from verl_videosearch.sample import PreferenceSample, write_samples

HEIGHT, WIDTH, FPS, NUM_FRAMES = 720, 1280, 24, 120
TILE = 80
PROMPT = (
    "A patchwork of coloured squares slides slowly to the right over a wide screen, soft light."
)


def write_films(folder: Path, num_pairs: int, num_workers: int) -> Path:
    """Write films and `pairs.parquet` into a folder; returns the file of pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(folder / f"{n}_{side}.mp4", 2 * n + side) for n in range(num_pairs) for side in (1, 2)]
    with ProcessPoolExecutor(num_workers) as pool:
        list(pool.map(write_film, *zip(*jobs, strict=True)))
    samples = [
        PreferenceSample(
            uid=f"film-{n}",
            prompt=PROMPT,
            video_1=f"{n}_1.mp4",
            video_2=f"{n}_2.mp4",
            labels={"TA": 0, "VQ": 1 + n % 2, "MQ": n % 3, "OA": 1 + n % 2},
        )
        for n in range(num_pairs)
    ]
    write_samples(folder / "pairs.parquet", samples)
    return folder / "pairs.parquet"


def write_film(path: Path, seed: int) -> None:
    """Write one film of sliding tiles."""
    rng = np.random.default_rng(seed)
    shape = (HEIGHT // TILE, WIDTH // TILE, 3)
    picture = rng.integers(0, 255, shape, dtype=np.uint8).repeat(TILE, 0).repeat(TILE, 1)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=FPS, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(NUM_FRAMES):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, number * 8, 1), "rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
