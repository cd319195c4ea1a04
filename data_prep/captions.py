"""Write captions of frames as SFT rows, for a model that has to learn to see.

    python -m data_prep.captions --pairs outputs/hide_and_seek/train.parquet --video-root
    outputs/hide_and_seek \\
        --out outputs/captions.parquet --recipe videosearch_cold_start_tiny

The one idea: the truth about a pair says what its frames show, whatever a judge chooses to look at.
So captions teach the eyes and leave the choices alone: traces that choose badly still make a model
that sees. One row is one pair, a dialogue of two kinds of captions in random order::

    frame 22                  snow                                    half of them rare: hidden
                              defects, cues
    frames 10, 11, 26, 27     <Snapshot>video 1 clean; video 2 snow</Snapshot> ... <Answer>...
                              as a call shows them

The second kind is the template teacher's last turn: what a look shows, and the verdict that follows
from it alone - or from all looks of the dialogue so far where notes are kept as a list, so that a
forgotten look counts as it does in a trace. Mix the rows with traces:
`data.train_files=[traces/sft.parquet,captions.parquet]`.

Covers: pairs of `hide_and_seek` and `degrade`. Does not cover: pre-trained models, which see
already. Exit status: 0 complete, 2 wrong use or no pair can be read (nothing is written), 3 more
pairs than `--max-failed-share` cannot.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer
from verl_videosearch.data_prep.cold_start import read_pairs
from verl_videosearch.data_prep.synthetic.defects import Defect, defect_from_meta
from verl_videosearch.data_prep.traces.notes import NoteBook, Notes
from verl_videosearch.data_prep.traces.sft_rows import SFT_SCHEMA
from verl_videosearch.data_prep.traces.teacher import (
    check_truth,
    find_gaps,
    read_cues,
    shows_defect,
)

from verl_videosearch.config import at_least, check
from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.failures import EpisodeFailure
from verl_videosearch.frames import CandidateFrames, FrameLocation
from verl_videosearch.models.option_groups import Recipe, Set, Store, VideoRoot
from verl_videosearch.recipe import read_episode
from verl_videosearch.report.console import explain_errors, say
from verl_videosearch.runs.folder import explain_disk
from verl_videosearch.runs.jobs import MAX_FAILED_SHARE, ExitStatus
from verl_videosearch.runs.progress import track
from verl_videosearch.sample import PreferenceSample, to_row, write_rows
from verl_videosearch.video.pair import load_pair
from verl_videosearch.video.store import FrameStore

CAPTION_SCHEMA = pa.schema([*SFT_SCHEMA, ("captioned_frames", pa.list_(pa.list_(pa.int32())))])
"""The columns of a file of traces and one more: the frame numbers of each caption; `replies` are
the captions."""


@dataclass(frozen=True)
class CaptionConfig:
    """What is captioned in one row."""

    num_frames: int = 8
    """Captions of one frame."""
    num_looks: int = 3
    """Captions of what one call would show."""
    num_marked: int = 0
    """How many of `num_frames` show a cue at least, as far as there are so many."""
    num_visible: int = 1
    """Rows of a pair whose first view shows a defect, each with frames of its own. Such a defect is
    in every frame, so within a dialogue only the first caption of it has to be seen."""
    seed: int = 0

    def __post_init__(self) -> None:
        both = "num_frames and num_looks must not both be 0: there is nothing to caption"
        problems = [both] if self.num_frames == self.num_looks == 0 else []
        least = at_least(0)
        check(
            self,
            problems,
            num_frames=least,
            num_looks=least,
            num_marked=least,
            num_visible=at_least(1),
        )
        most = f"num_marked must be at most num_frames={self.num_frames}, got {self.num_marked}"
        check(self, [most] if self.num_marked > self.num_frames else [])


class PairCaptions:
    """The captions of one pair; raises `ValueError` for a pair whose truth is not known."""

    def __init__(
        self,
        sample: PreferenceSample,
        candidates: CandidateFrames,
        episode: EpisodeConfig,
        notes: Notes = Notes.NEWEST,
    ) -> None:
        check_truth(sample, candidates, episode)
        self._sample, self._candidates, self._episode = sample, candidates, episode
        self._defects = {
            side: [defect_from_meta(meta) for meta in sample.meta[f"defects_{side}"]]
            for side in (1, 2)
        }
        self._cues = read_cues(sample)
        self._book = NoteBook(candidates, episode, self._cues, notes)

    def make_rows(self, config: CaptionConfig) -> list[dict[str, Any]]:
        """Make one row, or `config.num_visible` of a pair whose first view shows a defect."""
        return [self.make_row(config, copy) for copy in range(self._count_rows(config))]

    def make_row(self, config: CaptionConfig, copy: int = 0) -> dict[str, Any]:
        """Draw frames and looks, others for each copy, and write them as an SFT row."""
        rng = random.Random(f"{config.seed} {self._sample.uid}" + (f" {copy}" if copy else ""))
        frames = self.choose_frames(config.num_frames, rng, config.num_marked)
        groups = [[number] for number in frames] + self.choose_looks(config.num_looks, rng)
        rng.shuffle(groups)
        captions, looked = [], []
        for group in groups:
            if len(group) == 1:
                captions.append(self.caption_frame(group))
            else:
                captions.append(self.caption_look(group, rng, looked))
                looked += group
        return to_row(self._sample) | {
            "replies": captions,
            "episode": json.dumps(asdict(self._episode)),
            "captioned_frames": groups,
        }

    def choose_frames(self, count: int, rng: random.Random, num_marked: int = 0) -> list[int]:
        """Draw frame numbers, half of them rare ones as far as there are any; of these the first
        `num_marked` show a cue."""
        numbers = rng.sample(range(1, len(self._candidates) + 1), len(self._candidates))
        places = {number: self._candidates.locate(number) for number in numbers}
        marked = [number for number in numbers if self._is_cue(places[number])][:num_marked]
        rare = [number for number in numbers if self._is_rare(places[number])]
        chosen = list(dict.fromkeys(marked + rare))[: max(count // 2, len(marked))]
        others = [number for number in numbers if number not in chosen]
        return (chosen + others)[:count]

    def choose_looks(self, count: int, rng: random.Random) -> list[list[int]]:
        """Draw neighbouring frames of both videos from different gaps, a gap with a cue first."""
        gaps = find_gaps(self._candidates, self._episode.initial_frames_per_video)
        cued = [cue.indices for cue in self._cues]
        gaps = [gap for gap in gaps if gap in cued] + rng.sample(gaps, len(gaps))
        looks = []
        for gap in list(dict.fromkeys(gaps))[:count]:
            num_each = min(self._episode.max_frames_per_call // 2, len(gap))
            start = rng.randrange(gap.start, gap.stop - num_each + 1)
            indices = range(start, start + num_each)
            looks.append(
                [self._candidates.number_of(side, index) for side in (1, 2) for index in indices]
            )
        return looks

    def caption_frame(self, numbers: Sequence[int]) -> str:
        """Say what one frame shows in a word or two."""
        places, shown = self._find_all(numbers)
        return self._book.describe_frame(places[0], shown[places[0].video])

    def caption_look(
        self, numbers: Sequence[int], rng: random.Random, looked: Sequence[int] = ()
    ) -> str:
        """Describe what a call shows and judge by it, as the teacher does; a list judges by the
        frames of the looks before, too (`looked`)."""
        places, shown = self._find_all(numbers)
        note = self._book.describe_place(places, shown)
        if self._book.notes is Notes.LIST:
            _, shown = self._find_all([*looked, *numbers])
        return f"{self._book.wrap(note, shown)}\n{self._book.conclude(shown, rng)}"

    def _count_rows(self, config: CaptionConfig) -> int:
        view = self._candidates.initial_view(self._episode.initial_frames_per_video)
        _, shown = self._find_all(view)
        return config.num_visible if any(shown.values()) else 1

    def _find_all(
        self, numbers: Sequence[int]
    ) -> tuple[list[FrameLocation], dict[int, list[Defect]]]:
        """Return where frames are, and the defects of each video that they show."""
        places = [self._candidates.locate(number) for number in numbers]
        return places, {side: self._find_shown(side, places) for side in (1, 2)}

    def _find_shown(self, side: int, places: Sequence[FrameLocation]) -> list[Defect]:
        indices = {place.index for place in places if place.video == side}
        return [defect for defect in self._defects[side] if shows_defect(defect, indices)]

    def _is_cue(self, place: FrameLocation) -> bool:
        return any(place.index == cue.cue_index for cue in self._cues)

    def _is_rare(self, place: FrameLocation) -> bool:
        return self._is_cue(place) or any(
            defect.is_hidden for defect in self._find_shown(place.video, [place])
        )


def main(
    pairs: Annotated[
        list[Path], typer.Option(help="Parquet file of pairs; may be given more than once.")
    ],
    out: Annotated[Path, typer.Option(help="Parquet file to write.")],
    video_root: VideoRoot = None,
    recipe: Recipe = None,
    episode: Set = None,
    frames: Annotated[
        int, typer.Option(help="Captions of one frame per row.")
    ] = CaptionConfig.num_frames,
    looks: Annotated[
        int, typer.Option(help="Captions of what a call shows per row.")
    ] = CaptionConfig.num_looks,
    marked: Annotated[
        int, typer.Option(help="How many of the captions of one frame show a marker at least.")
    ] = CaptionConfig.num_marked,
    visible: Annotated[
        int,
        typer.Option(
            help="Rows of a pair whose first view shows a defect, with other frames each."
        ),
    ] = CaptionConfig.num_visible,
    notes: Annotated[
        Notes, typer.Option(help="How the traces beside them keep notes.")
    ] = Notes.NEWEST,
    limit: Annotated[int | None, typer.Option(help="Only the first pairs.")] = None,
    store: Store = None,
    seed: Annotated[int, typer.Option(help="The same seed chooses the same frames.")] = 0,
    max_failed_share: Annotated[
        float, typer.Option(min=0, max=1, help="Pairs that may fail, as a share; more: status 3.")
    ] = MAX_FAILED_SHARE,
) -> None:
    """Write captions of frames."""
    with explain_errors():
        config = CaptionConfig(frames, looks, marked, visible, seed)
        settings, samples = read_episode(recipe, episode or ()), read_pairs(pairs, limit)
        made = _caption(samples, FrameStore(store), settings, video_root, config, notes)
        rows = [row for each in made for row in each or ()]
        num_failed = made.count(None)
        if not rows:
            raise ValueError(
                f"none of {len(samples)} pairs could be read, so {out} is not written; check "
                "--video-root"
            )
        with explain_disk(out):
            write_rows(out, pa.Table.from_pylist(rows, schema=CAPTION_SCHEMA))
    say(f"{len(rows)} rows in {out}; {num_failed} pairs could not be read")
    if num_failed > max_failed_share * len(samples):
        say(
            f"{num_failed / len(samples):.1%} of the pairs could not be read, more than "
            f"--max-failed-share {max_failed_share:g}: mend the videos above, or accept that share"
        )
        raise typer.Exit(int(ExitStatus.TOO_MANY_FAILED))


def _caption(
    samples: Sequence[PreferenceSample],
    store: FrameStore,
    settings: EpisodeConfig,
    video_root: Path | None,
    config: CaptionConfig,
    notes: Notes,
) -> list[list[dict[str, Any]] | None]:
    """Return the rows of every pair, None for one that cannot be read."""
    made: list[list[dict[str, Any]] | None] = []
    for sample in track(samples, "captioning"):
        try:
            pair = load_pair(sample, store, settings, video_root)
        except EpisodeFailure as failure:
            say(f"left out: {failure}")
            made.append(None)
        else:
            made.append(PairCaptions(sample, pair.candidates, settings, notes).make_rows(config))
    return made


if __name__ == "__main__":
    typer.run(main)
