"""A file of episodes of any program - training, traces, sampling, evaluation - is probed, compared
and made into SFT rows."""

import json
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("httpx")

from verl_videosearch.data_prep.traces.sft_rows import make_sft_row  # noqa: E402

from tests.evaluation.test_probes import check, invoke  # noqa: E402
from tests.seeing_judge import EPISODE, serve_judge, write_pairs  # noqa: E402
from verl_videosearch.runs.record import EpisodeRecord, RecordKind  # noqa: E402
from verl_videosearch.runs.record_file import append_record, read_records  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finish one run of a judge that searches."""
    folder = tmp_path_factory.mktemp("episodes")
    pairs = write_pairs(folder / "pairs")
    with serve_judge() as server:
        place = ["--endpoint", server.url, "--model", "tiny", "--out", str(folder / "run")]
        settings = [word for setting in EPISODE for word in ("--set", setting)]
        check(invoke(["eval", "--benchmark", str(pairs), *place, *settings]))
    return folder


def relabel(record: EpisodeRecord, kind: RecordKind) -> list[EpisodeRecord]:
    """Return the records that another program would have written of the same episode."""
    if kind is RecordKind.ROLLOUT:
        key = f"{record.key} step 3"
        return [msgspec.structs.replace(record, kind=kind, key=key, step=3, group="g")]
    if kind is RecordKind.SAMPLE:
        return [
            msgspec.structs.replace(record, kind=kind, key=f"{record.key} {number}", attempt=number)
            for number in (0, 1)
        ]
    return [msgspec.structs.replace(record, kind=kind)]


KINDS = [RecordKind.ROLLOUT, RecordKind.TRACE, RecordKind.SAMPLE, RecordKind.EVALUATION]


@pytest.mark.parametrize("kind", KINDS)
def test_episodes_of_any_program(folder: Path, tmp_path: Path, kind: RecordKind) -> None:
    log, out = tmp_path / f"{kind.value}.jsonl", tmp_path / "probe"
    for record in read_records(folder / "run/episodes.jsonl").records:
        for each in relabel(record, kind):
            append_record(log, each)
    with log.open("a") as file:
        file.write('{"torn')
    with serve_judge() as server:
        place = ["--endpoint", server.url, "--out", str(out), "--video-root", str(folder / "pairs")]
        check(invoke(["probe", str(log), *place, "--replacement", "blank", "--limit", "4"]))
    figures = json.loads((out / "results.json").read_text())["figures"]["blank"]
    assert figures["changed"]["total"] == 4
    page = check(invoke(["compare", str(folder / "run"), str(log)]))
    assert kind.value in page and "12 pairs; 0 left out" in page and "decoding not known" in page
    shown = check(invoke(["episodes", str(log), "--kind", kind.value, "--right"]))
    assert "damaged lines    1" in shown and shown.startswith("24 of" if kind != "sample" else "48")
    row = make_sft_row(read_records(log).records[0])
    assert row.replies == tuple(turn.reply for turn in read_records(log).records[0].turns)
