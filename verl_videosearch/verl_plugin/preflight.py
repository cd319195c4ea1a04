"""Check a GRPO run before any Ray process starts: every mistake at once, each with what to do.

The one idea: verl calls `validate_config` in the driver before it starts Ray; this runs just before
it, for configs that have the node `videosearch`. A wrong key, value or file then costs seconds, not
minutes and a stack trace from a worker.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
from omegaconf import DictConfig, ListConfig, OmegaConf

from verl_videosearch.sample import from_row
from verl_videosearch.verl_plugin.settings import Settings

REQUIRED = ("actor_rollout_ref.model.path", "data.train_files", "data.val_files")
"""What a recipe leaves to the user."""
IMAGE_TEXT_TOKENS = 24
"""Tokens of the label before a frame, and of the marks around it: measured with Qwen2.5-VL's
tokenizer, rounded up."""


def check_before_ray(config_module: ModuleType) -> None:
    """Put our check before verl's own `validate_config` (verl 0.9.1, `verl.utils.config`)."""
    validate = config_module.validate_config

    def validate_config(config: DictConfig, *args: Any, **kwargs: Any) -> None:
        if "videosearch" in config:
            problems = find_problems(config)
            if problems:
                raise SystemExit(
                    "\n".join(["This run cannot start:", *(f"- {problem}" for problem in problems)])
                )
        validate(config, *args, **kwargs)

    config_module.validate_config = validate_config


def find_problems(config: DictConfig) -> list[str]:
    """Return every mistake of a GRPO config in words; empty means that it can start."""
    missing = [key for key in REQUIRED if OmegaConf.select(config, key) is None]
    if missing:
        return [f"{key} is not set; give it on the command line as {key}=..." for key in missing]
    try:
        settings = Settings.from_dict(OmegaConf.to_container(config.videosearch, resolve=True))
    except ValueError as error:
        return str(error).splitlines()
    return [
        *_check_method(config),
        *_check_batches(config),
        *_check_lengths(config, settings),
        *_check_adapter(config),
        *_check_model(config),
        *_check_data(config, settings),
    ]


def _check_method(config: DictConfig) -> Iterator[str]:
    """Settings that would silently train something else."""
    required = {
        "algorithm.adv_estimator": (
            "grpo",
            "other estimators treat each sequence of an episode as a sample of its own",
        ),
        "trainer.v1.trainer_mode": (
            "videosearch",
            "verl's own trainers count sequences instead of episodes",
        ),
        "trainer.use_v1": (True, "the legacy trainer takes one sequence per episode"),
        "actor_rollout_ref.actor.loss_agg_mode": (
            "seq-mean-token-mean",
            "the others weigh episodes by their length",
        ),
        "actor_rollout_ref.actor.shuffle": (False, "our trainer has put each mini-batch together"),
        "trainer.v1.sampler.sync_refill_failed_groups": (
            True,
            "a failed group must be replaced, never scored",
        ),
        "actor_rollout_ref.rollout.agent.default_agent_loop": (
            "videosearch",
            "rows without agent_name would use it",
        ),
        "algorithm.use_kl_in_reward": (
            False,
            "the reward is shared by all sequences of an episode; use use_kl_loss",
        ),
    }
    for key, (wanted, reason) in required.items():
        got = OmegaConf.select(config, key)
        if got != wanted:
            yield f"{key} must be {wanted!r}, got {got!r}: {reason}"


def _check_batches(config: DictConfig) -> Iterator[str]:
    batch, mini = config.data.train_batch_size, config.actor_rollout_ref.actor.ppo_mini_batch_size
    num_rollouts = config.actor_rollout_ref.rollout.n
    if mini < 1 or batch < 1 or batch % mini:
        yield (
            f"data.train_batch_size ({batch}) must be a multiple of actor_rollout_ref.actor.ppo_mini_batch_size "
            f"({mini}), and both at least 1"
        )
    if num_rollouts < 2:
        yield f"actor_rollout_ref.rollout.n must be at least 2, or a group has no baseline; got {num_rollouts}"


def _check_lengths(config: DictConfig, settings: Settings) -> Iterator[str]:
    """Compare the limits with the images of the first context, and with images and replies of the
    longest one; the instructions come on top."""
    episode, rollout = settings.episode, config.actor_rollout_ref.rollout
    first = (
        2
        * episode.initial_frames_per_video
        * count_image_tokens(episode.initial_max_pixels, episode.patch_multiple)
    )
    calls = (
        episode.max_tool_calls
        if episode.window is None
        else min(episode.window, episode.max_tool_calls)
    )
    later = (
        calls
        * episode.max_frames_per_call
        * count_image_tokens(episode.tool_max_pixels, episode.patch_multiple)
    )
    replies = (
        episode.max_tool_calls + 1
    ) * settings.rollout.max_turn_tokens  # no window forgets text
    total = rollout.prompt_length + rollout.response_length
    if first > rollout.prompt_length:
        yield (
            f"the first view alone may take {first} tokens but data.max_prompt_length is {rollout.prompt_length}: "
            f"raise it to about {first + 1000}, or lower videosearch.episode.initial_max_pixels"
        )
    if first + later + replies > total:
        yield (
            f"a context may take {first + later} tokens of images and {replies} of replies, but "
            f"data.max_prompt_length + data.max_response_length is {total}: raise data.max_response_length"
        )
    if rollout.max_model_len is not None and rollout.max_model_len < total:
        yield (
            f"actor_rollout_ref.rollout.max_model_len ({rollout.max_model_len}) must hold data.max_prompt_length + "
            f"data.max_response_length = {total} tokens; null is the model's own limit"
        )
    actor = config.actor_rollout_ref.actor
    budget = actor.ppo_max_token_len_per_gpu * actor.ulysses_sequence_parallel_size
    if budget < total:
        yield (
            f"actor_rollout_ref.actor.ppo_max_token_len_per_gpu (times ulysses_sequence_parallel_size: {budget}) must "
            f"hold one sequence of data.max_prompt_length + data.max_response_length = {total} tokens"
        )


def count_image_tokens(max_pixels: int, patch_multiple: int) -> int:
    """Return the most tokens one frame can take, with its label.

    >>> count_image_tokens(512 * 28 * 28, 28)
    536
    """
    return max_pixels // patch_multiple**2 + IMAGE_TEXT_TOKENS


def _check_adapter(config: DictConfig) -> Iterator[str]:
    """LoRA settings that verl 0.9.1 accepts and that do not do what they say."""
    model = config.actor_rollout_ref.model
    if model.lora_rank <= 0:
        return
    if model.target_modules == "all-linear" and not model.exclude_modules and not model.lora.merge:
        yield (
            "actor_rollout_ref.model.exclude_modules must name the vision tower ('.*visual.*' for Qwen-VL): it would "
            "get adapters, too, and vLLM applies those of the language model only"
        )
    if "hf_model" in config.actor_rollout_ref.actor.checkpoint.save_contents:
        yield (
            "actor_rollout_ref.actor.checkpoint.save_contents must not have hf_model with LoRA: verl writes a folder "
            "that nothing can load; use [model,optimizer,extra] and see docs/seven_b.md"
        )


def _check_model(config: DictConfig) -> Iterator[str]:
    path = Path(config.actor_rollout_ref.model.path).expanduser()
    looks_local = str(config.actor_rollout_ref.model.path).startswith(("/", ".", "~"))
    if looks_local and not (path / "config.json").is_file():
        yield f"actor_rollout_ref.model.path: no model in {str(path)!r} (config.json is missing)"
    for role in ("actor", "ref"):
        dtype = config.actor_rollout_ref[role].fsdp_config.model_dtype
        if dtype not in ("fp32", "float32"):
            yield (
                f"actor_rollout_ref.{role}.fsdp_config.model_dtype must be 'fp32', got {dtype!r}: verl would round the "
                "frequencies of the rotary embedding, too; it computes in bfloat16 anyway"
            )


def _check_data(config: DictConfig, settings: Settings) -> Iterator[str]:
    """Look at the first row of every data file, and for its videos."""
    for key in ("train_files", "val_files"):
        files = config.data[key]
        for file in files if isinstance(files, list | ListConfig) else [files]:
            path = Path(file).expanduser()
            if not path.is_file():
                yield f"data.{key}: no such file: {str(path)!r}; make one with `python -m data_prep.build`"
                continue
            yield from _check_rows(f"data.{key}", path, settings)
    root = settings.frames.video_root
    if root is not None and not Path(root).is_dir():
        yield f"videosearch.frames.video_root: no such folder: {root!r}"


def _check_rows(key: str, path: Path, settings: Settings) -> Iterator[str]:
    try:
        rows = next(pq.ParquetFile(path).iter_batches(batch_size=1)).to_pylist()
        from_row(rows[0]).resolve_videos(settings.frames.video_root)
    except StopIteration:
        yield f"{key}: {str(path)!r} has no rows"
    except (ValueError, OSError) as error:
        yield f"{key}: {str(path)!r}: {error}"
