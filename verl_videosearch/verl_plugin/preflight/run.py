"""Checks of any run, whatever it trains: loggers, and whether it has done all its steps."""

from __future__ import annotations

import netrc
import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

LATEST = "latest_checkpointed_iteration.txt"
"""verl 0.9.1 writes the number of the newest whole checkpoint here."""
_PACKAGES = {"wandb": "wandb", "tensorboard": "tensorboard", "mlflow": "mlflow"}
"""What the loggers that people use most import."""


def check_loggers(
    config: DictConfig, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Name loggers that verl does not know, that are not installed, or that wait for a key."""
    from verl.utils.tracking import Tracking

    environment = os.environ if environment is None else environment
    names = config.trainer.logger
    for name in names if isinstance(names, list | ListConfig) else [names]:
        if name not in Tracking.supported_backend:
            yield (
                f"trainer.logger: unknown logger {name!r}; verl knows "
                f"{', '.join(sorted(Tracking.supported_backend))}"
            )
        elif name in _PACKAGES and find_spec(_PACKAGES[name]) is None:
            yield f"trainer.logger: {name} is not installed; `pip install {_PACKAGES[name]}`"
        elif name == "wandb" and not has_wandb_key(environment):
            yield (
                "trainer.logger has wandb, which would ask for a key after all workers are up: "
                "`wandb login`, or set WANDB_API_KEY, or WANDB_MODE=offline, or leave wandb out "
                "(trainer.logger=[console,file])"
            )


def has_wandb_key(environment: Mapping[str, str]) -> bool:
    """True when wandb can start without asking."""
    if environment.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
        return True
    if environment.get("WANDB_API_KEY"):
        return True
    path = Path(environment.get("NETRC") or Path.home() / ".netrc")
    host = environment.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def describe_finished(config: DictConfig) -> str | None:
    """Say that a run has done all its steps, or return None."""
    wanted = OmegaConf.select(config, "trainer.total_training_steps")
    if wanted is None or config.trainer.resume_mode != "auto":
        return None
    folder = Path(config.trainer.default_local_dir).expanduser()
    try:
        done = int((folder / LATEST).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if done < wanted or not (folder / f"global_step_{done}").is_dir():
        return None
    return (
        f"This run is complete: step {done} of {wanted}, in {folder / f'global_step_{done}'}. "
        "To train on, raise trainer.total_training_steps; to start anew, give another "
        "trainer.default_local_dir or trainer.resume_mode=disable."
    )
