"""Captions: frames shown by one or a few, each time answered with what they show; here a model
learns to see.

The one idea: a dialogue of captions is driven like an `Episode` (`messages`, `step`, `is_done`), so
the same code makes its training sequence. It has no tool, no verdict and no reward, and is for
training only.

>>> from verl_videosearch.episode import images_of
>>> pair = CandidateFrames((0.0, 0.5), (0.0, 0.5))
>>> dialogue = CaptionDialogue(pair, ((2,), (1, 3)), EpisodeConfig())
>>> dialogue.step(Reply("snow"))
>>> [item["frame_number"] for item in images_of(dialogue.messages())], dialogue.is_done
([2, 1, 3], False)

Why it exists: measured on models of a million random parameters, traces alone teach the format and
the choices, and hardly the difference between a clean frame and a mild defect; with captions mixed
in, the same budget teaches both.
"""

from __future__ import annotations

from collections.abc import Sequence

from verl_videosearch import prompts
from verl_videosearch.episode import EpisodeConfig, Message, Reply
from verl_videosearch.frames import CandidateFrames, ImageReference


class CaptionDialogue:
    """Show groups of frames in order, with the labels and pixels of a call; each reply captions the
    newest group."""

    def __init__(
        self,
        candidates: CandidateFrames,
        frame_numbers: Sequence[Sequence[int]],
        config: EpisodeConfig,
    ) -> None:
        self._candidates, self._groups, self._config = candidates, tuple(frame_numbers), config
        self._replies: list[Reply] = []

    @property
    def is_done(self) -> bool:
        return len(self._replies) == len(self._groups)

    def context_grew(self) -> bool:
        """Return True: no frame ever leaves."""
        return True

    def messages(self) -> list[Message]:
        """Render the instruction, the frames captioned so far, and the next one."""
        messages = [{"role": "system", "content": prompts.caption_content(self._config.pack)}]
        for index, numbers in enumerate(self._groups[: len(self._replies) + 1]):
            messages.append({"role": "user", "content": self._show(numbers)})
            if index < len(self._replies):
                messages.append(
                    {
                        "role": "assistant",
                        "content": [{"type": "text", "text": self._replies[index].text}],
                    }
                )
        return messages

    def step(self, reply: Reply) -> None:
        """Take the caption of the newest frames."""
        assert not self.is_done, "everything has its caption"
        self._replies.append(reply)

    def _show(self, numbers: Sequence[int]) -> prompts.Content:
        return prompts.frames_content(
            [ImageReference(number, self._config.tool_max_pixels) for number in numbers],
            self._candidates,
            label_frames=self._config.label_frames,
            pack=self._config.pack,
        )
