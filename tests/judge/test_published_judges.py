"""Published judges in their own words and forms: through a server, `Judge`, `eval` and `compare`.

The words here are stand-ins; a user copies theirs from a model card."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tests.prompts.test_pack import AT_ONCE, THINKER, THINKER_SETTINGS
from tests.scripted_server import ScriptedServer, list_images
from tests.seeing_judge import CLIPS, HIDDEN_NUMBERS, read_levels, serve_judge, write_pairs
from verl_videosearch import Judge
from verl_videosearch.cli import app
from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.recipe import read_episode, read_episode_settings
from verl_videosearch.runs.record_file import read_records

CLEAN, OTHER, DEFECT = CLIPS
Answer = Callable[[dict[str, Any]], str]


def decide(levels: list[float]) -> int:
    """Prefer the darker of two frames."""
    return 0 if abs(levels[0] - levels[1]) < 40 else 1 if levels[0] < levels[1] else 2


def think(request: dict[str, Any]) -> str:
    """Ask for the hidden frame of both videos, then answer, in the form of VR-Thinker."""
    if len(request["messages"]) == 2:
        call = {"name": "select_frames", "arguments": {"target_frames": list(HIDDEN_NUMBERS)}}
        return f"""<think> The lamp is unclear. </think>
<recommend answer> TA = 0, MQ = 0, VQ = 1, OA = 1, CF = 3 </recommend answer>
<tool_call> {json.dumps(call)}
</tool_call>"""
    label = decide(read_levels(request["messages"][-1]))
    return f"""<snapshot> The lamp flashes in one of frames 3 and 11. </snapshot>
<think> It is settled. </think>
<answer> TA = 0, VQ = {label}, MQ = 0, OA = {label}, CF = 1 </ answer>"""


def answer_at_once(request: dict[str, Any]) -> str:
    """Answer in words, as a judge of a single turn."""
    levels = read_levels(request["messages"][1])
    label = decide([levels[number - 1] for number in HIDDEN_NUMBERS])
    words = ("Both are equal", "Video 1 is better", "Video 2 is better")[label]
    return (
        f"<think>1. Semantic consistency: 8/10, 6/10. Total: 24, 18.</think>"
        f"\n<answer>{words}</answer>"
    )


def write_pack(folder: Path, name: str, entries: dict[str, Any]) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(entries), "utf-8")
    return str(path)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


def evaluate(pairs: Path, server: ScriptedServer, out: Path, *options: str) -> dict[str, Any]:
    place = ["--benchmark", str(pairs), "--endpoint", server.url, "--model", "tiny"]
    result = CliRunner().invoke(app, ["eval", *place, "--out", str(out), *options])
    assert result.exit_code == 0, result.output
    return json.loads((out / "results.json").read_text())


def test_the_recipe_holds_the_settings_of_the_model_card_and_no_words() -> None:
    config = EpisodeConfig.from_dict(read_episode_settings("vr_thinker"))
    assert {name: getattr(config, name) for name in THINKER_SETTINGS} == THINKER_SETTINGS
    assert config.initial_max_pixels == config.tool_max_pixels == 448 * 448
    assert config.prompt_pack == "full"


def test_a_judge_that_asks_for_frames_in_its_own_form(pairs: Path, tmp_path: Path) -> None:
    pack = write_pack(tmp_path, "thinker", THINKER)
    config = read_episode("vr_thinker", [f"prompt_pack={pack}"])
    videos = [pairs.parent / name for name in (CLEAN, DEFECT)]
    with (
        serve_judge(think) as server,
        Judge(server.url, "tiny", episode=config, store=tmp_path / "frames") as judge,
    ):
        verdict = judge.compare("a cat", *videos)
    assert verdict.overall == 1 and verdict.orders_agree
    assert verdict.verdicts == {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1}
    assert [frame.number for frame in verdict.frames_asked] == [*HIDDEN_NUMBERS] * 2
    assert set(verdict.stated_confidence.values()) == {1}
    first, second = server.requests[0]["messages"], server.requests[-1]["messages"]
    words = first[0]["content"]
    assert words.startswith("Judge ") and " Ask 6 times for 12 frames " in words
    assert len(list_images({"messages": first})) == 8
    assert [item["type"] for item in first[1]["content"]].count("text") == 1  # no labels
    assert len(second) == 4


def test_eval_and_compare_put_published_judges_in_one_table(pairs: Path, tmp_path: Path) -> None:
    thinker = ["--recipe", "vr_thinker", "--set"]
    thinker.append(f"prompt_pack={write_pack(tmp_path, 'thinker', THINKER)}")
    at_once = ["--single-turn", "16", "--set", "frames_per_video=8", "--set"]
    at_once.append(f"prompt_pack={write_pack(tmp_path, 'at_once', AT_ONCE)}")
    runs = {"thinker": (think, thinker), "at_once": (answer_at_once, at_once)}
    for name, (answer, options) in runs.items():
        with serve_judge(answer) as server:
            results = evaluate(pairs, server, tmp_path / name, *options)
        overall = results["overall"]["with_ties"]
        assert (overall["correct"], overall["total"]) == (12, 12)
        records = read_records(tmp_path / name / "episodes.jsonl").records
        assert len(records) == 24 and {record.num_calls for record in records} == (
            {1} if name == "thinker" else {0}
        )
    paths = [str(tmp_path / name) for name in runs]
    table = CliRunner().invoke(app, ["compare", *paths, "--out", str(tmp_path / "table")])
    assert table.exit_code == 0, table.output
    assert "thinker" in table.output and "at_once" in table.output
