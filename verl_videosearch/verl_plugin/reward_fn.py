"""compute_score: our scoring as a plain function for verl's reward manager.

The one idea: the agent loop `videosearch` scores its own episodes; this is for stock loops of one
sequence, whose whole reply is one turn. It reads that reply as an episode without calls, and
returns the same parts under the same names.

>>> reply = "<Snapshot>alike</Snapshot><Think>no</Think><Answer>TA=0, VQ=1, MQ=0, OA=1</Answer>"
>>> compute_score("demo", reply, '{"TA": 0, "VQ": 1, "MQ": 0, "OA": 1}')["score"]
2.0
"""

from __future__ import annotations

import json
from typing import Any

from verl_videosearch.episode import Episode, EpisodeConfig, Reply
from verl_videosearch.frames import CandidateFrames
from verl_videosearch.judgement import OVERALL, Dimension
from verl_videosearch.reward import RewardConfig, measure_episode, score_episode
from verl_videosearch.sample import PreferenceSample


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    **reward: Any,
) -> dict[str, float]:
    """Score one reply; `ground_truth` is the row's JSON of labels, `reward` the settings of
    `RewardConfig`.

    The exploration part is 0: one reply knows nothing of its group, and nothing was searched.
    """
    labels = json.loads(ground_truth)
    dimensions = tuple(Dimension(key, key, key) for key in labels if key != OVERALL)
    sample = PreferenceSample("reply", "-", "1", "2", labels, dimensions, source=data_source)
    episode = Episode(
        sample,
        CandidateFrames((0.0,), (0.0,)),
        EpisodeConfig(initial_frames_per_video=1, max_tool_calls=0),
    )
    episode.step(Reply(solution_str))
    if not episode.is_done:  # it called a tool that this loop does not run
        episode.step(Reply(""))
    result = episode.result()
    score = score_episode(result, labels, search_rate=1.0, config=RewardConfig.from_dict(reward))
    return measure_episode(result, score, labels)
