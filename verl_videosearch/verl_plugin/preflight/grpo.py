"""Checks of a GRPO run: what would train something else, not fit, or not divide."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from verl_videosearch.sight import read_model_file
from verl_videosearch.verl_plugin.preflight.data import (
    check_data,
    check_video_root,
    count_rows,
    list_files,
)
from verl_videosearch.verl_plugin.preflight.engine import (
    ACTOR_ENGINE,
    GRPO,
    REFERENCE_ENGINE,
    check_engine,
    count_ranks,
    find_sequence_parallel,
)
from verl_videosearch.verl_plugin.preflight.model import (
    check_folder,
    check_sight,
    check_thoughts,
)
from verl_videosearch.verl_plugin.preflight.run import check_loggers
from verl_videosearch.verl_plugin.settings import Settings

REQUIRED = ("actor_rollout_ref.model.path", "data.train_files", "data.val_files")
"""What a recipe leaves to the user."""
OUR_REWARD = "pkg://verl_videosearch.verl_plugin.reward_fn"
"""`reward.custom_reward_function.path` of our recipes, for stock loops."""
MADE_WITH = "python -m data_prep.build"
IMAGE_TEXT_TOKENS = 24
"""Tokens of the label before a frame, and of the marks around it: measured with Qwen2.5-VL's
tokenizer, rounded up."""


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
        *find_setting_problems(config, settings),
        *_check_model(config, settings),
        *check_data(config, settings, "train_files", MADE_WITH),
        *check_data(config, settings, "val_files", MADE_WITH),
    ]


def find_setting_problems(config: DictConfig, settings: Settings) -> list[str]:
    """Return the mistakes that can be named before the model and the pairs are made."""
    return [
        *_check_method(config),
        *_check_reward(config, settings),
        *_check_sampling(config),
        *_check_batches(config),
        *_check_parallel(config),
        *_check_lengths(config, settings),
        *_check_budgets(config),
        *_check_adapter(config),
        *check_engine(config, GRPO),
        *check_video_root(settings),
        *check_loggers(config),
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
        "actor_rollout_ref.actor.freeze_vision_tower": (
            False,
            "verl 0.9.1 reads it nowhere; actor_rollout_ref.model.external_lib="
            "verl_videosearch.verl_plugin.frozen_vision freezes the tower",
        ),
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


def _check_reward(config: DictConfig, settings: Settings) -> Iterator[str]:
    """verl's own key is never called by our loop, which scores its episodes itself."""
    path = OmegaConf.select(config, "reward.custom_reward_function.path")
    if path not in (None, OUR_REWARD):
        yield (
            f"reward.custom_reward_function.path ({path!r}) would not be called: the agent "
            "loop scores "
            "its own episodes, because verl 0.9.1 cannot score several sequences. Set "
            "videosearch.reward.function=pkg://MODULE:FUNCTION instead; docs/verl.md says what "
            "it gets"
        )


def _check_sampling(config: DictConfig) -> Iterator[str]:
    rollout = config.actor_rollout_ref.rollout
    if not rollout.temperature > 0:
        yield (
            f"actor_rollout_ref.rollout.temperature must be above 0, got {rollout.temperature}: a "
            "group of equal episodes has no signal"
        )
    if not 0 < rollout.gpu_memory_utilization <= 1:
        yield (
            "actor_rollout_ref.rollout.gpu_memory_utilization must be above 0 and at most 1, got "
            f"{rollout.gpu_memory_utilization}: it is a fraction of the card"
        )


def _check_batches(config: DictConfig) -> Iterator[str]:
    batch, mini = config.data.train_batch_size, config.actor_rollout_ref.actor.ppo_mini_batch_size
    num_rollouts = config.actor_rollout_ref.rollout.n
    if mini < 1 or batch < 1 or batch % mini:
        yield (
            f"data.train_batch_size ({batch}) must be a multiple of "
            "actor_rollout_ref.actor.ppo_mini_batch_size "
            f"({mini}), and both at least 1"
        )
    if num_rollouts < 2:
        yield (
            f"actor_rollout_ref.rollout.n must be at least 2, or a group has no "
            f"baseline; got {num_rollouts}"
        )
    files = list_files(config.data.train_files)
    if files and all(Path(file).expanduser().is_file() for file in files):
        try:
            num_rows = count_rows(files)
        except (ValueError, OSError):
            return  # the check of the files says so
        if batch > num_rows:
            yield (
                f"data.train_batch_size ({batch}) is larger than data.train_files, {num_rows} "
                "rows: no "
                "step would be made"
            )


def _check_parallel(config: DictConfig) -> Iterator[str]:
    """Servers that must share the ranks evenly, and the processes that play episodes."""
    ranks = count_ranks(config)
    if ranks < 1:
        yield f"trainer.nnodes * trainer.n_gpus_per_node must be at least 1, got {ranks}"
        return
    size = config.actor_rollout_ref.rollout.tensor_model_parallel_size
    if size < 1 or ranks % size:
        yield (
            f"actor_rollout_ref.rollout.tensor_model_parallel_size ({size}) must divide "
            f"trainer.nnodes * trainer.n_gpus_per_node = {ranks}"
        )
    workers = config.actor_rollout_ref.rollout.agent.num_workers
    if workers < 1:
        yield f"actor_rollout_ref.rollout.agent.num_workers must be at least 1, got {workers}"


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
    # no window forgets text; a call too many is refused, and answered once more
    replies = episode.max_turns * settings.rollout.max_turn_tokens
    total = rollout.prompt_length + rollout.response_length
    if first > rollout.prompt_length:
        yield (
            f"the first view alone may take {first} tokens but data.max_prompt_length is "
            f"{rollout.prompt_length}: "
            f"raise it to about {first + 1000}, or lower videosearch.episode.initial_max_pixels"
        )
    if first + later + replies > total:
        yield (
            f"a context may take {first + later} tokens of images and {replies} of replies, but "
            f"data.max_prompt_length + data.max_response_length is {total}: raise "
            "data.max_response_length"
        )
    if rollout.max_model_len is not None and rollout.max_model_len < total:
        yield (
            f"actor_rollout_ref.rollout.max_model_len ({rollout.max_model_len}) must hold "
            "data.max_prompt_length + "
            f"data.max_response_length = {total} tokens; null is the model's own limit"
        )


def _check_budgets(config: DictConfig) -> Iterator[str]:
    """A micro-batch must hold the longest sequence wherever one is packed: to train, for the old
    log-probabilities, and for those of the reference (a model of its own without LoRA)."""
    node = config.actor_rollout_ref
    total = node.rollout.prompt_length + node.rollout.response_length
    places = [
        ("actor.ppo_max_token_len_per_gpu", "actor.use_dynamic_bsz", ACTOR_ENGINE),
        (
            "rollout.log_prob_max_token_len_per_gpu",
            "rollout.log_prob_use_dynamic_bsz",
            ACTOR_ENGINE,
        ),
    ]
    if node.actor.use_kl_loss and node.model.lora_rank == 0:
        places.append(
            ("ref.log_prob_max_token_len_per_gpu", "ref.log_prob_use_dynamic_bsz", REFERENCE_ENGINE)
        )
    seen = set()
    for name, is_packed, engine in places:
        ulysses, size = find_sequence_parallel(config, engine)
        tokens = OmegaConf.select(node, name)
        if (
            not OmegaConf.select(node, is_packed)
            or tokens * size >= total
            or (tokens, size) in seen
        ):
            continue
        seen.add((tokens, size))  # the other budgets follow the actor's: one mistake
        yield (
            f"actor_rollout_ref.{name} (times ulysses_sequence_parallel_size: {tokens * size}) "
            "must hold one sequence of data.max_prompt_length + data.max_response_length = "
            f"{total} tokens; raise it, or {ulysses} (now {size})"
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
            "actor_rollout_ref.model.exclude_modules must name the vision tower ('.*visual.*' "
            "for Qwen-VL): it would "
            "get adapters, too, and vLLM applies those of the language model only"
        )


def _check_model(config: DictConfig, settings: Settings) -> Iterator[str]:
    path = str(config.actor_rollout_ref.model.path)
    yield from check_folder("actor_rollout_ref.model.path", path)
    yield from check_sight(path, settings.episode)
    yield from check_thoughts(path, settings.episode, config.data.get("apply_chat_template_kwargs"))
    yield from _check_layers(config, path)


def _check_layers(config: DictConfig, model: str) -> Iterator[str]:
    """Layers that vLLM's CPU build computes in one dtype only (its `cpu_gdn_attention_core`)."""
    described = read_model_file(model, "config.json") or {}
    layers = described.get("text_config", described).get("layer_types") or ()
    dtype = config.actor_rollout_ref.rollout.dtype
    if config.trainer.device == "cpu" and "linear_attention" in layers and dtype != "bfloat16":
        yield (
            f"actor_rollout_ref.rollout.dtype is {dtype!r}, but on a CPU vLLM 0.24 computes the "
            "linear attention of this model (Qwen3.5) in bfloat16 only and would end with the "
            "first request: train it on a GPU; to try it out here, set "
            "actor_rollout_ref.rollout.dtype=bfloat16 (engine and trainer then agree less)"
        )
