"""Hide-and-seek pairs: the hidden is hidden, the balanced is balanced, the checks bite, a killed
run goes on."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner
from verl_videosearch.data_prep.hide_and_seek.__main__ import app
from verl_videosearch.data_prep.hide_and_seek.bases import ClipSplit, split_clips
from verl_videosearch.data_prep.hide_and_seek.build import build_pair, make_videos, paint_cue
from verl_videosearch.data_prep.hide_and_seek.checks import (
    SelfCheckError,
    check_blind_probe,
    check_pair,
    check_rows,
)
from verl_videosearch.data_prep.hide_and_seek.plan import (
    TRAIN_COLOURS,
    PairPlan,
    PairType,
    PlanConfig,
    count_types,
    guess_accuracy,
    plan_split,
)
from verl_videosearch.data_prep.hide_and_seek.probe import Probe, describe_views, run_probe
from verl_videosearch.data_prep.hide_and_seek.profile import (
    PROFILES,
    Gap,
    InitialSampler,
    Profile,
    shown_indices,
)
from verl_videosearch.data_prep.synthetic.clips import ClipError
from verl_videosearch.data_prep.synthetic.defects import (
    Defect,
    defect_from_meta,
    labels_from_defects,
)

from tests.clips import write_clip
from verl_videosearch.frames import CandidateFrames
from verl_videosearch.judgement import OVERALL
from verl_videosearch.sample import PreferenceSample, read_samples, swap_videos
from verl_videosearch.video.decode import FramePlan, read_candidate_frames

SCENES_ONLY = replace(PROFILES["tiny"], clip_share=0.0)
NO_CLIPS = ClipSplit((), ())
SMALL = ("--train", "16", "--test", "8", "--both-hidden", "0.2", "--clip-share", "0.5")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder of three clips with motion and detail."""
    folder = tmp_path_factory.mktemp("clips")
    for seed, name in enumerate(("a", "b", "c")):
        still = (
            np.random.default_rng(seed)
            .integers(0, 200, (8, 14, 3), dtype=np.uint8)
            .repeat(14, 0)
            .repeat(14, 1)
        )
        write_clip(
            folder / f"{name}.mp4", np.stack([np.roll(still, 3 * i, axis=1) for i in range(60)])
        )
    return folder


def make(out: Path, *options: str) -> str:
    result = CliRunner().invoke(app, ["--out", str(out), *options])
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return result.output


def read_videos(sample: PreferenceSample, root: Path) -> list[np.ndarray]:
    return [
        read_candidate_frames(path, FramePlan(16, 56 * 56)).frames
        for path in sample.resolve_videos(root)
    ]


def read_tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory, clips: Path) -> Path:
    """Make a small data set of every pair type with two workers."""
    out = tmp_path_factory.mktemp("tiny") / "out"
    make(out, *SMALL, "--clips", str(clips), "--workers", "2")
    return out


class TestProfile:
    @pytest.mark.parametrize(
        ("sampler", "num_frames", "num_initial", "indices"),
        [
            (InitialSampler.EVERY_STEP, 16, 4, [0, 4, 8, 12]),
            (InitialSampler.EVERY_STEP, 48, 4, [0, 12, 24, 36]),
            (
                InitialSampler.EVERY_STEP,
                10,
                4,
                [0, 2, 4, 5, 6, 7],
            ),  # frames[::2][:4], and ours: 0 2 5 7
            (InitialSampler.LINSPACE, 16, 4, [0, 5, 10, 15]),
            (InitialSampler.LINSPACE, 48, 4, [0, 15, 16, 31, 47]),  # 15.67 rounded and cut
            (InitialSampler.MID_BIN, 16, 4, [2, 6, 10, 14]),
            (InitialSampler.MID_BIN, 48, 4, [6, 18, 30, 42]),
        ],
    )
    def test_samplers(
        self, sampler: InitialSampler, num_frames: int, num_initial: int, indices: list[int]
    ) -> None:
        assert sorted(shown_indices(sampler, num_frames, num_initial)) == indices

    @pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
    def test_windows_are_hidden_and_guarded(self, profile: Profile) -> None:
        times = (0.0,) * profile.num_frames
        pair = CandidateFrames(times, times)
        view = {pair.locate(number).index for number in pair.initial_view(profile.num_initial)}
        shown = view | set(profile.shown(profile.hide_from))
        for gap in profile.gaps():
            assert gap.cue_index in view
            for window in profile.windows(gap):
                assert (
                    gap.first_index
                    <= window.start
                    < window.stop
                    <= gap.first_index + gap.num_frames
                )
                assert shown.isdisjoint(
                    range(window.start - profile.guard, window.stop + profile.guard)
                )
                assert profile.window_lengths[0] <= len(window) <= profile.window_lengths[1]

    def test_sixteen_frames_leave_single_frames_between_all_samplers(self) -> None:
        profile = PROFILES["tiny_strict"]
        assert [w.start for gap in profile.gaps() for w in profile.windows(gap)] == [
            1,
            3,
            7,
            9,
            11,
            13,
        ]
        with pytest.raises(ValueError, match="no window of .2, 3. frames can hide"):
            replace(profile, window_lengths=(2, 3))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"hidden_types": ("glitter",)}, "unknown defect type 'glitter'"),
            ({"hidden_types": ()}, "hidden_types must be a list that is not empty"),
            ({"held_out_types": ("snow",)}, r"\['snow'\] are held out"),
            ({"clip_share": 1.5}, "clip_share must be a number from 0 to 1, got 1.5"),
            ({"clip_share": -1, "mild_types": ()}, "mild_types must .*; clip_share must"),
        ],
    )
    def test_contradictions_are_refused(self, change: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            replace(PROFILES["tiny"], **change)


STANDARD_ORDER = ("hidden", "tie", "visible", "decoy", "both_hidden")


class TestPlan:
    @pytest.mark.parametrize(
        ("num_pairs", "both_hidden_share", "counts"),
        [
            (2000, 0.0, [800, 400, 400, 400, 0]),
            (400, 0.0, [160, 80, 80, 80, 0]),
            (100, 0.2, [32, 16, 16, 16, 20]),
            (7, 0.0, [3, 2, 1, 1, 0]),
            (1, 0.0, [1, 0, 0, 0, 0]),
        ],
    )
    def test_shares(self, num_pairs: int, both_hidden_share: float, counts: list[int]) -> None:
        found = count_types(num_pairs, both_hidden_share)
        assert [found[PairType(name)] for name in STANDARD_ORDER] == counts
        assert sum(found.values()) == num_pairs

    @pytest.mark.parametrize(("both_hidden_share", "guess"), [(0.0, 0.4), (1.0, 0.5), (0.5, 0.45)])
    def test_guess_accuracy(self, both_hidden_share: float, guess: float) -> None:
        assert guess_accuracy(count_types(2000, both_hidden_share)) == pytest.approx(
            guess, abs=1e-3
        )

    def test_each_type_is_balanced_in_winner_gap_and_defect(self) -> None:
        plans = plan_split(PlanConfig(SCENES_ONLY, 400, 0), "train", NO_CLIPS)
        hidden = [plan for plan in plans if plan.pair_type is PairType.HIDDEN]
        assert len(hidden) == 160
        assert Counter(len(plan.defects_1) for plan in hidden) == {0: 80, 1: 80}
        assert set(Counter(plan.gaps[0].first_index for plan in hidden).values()) == {40}
        assert set(Counter(plan.defects[0].type for plan in hidden).values()) == {32}

    @pytest.mark.parametrize("pair_type", list(map(PairType, STANDARD_ORDER)))
    def test_pair_types_are_what_they_are_called(self, pair_type: PairType) -> None:
        plans = plan_split(
            PlanConfig(SCENES_ONLY, 100, 0, both_hidden_share=0.2), "train", NO_CLIPS
        )
        found = {
            tuple(
                sorted(
                    tuple((d.severity, d.is_hidden) for d in side)
                    for side in (plan.defects_1, plan.defects_2)
                )
            )
            for plan in plans
            if plan.pair_type is pair_type
        }
        expected = {
            PairType.HIDDEN: ((), ((3, True),)),
            PairType.TIE: ((), ()),
            PairType.VISIBLE: ((), ((1, False),)),
            PairType.DECOY: (((1, False),), ((3, True),)),
            PairType.BOTH_HIDDEN: (((2, True),), ((3, True),)),
        }
        assert found == {expected[pair_type]}

    def test_looks_deals_what_one_look_cannot_tell(self) -> None:
        profile = replace(PROFILES["looks"], clip_share=0.0)
        plans = plan_split(PlanConfig(profile, 1100, 0), "train", NO_CLIPS)
        both = [plan for plan in plans if plan.pair_type is PairType.BOTH_HIDDEN]
        assert len(both) == 660
        counts = Counter(len(plan.defects_1) - len(plan.defects_2) for plan in both)
        assert counts == {-1: 240, 1: 240, 0: 180}
        for plan in both:
            behind = {
                (gap.first_index, defect.dimension)
                for gap in plan.gaps
                for defect in plan.defects
                if defect.first_index in gap.indices
            }
            assert len(behind) == len({first for first, _ in behind})  # one dimension a gap
            assert len({dimension for _, dimension in behind}) == len(behind)

    def test_pairs_without_a_cue_hide_nothing(self) -> None:
        profile = replace(PROFILES["looks"], clip_share=0.0)
        for plan in plan_split(PlanConfig(profile, 200, 0), "train", NO_CLIPS):
            if not plan.gaps:
                assert plan.pair_type in (PairType.VISIBLE, PairType.TIE)
                assert not any(defect.is_hidden for defect in plan.defects)

    def test_cues_point_to_the_hidden_defects_and_to_nothing_else(self) -> None:
        for plan in plan_split(
            PlanConfig(SCENES_ONLY, 100, 0, both_hidden_share=0.2), "train", NO_CLIPS
        ):
            hidden = {defect.first_index for defect in plan.defects if defect.is_hidden}
            behind = [range(gap.first_index, gap.first_index + gap.num_frames) for gap in plan.gaps]
            assert all(any(index in gap for gap in behind) for index in hidden)
            assert len(plan.gaps) == (2 if plan.pair_type is PairType.BOTH_HIDDEN else 1)

    def test_splits_share_neither_bases_nor_all_defects(self) -> None:
        config = PlanConfig(PROFILES["tiny"], 200, 200)
        train, test = (
            plan_split(config, split, ClipSplit(("a", "b"), ("c",))) for split in ("train", "test")
        )
        assert {plan.base for plan in train} == {"a", "b", "scene"} and {
            plan.base for plan in test
        } == {"c", "scene"}
        assert not {plan.base_seed for plan in train} & {plan.base_seed for plan in test}
        types = [
            {defect.type for plan in plans for defect in plan.defects} for plans in (train, test)
        ]
        assert types[1] - types[0] == set(config.profile.held_out_types)
        colours = [
            {d.colour for plan in plans for d in plan.defects} - {None} for plans in (train, test)
        ]
        assert colours[0] == set(TRAIN_COLOURS) and colours[1] > colours[0]
        assert not any(plan.is_held_out for plan in train)
        assert all(
            plan.is_held_out
            == any(
                d.type in ("dim", "flash") or d.colour in ("magenta", "cyan") for d in plan.defects
            )
            for plan in test
        )

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"num_train": -1}, "num_train must be a whole number of at least 0, got -1"),
            ({"num_train": 0, "num_test": 0}, "must not both be 0"),
            (
                {"both_hidden_share": 2},
                "both_hidden_share must be a number from 0 to 1, or null, got 2",
            ),
            (
                {"profile": replace(SCENES_ONLY, held_out_types=())},
                "held_out_share needs held-out defect types",
            ),
        ],
    )
    def test_bad_settings(self, change: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            PlanConfig(**({"profile": SCENES_ONLY} | change))

    def test_one_clip_is_not_enough(self) -> None:
        with pytest.raises(ClipError, match="at least two"):
            split_clips([Path("only.mp4")])


class TestDataSet:
    def test_rows_say_what_the_files_hold(self, data_set: Path) -> None:
        samples = read_samples(data_set / "train.parquet") + read_samples(data_set / "test.parquet")
        assert len(samples) == 24 and len({sample.uid for sample in samples}) == 24
        for sample in samples:
            one, two = read_videos(sample, data_set)
            different = {index for index in range(16) if not np.array_equal(one[index], two[index])}
            damaged = {
                index
                for side in (1, 2)
                for meta in sample.meta[f"defects_{side}"]
                for index in defect_from_meta(meta).frame_indices
            }
            assert different == damaged

    def test_the_view_before_a_search_shows_no_hidden_defect(self, data_set: Path) -> None:
        candidates = CandidateFrames((0.0,) * 16, (0.0,) * 16)
        view = [candidates.locate(number) for number in candidates.initial_view(4)]
        for sample in read_samples(data_set / "test.parquet"):
            if sample.meta["pair_type"] in ("hidden", "tie", "both_hidden"):
                videos = read_videos(sample, data_set)
                first, second = (
                    np.stack([videos[v - 1][f.index] for f in view if f.video == v]) for v in (1, 2)
                )
                assert np.array_equal(first, second)

    def test_cue_is_the_same_tape_in_both_videos(self, data_set: Path) -> None:
        sample = next(
            s for s in read_samples(data_set / "train.parquet") if s.meta["pair_type"] == "decoy"
        )
        for frames in read_videos(sample, data_set):
            top_colours = [{tuple(pixel) for pixel in frame[0].tolist()} for frame in frames]
            assert (
                top_colours.index({(250, 220, 0), (10, 10, 10)})
                == sample.meta["cue"]["first_index"] - 1
            )

    def test_swapping_a_row_swaps_its_truth(self, data_set: Path) -> None:
        sample = next(
            s for s in read_samples(data_set / "train.parquet") if s.meta["pair_type"] == "hidden"
        )
        swapped = swap_videos(sample)
        assert (
            swapped.meta["defects_1"] == sample.meta["defects_2"]
            and swapped.meta["cue"] == sample.meta["cue"]
        )
        assert swapped.labels[OVERALL] == 3 - sample.labels[OVERALL]

    def test_card_and_sheets_are_written_and_nothing_is_left_over(self, data_set: Path) -> None:
        card = (data_set / "README.md").read_text("utf-8")
        assert "| hidden defects that `every_step` shows | 0 (must be 0) |" in card
        assert "| train | both_hidden | 3 |" in card and "| c | 0 | 4 |" in card
        assert (data_set / "contact_sheet_train.png").stat().st_size > 10_000
        assert not [path for path in data_set.rglob(".*")]

    def test_bytes_depend_on_the_seed_alone(
        self, data_set: Path, clips: Path, tmp_path: Path
    ) -> None:
        make(tmp_path / "again", *SMALL, "--clips", str(clips), "--workers", "1")
        assert read_tree(tmp_path / "again") == read_tree(data_set)
        plans = [
            plan_split(PlanConfig(SCENES_ONLY, 1, 0, seed), "train", NO_CLIPS)[0] for seed in (0, 1)
        ]
        one, other = (make_videos(plan, tmp_path, SCENES_ONLY) for plan in plans)
        assert not np.array_equal(one.clean, other.clean)

    def test_paper_profile_keeps_the_clips_shape(self, clips: Path, tmp_path: Path) -> None:
        bases = tmp_path / ".bases"
        bases.mkdir()
        np.save(
            bases / "a.npy",
            np.random.default_rng(0).integers(0, 256, (60, 112, 196, 3), dtype=np.uint8),
        )
        hidden = Defect("blocks", 3, 26, 3, is_hidden=True, seed=0)
        plan = PairPlan(
            "test",
            0,
            PairType.HIDDEN,
            (),
            (hidden,),
            (Gap(25, 11),),
            "a",
            (0, 1, 0),
            is_held_out=True,
        )
        result = build_pair(plan, tmp_path, PROFILES["paper"], seed=0)
        video = read_candidate_frames(tmp_path / result.sample.video_2, FramePlan(48, 448 * 252))
        assert video.frames.shape == (48, 112, 196, 3)


class TestChecks:
    @pytest.fixture
    def plan(self) -> PairPlan:
        hidden = Defect("snow", 3, 5, 2, is_hidden=True, seed=0)
        return PairPlan(
            "train",
            7,
            PairType.HIDDEN,
            (),
            (hidden,),
            (Gap(5, 3),),
            "scene",
            (0, 0, 7),
            is_held_out=False,
        )

    def test_sound_pair_passes(self, plan: PairPlan, tmp_path: Path) -> None:
        pair = make_videos(plan, tmp_path, SCENES_ONLY)
        check_pair(plan, pair.clean, pair.videos, SCENES_ONLY)

    def test_one_bit_outside_a_defect_is_found(self, plan: PairPlan, tmp_path: Path) -> None:
        pair = make_videos(plan, tmp_path, SCENES_ONLY)
        pair.videos[1][9, 20, 30, 1] ^= 1
        with pytest.raises(
            SelfCheckError, match=r"train pair 7, video 2: frames \[9\] changed outside"
        ):
            check_pair(plan, pair.clean, pair.videos, SCENES_ONLY)

    def test_defect_on_a_shown_frame_is_found(self, plan: PairPlan, tmp_path: Path) -> None:
        plan = replace(plan, defects_2=(replace(plan.defects_2[0], first_index=7),))
        pair = make_videos(plan, tmp_path, SCENES_ONLY)
        with pytest.raises(
            SelfCheckError, match=r"frames \[8\] of a hidden defect are shown at first"
        ):
            check_pair(plan, pair.clean, pair.videos, SCENES_ONLY)

    def test_defect_that_changes_nothing_is_found(self, plan: PairPlan, tmp_path: Path) -> None:
        pair = make_videos(plan, tmp_path, SCENES_ONLY)
        with pytest.raises(SelfCheckError, match="change nothing"):
            check_pair(plan, pair.clean, (pair.clean, pair.clean), SCENES_ONLY)

    def test_wrong_label_is_found(self, data_set: Path) -> None:
        samples = read_samples(data_set / "train.parquet")
        samples[0] = replace(
            samples[0], labels=samples[0].labels | {OVERALL: (samples[0].labels[OVERALL] + 1) % 3}
        )
        with pytest.raises(SelfCheckError, match="does not follow from its defects"):
            check_rows(samples, SCENES_ONLY)

    def test_favoured_side_is_found(self, data_set: Path) -> None:
        samples = [
            s if s.labels[OVERALL] != 2 else swap_videos(s)
            for s in read_samples(data_set / "train.parquet")
        ]
        with pytest.raises(SelfCheckError, match="video 1 wins .* and video 2 0 times"):
            check_rows(samples, SCENES_ONLY)

    def test_shown_defect_is_found_in_the_rows(self, data_set: Path) -> None:
        with pytest.raises(
            SelfCheckError, match="hidden defects are shown at first by {'linspace': .*'mid_bin'"
        ):
            check_rows(read_samples(data_set / "train.parquet"), PROFILES["tiny_strict"])

    def test_blind_probe_bites_on_a_leak(self) -> None:
        rng = np.random.default_rng(0)
        labels = np.arange(600) % 3
        features = rng.normal(size=(600, 12))
        blind = run_probe((features[:400], labels[:400]), (features[400:], labels[400:]))
        check_blind_probe(blind, guess=0.4)
        features[:, 5] += labels  # one number in twelve gives the label away, with noise
        leaking = run_probe((features[:400], labels[:400]), (features[400:], labels[400:]))
        with pytest.raises(
            SelfCheckError, match="the initial view tells something about the label"
        ):
            check_blind_probe(leaking, guess=0.4)

    @pytest.mark.parametrize(
        ("accuracy", "passes"), [(0.40, True), (0.48, True), (0.51, False), (0.2, True)]
    )
    def test_limit_of_the_blind_probe(self, accuracy: float, passes: bool) -> None:
        if passes:
            check_blind_probe(Probe(accuracy, 400), guess=0.4)
        else:
            with pytest.raises(SelfCheckError):
                check_blind_probe(Probe(accuracy, 400), guess=0.4)


def test_probes_of_a_real_set(tmp_path: Path) -> None:
    """With all pairs of 300 scenes a probe that may look behind the cue knows, and one that may not
    guesses."""
    plans = plan_split(PlanConfig(SCENES_ONLY, 300, 0), "train", NO_CLIPS)
    views = [
        describe_views(make_videos(plan, tmp_path, SCENES_ONLY).videos, SCENES_ONLY, plan.gaps)
        for plan in plans
    ]
    labels = np.array(
        [labels_from_defects(plan.defects_1, plan.defects_2)[OVERALL] for plan in plans]
    )
    accuracies = []
    for features in (np.stack([view[0] for view in views]), np.stack([view[1] for view in views])):
        accuracies.append(
            run_probe((features[:180], labels[:180]), (features[180:], labels[180:])).accuracy
        )
    assert accuracies[0] < 0.55 and accuracies[1] > 0.9


def test_cue_leaves_the_rest_of_the_frame_alone() -> None:
    frames = np.full((16, 56, 56, 3), 90, np.uint8)
    marked = paint_cue(frames, Gap(5, 3))
    changed = (marked != frames).any(axis=(2, 3))
    assert np.argwhere(changed).tolist() == [[4, row] for row in range(8)]


def test_killed_run_goes_on(tmp_path: Path) -> None:
    options = ["--train", "60", "--test", "0", "--clip-share", "0", "--workers", "2"]
    command = [
        sys.executable,
        "-m",
        "data_prep.hide_and_seek",
        "--out",
        str(tmp_path / "killed"),
        *options,
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[2])
    while len(list(tmp_path.rglob("videos/train/*.mkv"))) < 10 and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    num_there = len(list(tmp_path.rglob("videos/train/[0-9]*.mkv")))
    assert 10 <= num_there < 120
    (tmp_path / "killed/videos/train/.00003_1.1.partial.mkv").write_bytes(b"half")
    (tmp_path / "killed/videos/train/00000_1.mkv").write_bytes(b"torn by a full disk")
    output = make(tmp_path / "killed", *options)
    num_written = int(" ".join(output.split()).split(" videos written")[0].split()[-1])
    assert 1 <= num_written <= 120 - num_there + 1
    make(tmp_path / "whole", *options)
    assert read_tree(tmp_path / "killed") == read_tree(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--profile", "huge"],
            "unknown profile 'huge'; choose one of tiny, tiny_strict, looks, paper",
        ),
        (["--defects", "glitter"], "unknown defect type 'glitter'"),
        (["--train", "-1"], "num_train must be a whole number of at least 0, got -1"),
        (["--clips", "nowhere"], "no such folder of clips: 'nowhere'"),
    ],
)
def test_bad_options(tmp_path: Path, options: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["--out", str(tmp_path / "out"), *options])
    assert result.exit_code == 2 and not (tmp_path / "out").exists()
    assert message in " ".join(result.output.split())


def test_folder_of_another_data_set_is_left_alone(data_set: Path) -> None:
    before = read_tree(data_set)
    result = CliRunner().invoke(app, ["--out", str(data_set), "--clip-share", "0", "--seed", "9"])
    assert result.exit_code == 2
    assert "made with other settings (both_hidden_share, clips," in " ".join(result.output.split())
    assert read_tree(data_set) == before
