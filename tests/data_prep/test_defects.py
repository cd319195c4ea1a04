"""Defects change their frames and no others, more with more severity, the same way every time;
labels follow."""

import numpy as np
import pytest
from verl_videosearch.data_prep.hide_and_seek.scenes import render_scene
from verl_videosearch.data_prep.synthetic.defects import (
    COLOURS,
    DEFECT_TYPES,
    EASY,
    FINE,
    PAIRED,
    Defect,
    apply_defect,
    defect_from_meta,
    labels_from_defects,
)


def make_defect(
    name: str, severity: int = 3, first_index: int = 4, num_frames: int = 6, seed: int = 1
) -> Defect:
    colour = "green" if DEFECT_TYPES[name].is_coloured else None
    return Defect(name, severity, first_index, num_frames, is_hidden=True, seed=seed, colour=colour)


def change(clean: np.ndarray, defect: Defect) -> np.ndarray:
    """Return the mean change of each frame in grey levels."""
    return np.abs(apply_defect(clean, defect).astype(int) - clean).mean(axis=(1, 2, 3))


@pytest.fixture(scope="module", params=[(56, 56), (84, 140)], ids=["tiny", "wide"])
def clean(request: pytest.FixtureRequest) -> np.ndarray:
    return render_scene(np.random.default_rng(5), 16, *request.param).frames


@pytest.mark.parametrize("name", DEFECT_TYPES)
def test_only_the_frames_of_the_defect_change(clean: np.ndarray, name: str) -> None:
    before = clean.copy()
    changed = np.flatnonzero(change(clean, make_defect(name)))
    assert (
        set(changed) <= set(range(4, 10)) and len(changed) >= 5
    )  # a frozen run keeps its first frame
    assert np.array_equal(clean, before)


@pytest.mark.parametrize("name", DEFECT_TYPES)
def test_more_severe_means_more_change(name: str) -> None:
    rows, columns = np.mgrid[:56, :56]
    moving = [
        np.abs((columns + 2 * i) % 112 - 56) * 3 + rows for i in range(16)
    ]  # wide: no shift comes round again
    clean = np.stack([moving, moving, moving], axis=3).astype(np.uint8) + np.array(
        [0, 8, 16], np.uint8
    )
    by_severity = [change(clean, make_defect(name, severity)).sum() for severity in (1, 2, 3)]
    assert by_severity[0] < by_severity[1] < by_severity[2]


@pytest.mark.parametrize("name", DEFECT_TYPES)
def test_the_seed_is_all_the_randomness(clean: np.ndarray, name: str) -> None:
    assert np.array_equal(
        apply_defect(clean, make_defect(name)), apply_defect(clean, make_defect(name))
    )


@pytest.mark.parametrize("name", EASY)
def test_easy_defects_move_the_mean_colour(clean: np.ndarray, name: str) -> None:
    damaged = apply_defect(clean, make_defect(name))
    moved = np.abs(damaged[4:10].mean(axis=(1, 2)) - clean[4:10].mean(axis=(1, 2))).max(axis=1)
    assert moved.min() > 10


def test_the_catalogue_is_complete() -> None:
    assert sorted((*EASY, *FINE, *PAIRED)) == sorted(DEFECT_TYPES)
    assert {entry.dimension for entry in DEFECT_TYPES.values()} == {"VQ", "MQ", "TA"}


@pytest.mark.parametrize("name", DEFECT_TYPES)
def test_meta_round_trip(name: str) -> None:
    defect = make_defect(name)
    assert defect_from_meta(defect.to_meta()) == defect
    assert defect.to_meta()["dimension"] == DEFECT_TYPES[name].dimension


MILD_VQ, SEVERE_VQ = make_defect("lines", 1), make_defect("snow", 3)
MILD_MQ, SEVERE_MQ = make_defect("comb", 1), make_defect("grey", 3)
SEVERE_TA = make_defect("recolour", 3)


@pytest.mark.parametrize(
    ("defects_1", "defects_2", "labels"),
    [
        ([], [], (0, 0, 0, 0)),
        ([SEVERE_VQ], [], (0, 2, 0, 2)),
        ([], [SEVERE_MQ], (0, 0, 1, 1)),
        ([SEVERE_TA], [], (2, 0, 0, 2)),
        ([MILD_VQ], [SEVERE_VQ], (0, 1, 0, 1)),
        ([MILD_VQ], [SEVERE_MQ], (0, 2, 1, 1)),
        ([SEVERE_VQ], [SEVERE_MQ], (0, 2, 1, 0)),
        ([MILD_VQ, SEVERE_VQ], [SEVERE_VQ], (0, 0, 0, 0)),
        ([MILD_VQ, MILD_MQ], [SEVERE_TA], (1, 2, 2, 1)),
    ],
)
def test_labels(defects_1: list[Defect], defects_2: list[Defect], labels: tuple[int, ...]) -> None:
    assert tuple(labels_from_defects(defects_1, defects_2).values()) == labels
    mirrored = tuple({0: 0, 1: 2, 2: 1}[label] for label in labels)
    assert tuple(labels_from_defects(defects_2, defects_1).values()) == mirrored


@pytest.mark.parametrize(
    ("change_to", "message"),
    [
        ({"type": "glitter"}, "unknown defect type 'glitter'; known are snow"),
        ({"severity": 4}, "severity must be 1 to 3"),
        ({"first_index": -1}, "first_index at least 0"),
        ({"num_frames": 0}, "num_frames at least 1"),
        ({"colour": "red"}, "colour of snow must be None; got 'red'"),
        ({"type": "tint"}, "colour of tint must be one of red"),
        ({"type": "tint", "colour": "beige"}, "got 'beige'"),
    ],
)
def test_bad_defects_are_refused(change_to: dict, message: str) -> None:
    good = {
        "type": "snow",
        "severity": 2,
        "first_index": 0,
        "num_frames": 1,
        "is_hidden": True,
        "seed": 0,
    }
    with pytest.raises(ValueError, match=message):
        Defect(**(good | change_to))


def test_colours_are_far_apart() -> None:
    values = np.array(list(COLOURS.values()))
    distances = np.abs(values[:, None] - values[None]).max(axis=2) + 255 * np.eye(
        len(values), dtype=int
    )
    assert distances.min() > 150
