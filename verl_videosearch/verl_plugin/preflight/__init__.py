"""Check a run before anything is started: every mistake at once, each with what to do.

The one idea: a wrong key, value or file costs seconds here, and minutes and a stack trace from a
worker later. verl 0.9.1 calls two functions in the driver before its work begins; ours run just
before them, for configs that have the node `videosearch`::

    validate_config  (verl.utils.config)     GRPO, before Ray starts          grpo.py
    auto_set_device  (verl.utils.device)     SFT and RFT, before any model    sft.py

A run that has done all its steps ends here, too, with a sentence and exit status 0: verl would
train one more step (SFT) or validate once more (GRPO).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import wraps
from types import ModuleType
from typing import Any

from omegaconf import DictConfig

from verl_videosearch.verl_plugin.preflight import grpo, sft
from verl_videosearch.verl_plugin.preflight.model import fit_to_model
from verl_videosearch.verl_plugin.preflight.run import describe_finished


def check_grpo(config_module: ModuleType) -> None:
    """Put our check before verl's `validate_config`."""
    config_module.validate_config = check_before(config_module.validate_config, grpo.find_problems)


def check_sft(auto_set_device: Callable[..., Any]) -> Callable[..., Any]:
    """Put our check before verl's `auto_set_device`, the first call of the SFT trainer; GRPO's
    config, which passes there as well, is left to `validate_config`."""

    @wraps(auto_set_device)
    def wrapper(config: DictConfig) -> Any:
        is_sft = "actor_rollout_ref" not in config
        checked = check_before(auto_set_device, sft.find_problems) if is_sft else auto_set_device
        return checked(config)

    return wrapper


def check_before(
    function: Callable[..., Any], find_problems: Callable[[DictConfig], list[str]]
) -> Callable[..., Any]:
    """Wrap a function of a config: it is called only if the run can start."""

    @wraps(function)
    def wrapper(config: DictConfig, *args: Any, **kwargs: Any) -> Any:
        if "videosearch" in config:
            fit_to_model(config)
            stop_if_wrong(find_problems(config))
            finished = describe_finished(config)
            if finished is not None:
                _say(finished)
                raise SystemExit(0)
        return function(config, *args, **kwargs)

    return wrapper


def stop_if_wrong(problems: Sequence[str]) -> None:
    """End the program with all problems in one message, written by one rank only."""
    if not problems:
        return
    _say("\n".join(["This run cannot start:", *(f"- {problem}" for problem in problems)]))
    raise SystemExit(1)


def _say(text: str) -> None:
    """Write to the standard error, once, whatever the number of ranks."""
    if int(os.environ.get("RANK", 0)) == 0:
        os.write(2, f"{text}\n".encode())
