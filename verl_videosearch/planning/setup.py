"""What a composed recipe decides about memory and time.

The one idea: the recipe is composed as verl composes it, with the same overrides as on the training
command line; verl's two programs name the same things differently, and here they have one name.
"""

from __future__ import annotations

from dataclasses import dataclass

from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from verl_videosearch.verl_plugin.preflight.engine import ACTOR_ENGINE, find_sequence_parallel
from verl_videosearch.verl_plugin.settings import Settings

GIB = 2**30
BYTES = {"fp32": 4, "float32": 4, "bf16": 2, "bfloat16": 2}
NUM_STEPS = 75
"""Of GRPO, where a command counts epochs instead: those of videosearch_grpo."""
IMAGE_CACHE_GIB = 4.0
"""Of one process of a vLLM server, where a recipe sets no limit (vLLM 0.24)."""


@dataclass(frozen=True)
class Engine:
    """vLLM beside the trainer."""

    utilization: float
    tensor_parallel: int
    max_context: int
    max_model_len: int | None
    is_adapter: bool
    """LoRA is sent as an adapter; the weights sleep in host memory."""
    has_reference: bool
    """A second copy of the model, for the KL term; with LoRA the model without its adapter is the
    reference."""
    bucket_bytes: int
    """Buffer through which the trainer sends weights to vLLM."""
    num_episodes: int
    """Of one rollout batch."""
    num_validated: int
    """Episodes of one batch of validation."""
    num_running: int
    """Episodes that run at once, on all nodes together."""
    num_workers: int
    """Processes that run episodes."""
    image_cache_gib: float
    """Processed images that each process of a vLLM server may keep."""
    num_steps: int
    validate_every: int
    """Steps; 0: never."""
    save_every: int
    """Steps; 0: never."""


@dataclass(frozen=True)
class Setup:
    """What a composed recipe decides about memory."""

    num_gpus: int
    num_nodes: int
    weight_bytes: int
    """Of a stored weight; gradients and both of Adam's moments have the same dtype."""
    token_budget: int
    """Tokens of a micro-batch per GPU."""
    sequence_parallel: int
    lora_rank: int
    exclude_modules: str | None
    is_vision_frozen: bool
    offloads_weights: bool
    offloads_optimizer: bool
    save_contents: tuple[str, ...]
    num_kept: int | None
    """Checkpoints at the end of the run; None: all, and the recipe does not say how many are
    made."""
    settings: Settings
    engine: Engine | None
    """None for SFT."""


def compose_config(recipe: str, overrides: tuple[str, ...] = ()) -> DictConfig:
    """Compose a recipe as verl's programs do."""
    is_sft = "cold_start" in recipe or "rft" in recipe
    main_config = "sft_trainer_engine" if is_sft else "ppo_trainer"
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose(main_config, overrides=[f"+recipe={recipe}", *overrides])


def read_setup(config: DictConfig) -> Setup:
    """Read what decides about memory; the two programs of verl name it differently."""
    is_grpo = "actor_rollout_ref" in config
    model = config.actor_rollout_ref.model if is_grpo else config.model
    actor = config.actor_rollout_ref.actor if is_grpo else config
    fsdp = actor.fsdp_config if is_grpo else config.engine
    return Setup(
        num_gpus=config.trainer.nnodes * config.trainer.n_gpus_per_node,
        num_nodes=config.trainer.nnodes,
        weight_bytes=BYTES[fsdp.model_dtype],
        token_budget=actor.ppo_max_token_len_per_gpu
        if is_grpo
        else config.data.max_token_len_per_gpu,
        sequence_parallel=find_sequence_parallel(config, ACTOR_ENGINE if is_grpo else "engine")[1],
        lora_rank=model.lora_rank,
        exclude_modules=model.exclude_modules,
        is_vision_frozen=str(model.external_lib).endswith("frozen_vision"),
        offloads_weights=fsdp.param_offload,
        offloads_optimizer=fsdp.optimizer_offload,
        save_contents=tuple(actor.checkpoint.save_contents),
        num_kept=count_kept(config),
        settings=Settings.from_dict(OmegaConf.to_container(config.videosearch, resolve=True)),
        engine=read_engine(config) if is_grpo else None,
    )


def count_kept(config: DictConfig) -> int | None:
    """Return how many checkpoints a run leaves; where nothing limits them, all that it makes, the
    last step's included."""
    trainer = config.trainer
    is_grpo = "actor_rollout_ref" in config
    limit = trainer.max_actor_ckpt_to_keep if is_grpo else trainer.max_ckpt_to_keep
    made = count_saved(config, NUM_STEPS if is_grpo else None)
    numbers = [number for number in (limit or None, made) if number is not None]
    return min(numbers, default=None)


def count_saved(config: DictConfig, default_steps: int | None) -> int | None:
    """Return how often a run saves; None where that depends on the number of traces."""
    trainer = config.trainer
    steps, every = trainer.total_training_steps or default_steps, trainer.save_freq
    if every == "after_each_epoch":
        return int(trainer.total_epochs)
    if every <= 0:
        return 0
    return None if steps is None else -(-steps // every)


def read_engine(config: DictConfig) -> Engine:
    """Read what decides about vLLM and its episodes."""
    rollout, model = config.actor_rollout_ref.rollout, config.actor_rollout_ref.model
    running = rollout.agent.num_workers * config.videosearch.rollout.max_running_episodes
    num_episodes = config.data.train_batch_size * rollout.n
    cache = OmegaConf.select(rollout, "engine_kwargs.vllm.mm_processor_cache_gb")
    return Engine(
        utilization=rollout.gpu_memory_utilization,
        tensor_parallel=rollout.tensor_model_parallel_size,
        max_context=rollout.prompt_length + rollout.response_length,
        max_model_len=rollout.max_model_len,
        is_adapter=model.lora_rank > 0 and not model.lora.merge,
        has_reference=config.actor_rollout_ref.actor.use_kl_loss and model.lora_rank == 0,
        bucket_bytes=rollout.checkpoint_engine.update_weights_bucket_megabytes << 20,
        num_episodes=num_episodes,
        num_validated=(config.data.val_batch_size or num_episodes) * rollout.val_kwargs.n,
        num_running=min(running, num_episodes),
        num_workers=rollout.agent.num_workers,
        image_cache_gib=IMAGE_CACHE_GIB if cache is None else float(cache),
        num_steps=config.trainer.total_training_steps or NUM_STEPS,
        validate_every=max(config.trainer.test_freq, 0),
        save_every=max(config.trainer.save_freq, 0),
    )
