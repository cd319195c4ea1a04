"""The plugin registers itself in a fresh process, and each CPU repair both works and is still
needed.

The same probes run in two processes: as verl 0.9.1 and vLLM 0.24 are, and repaired. A row of the
table fails when a repair stops working (last column) or when a new release no longer needs it
(middle column): then delete the repair and its row.
"""

import json
import logging
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

# ruff: noqa: E402  (imports after the skip)
pytest.importorskip("verl")

from verl_videosearch.verl_plugin import cpu
from verl_videosearch.verl_plugin.hooks import log_failure, on_import

ROOT = Path(__file__).parents[2]
needs_cpu_vllm = pytest.mark.skipif(
    not cpu.has_cpu_vllm(), reason="the table is about the CPU build of vLLM"
)


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a fresh interpreter in a foreign folder, as an installed plugin is used."""
    command, variables = [sys.executable, *arguments], {**os.environ, **environment}
    return subprocess.run(
        command, capture_output=True, text=True, cwd="/", env=variables, timeout=200
    )


@pytest.fixture(scope="module", params=["off", "cpu"])
def answers(request: pytest.FixtureRequest) -> dict[str, object]:
    """Return the answers of all probes, unrepaired or repaired, and which of the two under
    `mode`."""
    probes = str(ROOT / "tests" / "cpu_platform_probes.py")
    result = run_python(probes, VIDEOSEARCH_PLATFORM=request.param, VERL_PLATFORM="cpu")
    assert result.returncode == 0, result.stderr
    return {"mode": request.param, **json.loads(result.stdout.splitlines()[-1])}


@needs_cpu_vllm
@pytest.mark.parametrize(
    ("probe", "unrepaired", "repaired"),
    [
        ("registered_platforms", "False", "True"),
        (
            "platform",
            "cpu",
            "cpu",
        ),  # imported by the probe itself, so that the rows below differ in one thing only
        ("vllm_version", "PackageNotFoundError: .* vllm", r"\d+\.\d+\.\d+\+cpu"),
        ("ray_process_group", "ValueError: Duplicate device type cpu", "gloo"),
        ("torchrun_process_group", "ValueError: Duplicate device type cpu", r"\[0, 0, 1\]"),
        (
            "fsdp2_engine",
            "ValueError: No engine registered for device='cpu'",
            "FSDPEngineWithLMHead",
        ),
        (
            "fsdp1_engine",
            "ValueError: No engine registered for device='cpu'",
            "ValueError: No engine registered for",
        ),
        ("offloaded_reference_model", "RuntimeError: Found no NVIDIA driver", r"2\.0"),
        ("linear_weight", r"\[0\]", r"\[32, 64\]"),
        (
            "seeded_sampling",
            "RuntimeError: CPU Generator does not use offset",
            "again: True, on: True",
        ),
    ],
)
def test_each_repair_works_and_is_needed(
    answers: dict, probe: str, unrepaired: str, repaired: str
) -> None:
    assert re.match(repaired if answers["mode"] == "cpu" else unrepaired, str(answers[probe]))


@needs_cpu_vllm
def test_recipes_agent_loop_and_trainer_are_registered_on_any_platform(
    answers: dict[str, object],
) -> None:
    assert answers["recipes"] == sorted(
        path.stem for path in (ROOT / "recipes" / "recipe").glob("*.yaml")
    )
    assert answers["agent_loop"] == "verl_videosearch.verl_plugin.agent_loop.VideoSearchAgentLoop"
    assert answers["trainer"] is True


def test_the_plugin_itself_imports_nothing_heavy() -> None:
    heavy = {"torch", "verl", "ray", "transformers", "vllm", "hydra"}
    program = f"import sys, verl_videosearch.verl_plugin; print(*{heavy} & set(sys.modules))"
    result = run_python("-c", program, VIDEOSEARCH_PLATFORM="cpu")
    assert (result.returncode, result.stdout.split()) == (0, []), result.stderr


def test_a_failing_plugin_is_reported_although_verl_hides_it() -> None:
    result = run_python("-c", "import verl", VIDEOSEARCH_PLATFORM="gpu")
    assert result.returncode == 0
    assert "verl-videosearch could not register its hooks" in result.stderr
    assert "ValueError: VIDEOSEARCH_PLATFORM='gpu': allowed are 'cpu' and 'off'" in result.stderr


def test_a_failing_hook_is_logged_and_stops_the_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "module_to_extend.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    on_import("module_to_extend", lambda module: module.a_name_that_a_new_release_dropped)
    with pytest.raises(AttributeError, match="dropped"):
        __import__("module_to_extend")
    assert [(record.levelno, bool(record.exc_info)) for record in caplog.records] == [
        (logging.ERROR, True)
    ]


def test_log_failure_is_silent_without_one(caplog: pytest.LogCaptureFixture) -> None:
    with log_failure("do nothing"):
        pass
    assert caplog.records == []


def test_a_hook_runs_at_once_for_a_module_that_is_imported() -> None:
    seen: list[types.ModuleType] = []
    on_import("json", seen.append)
    assert seen == [json]


@pytest.mark.parametrize(
    ("switch", "accelerator", "cpu_vllm", "wanted"),
    [
        ("", False, True, True),
        ("", True, True, False),  # a machine with a GPU is never taken over
        ("", False, False, False),  # the CPU head node of a GPU cluster, with the ordinary vLLM
        ("cpu", True, False, True),
        ("off", False, True, False),
    ],
)
def test_the_platform_is_chosen_by_the_machine_unless_the_user_says(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    switch: str,
    accelerator: bool,
    cpu_vllm: bool,
    wanted: bool,
) -> None:
    if accelerator:
        (tmp_path / "nvidia0").touch()
    monkeypatch.setenv("VIDEOSEARCH_PLATFORM", switch)
    monkeypatch.setattr(cpu, "ACCELERATOR_NODES", (f"{tmp_path}/nvidia[0-9]*",))
    monkeypatch.setattr(cpu, "has_cpu_vllm", lambda: cpu_vllm)
    assert cpu.is_wanted() is wanted


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("memory_allocated", int),
        ("memory_reserved", int),
        ("max_memory_allocated", int),
        ("max_memory_reserved", int),
        ("mem_get_info", tuple),
        ("get_device_name", str),
        ("empty_cache", type(None)),
        ("ipc_collect", type(None)),
        ("synchronize", type(None)),
        ("is_available", bool),
        ("device_count", int),
    ],
)
def test_the_device_module_answers_what_verl_calls(name: str, kind: type) -> None:
    from verl_videosearch.verl_plugin.cpu import device_module

    answer = getattr(device_module, name)()
    assert isinstance(answer, kind)
    if kind is int:
        assert answer > 0


def test_the_platform_answers_with_a_device_and_not_an_index() -> None:
    import torch

    from verl_videosearch.verl_plugin.cpu.platform import CpuPlatform

    platform = CpuPlatform()  # abstract methods that a new verl adds would fail here
    assert torch.ones(1).to(platform.current_device()).device.type == "cpu"
    assert (platform.ray_resource_name(), platform.is_ipc_supported()) == ("GPU", False)
    assert platform.ray_resource_options(1) == {"num_gpus": 1}
    assert platform.rollout_env_vars()["VLLM_CPU_KVCACHE_SPACE"]
