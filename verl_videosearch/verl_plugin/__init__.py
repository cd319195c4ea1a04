"""Hook the package into verl 0.9.1: `import verl` loads this module in every process (entry point,
`verl.plugins`).

The one idea: nothing is imported here, only announced. Each hook waits for a module and runs right
after its import:

    hydra                                    -> `+recipe=NAME` finds the recipes of this package
                                             from any folder
    verl.experimental.agent_loop.agent_loop  -> the agent loop `videosearch` is known by name,
    frames travel as references
    verl.workers.engine.fsdp.transformer_impl  -> and become pixels in the worker that trains;
    log-probabilities are taken in blocks; banned ids have no probability
    verl.trainer.ppo.v1                      -> our trainer registers itself
    verl.utils.config, verl.utils.device     -> a wrong setting or file is named before anything
                                             starts
    verl.models.transformers.qwen2_vl        -> a micro-batch without images works
    verl.utils.checkpoint.checkpoint_handler -> a supervised checkpoint says how it was trained, and
                                             a killed run goes on with the epoch that is next
    verl.workers.utils.losses                -> every sampled token of an episode weighs the same
    verl.plugin.platform and others          -> without an accelerator: training on the CPU (package
                                             `cpu`)

`VERL_USE_EXTERNAL_PLUGINS=none` switches all of it off.
"""

from importlib import import_module
from types import ModuleType
from typing import Any

from verl_videosearch.verl_plugin import cpu
from verl_videosearch.verl_plugin.hooks import log_failure, on_import

AGENT_LOOP = "verl_videosearch.verl_plugin.agent_loop.VideoSearchAgentLoop"


def register() -> None:
    """Announce every hook; one whose module is imported already runs at once."""
    on_import("hydra", add_recipes)
    on_import("verl.experimental.agent_loop.agent_loop", add_agent_loop)
    on_import(
        "verl.trainer.ppo.v1", lambda _: import_module("verl_videosearch.verl_plugin.trainer")
    )
    on_import("verl.workers.engine.fsdp.transformer_impl", extend_engine)
    on_import("verl.utils.config", check_grpo)
    on_import("verl.utils.device", check_sft)
    on_import("verl.utils.checkpoint.checkpoint_handler", extend_sft_checkpoints)
    on_import("verl.models.transformers.qwen2_vl", allow_text_only_batch)
    on_import("verl.workers.utils.losses", weigh_actor_loss)
    if cpu.is_wanted():
        cpu.activate()


def add_recipes(_hydra: ModuleType) -> None:
    """Let Hydra look for `recipe/NAME.yaml` in the package `verl_videosearch.recipes`, after the
    program's own folders."""
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class RecipeSearchPath(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            search_path.append(provider="verl-videosearch", path="pkg://verl_videosearch.recipes")

    Plugins.instance().register(RecipeSearchPath)


def add_agent_loop(agent_loop: ModuleType) -> None:
    """Register our agent loop by its path, so that only the workers that run it import it; its
    images travel without their pixels."""
    from verl_videosearch.verl_plugin import references

    agent_loop._agent_loop_registry["videosearch"] = {"_target_": AGENT_LOOP}
    references.name_in_agent_loop(agent_loop)


def extend_engine(transformer_impl: ModuleType) -> None:
    """Let the FSDP engine read frames that a batch names, and train the policy that was sampled
    from."""
    from verl_videosearch.verl_plugin import banned_ids, log_probs, references

    references.read_in_engine(transformer_impl)
    log_probs.take_in_engine(transformer_impl)
    banned_ids.leave_out_in_engine(transformer_impl)


def check_grpo(config_module: ModuleType) -> None:
    """Check a GRPO run with the node `videosearch` in the driver."""
    from verl_videosearch.verl_plugin import preflight

    preflight.check_grpo(config_module)


def check_sft(device_module: ModuleType) -> None:
    """Check a supervised run with the node `videosearch` before a model is loaded."""
    if not hasattr(device_module, "auto_set_device"):
        raise AttributeError("verl.utils.device has no auto_set_device")
    auto_set_device = device_module.auto_set_device

    def check_first(config: Any) -> Any:
        from verl_videosearch.verl_plugin import preflight

        return preflight.check_sft(auto_set_device)(config)

    device_module.auto_set_device = check_first


def extend_sft_checkpoints(module: ModuleType) -> None:
    """Let a checkpoint of a supervised run say how it was trained, and a killed run train all that
    was left."""
    from verl_videosearch.verl_plugin import checkpoints, resume

    handler = module.CheckpointHandler
    handler.save_checkpoint = checkpoints.save_with_settings(handler.save_checkpoint)
    handler.load_checkpoint = resume.say_total_steps(handler.load_checkpoint)
    handler._load_dataloader_state = resume.begin_whole_epochs(handler._load_dataloader_state)


def allow_text_only_batch(qwen2_vl: ModuleType) -> None:
    """Repair verl's forward pass of Qwen2-VL and Qwen2.5-VL for a micro-batch without images."""
    from verl_videosearch.verl_plugin.text_only_batch import allow_text_only

    qwen2_vl._get_input_embeds = allow_text_only(qwen2_vl._get_input_embeds)


def weigh_actor_loss(losses: ModuleType) -> None:
    """Let the actor's loss weigh rows by their share of the episode."""
    from verl_videosearch.verl_plugin import weights

    weights.weigh_actor_loss(losses)


with log_failure("register its hooks"):
    register()
