"""VisualMemory: which tool outcomes' images are visible at a turn.

The one idea: text stays, images go. The initial view is always visible; of the tool's outcomes only
the newest `window` keep their images, so a turn costs about (initial + window * frames per call) *
tokens per frame, whatever the number of turns (paper section 3.2).

>>> visible_outcomes([True, True, False, True], window=1)
frozenset({3})
>>> visible_outcomes([True, True, False], window=1)
frozenset({1})

Decided: only outcomes that brought frames count. A refused call brings none, so it evicts nothing.
"""

from __future__ import annotations

from collections.abc import Sequence


def visible_outcomes(has_frames: Sequence[bool], window: int | None) -> frozenset[int]:
    """Return the indices of the outcomes whose images are visible.

    `has_frames[i]` says whether outcome i brought frames; `window=None` keeps everything; a window
    below 1 is a `ValueError`."""
    if window is not None and window < 1:
        raise ValueError(f"window must be at least 1, or null to keep everything; got {window}")
    with_frames = [index for index, has in enumerate(has_frames) if has]
    return frozenset(with_frames if window is None else with_frames[-window:])
