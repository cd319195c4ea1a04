"""ScriptedAgentLoop: real episodes of a model with random weights, at the engine's true cost.

The one idea: the engine generates as many tokens as the script has, from the true context and its
images, and then the script stands in for what it wrote. So prefill, decoding, caches, sequences,
windows and training cost what they cost with a trained model; only log-probabilities and agreement
mean nothing.

Used through verl's own list of agent loops (`agent_loops.yaml`, beside this file)::

    actor_rollout_ref.rollout.agent.agent_loop_config_path=benchmarks/gpu_check/agent_loops.yaml
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from verl_videosearch.judgement import DEFAULT_DIMENSIONS, LABELS, OVERALL
from verl_videosearch.verl_plugin.agent_loop import VideoSearchAgentLoop

CALLS = (0, 1, 1, 1, 2, 2, 3)
"""Calls of an episode, each as likely: mean 1.4, as in the paper."""
WORDS = [
    "the",
    "first",
    "video",
    "keeps",
    "its",
    "shape",
    "while",
    "second",
    "one",
    "flickers",
    "near",
    "edge",
    "and",
    "motion",
    "looks",
    "smooth",
    "steady",
    "blurred",
    "sharp",
    "noise",
]
NUM_THOUGHT_WORDS = 220
FRAMES_PER_CALL = 8


class ScriptedAgentLoop(VideoSearchAgentLoop):
    """The agent loop of the recipes whose engine writes a script."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.server_manager = ScriptedEngine(self.server_manager, self.tokenizer, self.settings)


class ScriptedEngine:
    """Stands before verl's engine and replaces what it wrote."""

    def __init__(self, engine: Any, tokenizer: Any, settings: Any) -> None:
        self._engine, self._tokenizer, self._episode = engine, tokenizer, settings.episode
        self._num_turns: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def generate(
        self, request_id: str, *, sampling_params: dict[str, Any], **request: Any
    ) -> Any:
        """Generate as many tokens as the script has, and return the script."""
        turn = self._num_turns[request_id]
        self._num_turns[request_id] += 1
        text = write_reply(request_id, turn, self._episode)
        script = self._tokenizer.encode(text, add_special_tokens=False)
        length = {"max_tokens": len(script), "min_tokens": len(script), "ignore_eos": True}
        output = await self._engine.generate(
            request_id=request_id,
            sampling_params=sampling_params | length | {"stop": []},
            **request,
        )
        output.token_ids, output.log_probs = script, [-1.0] * len(script)
        return output


def write_reply(request_id: str, turn: int, episode: Any) -> str:
    """Write a well-formed turn; the same request always gets the same script.

    >>> from verl_videosearch.episode import EpisodeConfig
    >>> texts = [write_reply(str(n), 0, EpisodeConfig()) for n in range(50)]
    >>> 0 < sum("<tool_call>" in text for text in texts) < 50
    True
    """
    num_calls = min(random.Random(request_id).choice(CALLS), episode.max_tool_calls)
    draw = random.Random(f"{request_id} {turn}")
    keys = [*(dimension.key for dimension in DEFAULT_DIMENSIONS), OVERALL]
    verdict = ", ".join(f"{key}={draw.choice(LABELS)}" for key in keys)
    thought = " ".join(draw.choices(WORDS, k=NUM_THOUGHT_WORDS))
    opening = f"<Snapshot>frames look alike</Snapshot>\n<Think>{thought}</Think>\n"
    if turn >= num_calls:
        return f"{opening}<Answer>{verdict}</Answer>"
    num_frames = min(FRAMES_PER_CALL, episode.max_frames_per_call)
    frames = sorted(draw.sample(range(1, 2 * episode.frames_per_video + 1), num_frames))
    return (
        f"{opening}<Recommend Answer>{verdict}, CF=2</Recommend Answer>\n"
        '<tool_call>{"name": "select_frames", "arguments": {"target_frames": '
        f"{frames}}}}}</tool_call>"
    )
