"""A comparison as HTML: the verdict, both films as strips, what was asked for and said, by turn.

The one idea: whoever reads the page sees what the judge saw. Frames carry their number and time;
everything that a model or a prompt wrote is escaped; nothing is loaded from anywhere.

Covers: one comparison, for notebooks and `Comparison.to_page`. Does not cover: many episodes with
filters (`report`)."""

from __future__ import annotations

import base64
import html
import os
from io import BytesIO
from pathlib import Path

from verl_videosearch.failures import EpisodeFailure
from verl_videosearch.judge.comparison import Comparison, Reasoning
from verl_videosearch.runs.record import EpisodeRecord
from verl_videosearch.sample import Order
from verl_videosearch.video.pair import PairFrames, load_pair
from verl_videosearch.video.store import FrameStore

_THUMBNAIL_PIXELS = 160 * 90
_STYLE = """
.vs { font: 14px/1.5 system-ui, sans-serif; max-width: 68rem; color: #1d2433; background: #fff;
 padding: .5rem 1rem; overflow-wrap: anywhere }
.vs h2 { font-size: 1.2rem; margin: .4rem 0 } .vs h3 { font-size: 1rem; margin: 1.2rem 0 .3rem }
.vs dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .8rem; margin: 0 }
.vs dt { color: #4d566a } .vs dd { margin: 0 } .vs .words { white-space: pre-wrap; margin: .3rem 0 }
.vs .strip { display: flex; flex-wrap: wrap; gap: .4rem; margin: .3rem 0 }
.vs figure { margin: 0 } .vs img { display: block; max-width: 160px; border-radius: 3px }
.vs figcaption { font-size: .75rem; color: #4d566a }
@media (prefers-color-scheme: dark) { .vs { color: #e6e9ef; background: #14181f }
 .vs dt, .vs figcaption { color: #a9b2c3 } }
"""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title></head><body>{body}</body></html>
"""


def write_comparison_page(comparison: Comparison, path: Path) -> Path:
    """Write the page in one step; returns its path."""
    text = _PAGE.format(
        title=html.escape(comparison.describe()), body=render_comparison(comparison)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, "utf-8", errors="replace")
    os.replace(partial, path)
    return path


def render_comparison(comparison: Comparison) -> str:
    """Return the comparison as one HTML element with its own style."""
    facts = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>"
        for name, value in list_facts(comparison)
    )
    episodes = "".join(_render_episode(comparison, record) for record in comparison.records)
    return (
        f'<div class="vs"><style>{_STYLE}</style><h2>{html.escape(comparison.describe())}</h2>'
        f"<dl>{facts}</dl>{episodes}</div>"
    )


def list_facts(comparison: Comparison) -> list[tuple[str, str]]:
    """Return what stands above the episodes, as (name, text)."""
    verdicts = comparison.verdicts or {}
    names = {dimension.key: dimension.name for dimension in comparison.dimensions}
    words = {0: "tie", 1: "video 1", 2: "video 2"}
    agree = {True: "yes", False: "no", None: "not known"}[comparison.orders_agree]
    confidence = comparison.confidence
    stated = ", ".join(
        f"{order.value}: {'unsaid' if value is None else value}"
        for order, value in comparison.stated_confidence.items()
    )
    return [
        ("prompt", comparison.prompt),
        ("video 1", comparison.video_1),
        ("video 2", comparison.video_2),
        *((names.get(key, "overall"), words[verdict]) for key, verdict in verdicts.items()),
        ("probability", "no calibration" if confidence is None else f"{confidence:.0%}"),
        ("stated confidence (1 high, 3 low)", stated),
        ("orders agree", agree),
        ("tokens", _show_tokens(comparison)),
        ("seconds", f"{comparison.seconds:.1f}"),
    ]


def _show_tokens(comparison: Comparison) -> str:
    read, written = comparison.num_prompt_tokens, comparison.num_reply_tokens
    return "not counted" if read is None else f"{read} read, {written} written"


def _render_episode(comparison: Comparison, record: EpisodeRecord) -> str:
    """Render one order: first view, then each turn with the frames that its call brought."""
    swapped = "" if record.order is Order.AB else " - it saw video 2 first and calls it video 1"
    pair = _load(comparison, record)
    turns = [
        _render_turn(reasoning, turn.shown, record, pair)
        for reasoning, turn in zip(
            (each for each in comparison.reasoning if each.order is record.order),
            record.turns,
            strict=True,
        )
    ]
    missing = "" if pair else "<p>The videos cannot be read any more; no pictures.</p>"
    return (
        f"<h3>Order {record.order.value}{swapped}</h3>{missing}"
        f"{_render_strip(record, record.initial_frames, pair)}{''.join(turns)}"
    )


def _render_turn(
    reasoning: Reasoning, shown: tuple[int, ...], record: EpisodeRecord, pair: PairFrames | None
) -> str:
    words = "\n".join(text for text in (reasoning.snapshot, reasoning.thought) if text)
    asked = f"<p>asked for frames {', '.join(map(str, shown))}:</p>" if shown else ""
    return (
        f"<h3>Turn {reasoning.turn}</h3><p class='words'>{html.escape(words)}</p>{asked}"
        f"{_render_strip(record, shown, pair)}"
    )


def _render_strip(record: EpisodeRecord, numbers: tuple[int, ...], pair: PairFrames | None) -> str:
    if pair is None or not numbers:
        return ""
    figures = []
    for number in numbers:
        location = pair.candidates.locate(number)
        video = location.video if record.order is Order.AB else 3 - location.video
        caption = f"frame {number}, video {video}, {pair.candidates.time_s(number):.2f} s"
        figures.append(
            f"<figure><img alt='{caption}' src='{_to_thumbnail(pair, number)}'>"
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return f"<div class='strip'>{''.join(figures)}</div>"


def _to_thumbnail(pair: PairFrames, number: int) -> str:
    image = pair.image(number, 10**9)
    scale = min(1.0, (_THUMBNAIL_PIXELS / (image.width * image.height)) ** 0.5)
    image = image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))))
    buffer = BytesIO()
    image.convert("RGB").save(buffer, format="JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _load(comparison: Comparison, record: EpisodeRecord) -> PairFrames | None:
    """Read the frames as shown; None when the videos are gone or broken now."""
    try:
        store = comparison.store or FrameStore()
        return load_pair(record.shown, store, record.episode_config)
    except EpisodeFailure:
        return None
