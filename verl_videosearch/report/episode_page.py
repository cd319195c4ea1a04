"""The page of episodes: one file that shows what judges looked at, said and decided.

    videosearch report runs/genai -o report.html

The one idea: the page is complete and inert, and opens at once however much it holds. First comes
an index of one short entry an episode, from which a small script shows the list, a part at a time;
behind it the markup of every pair, packed, and the pictures, one block a film. A block is unpacked
when somebody asks for it. Nothing is loaded from elsewhere, and text of models and prompts is
escaped when the page is made.

    report.html#UID%20AB        a link to one episode: `#` and its key

Covers: everything that is an `EpisodeRecord`. Does not cover: figures over many (`evaluation`)."""

from __future__ import annotations

import base64
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from verl_videosearch.judgement import OVERALL
from verl_videosearch.report.episode_view import Column, FrameView, PairView, Source, make_views
from verl_videosearch.report.markup import mark_safe, render, write_page
from verl_videosearch.report.plain_text import clean_line
from verl_videosearch.report.thumbnails import Thumbnails
from verl_videosearch.runs.folder import EPISODES, JOURNAL
from verl_videosearch.runs.record import EpisodeRecord
from verl_videosearch.runs.record_file import RecordError, read_records, settle_records
from verl_videosearch.video.store import FrameStore

_FILTERS = {
    "right": "right or wrong",
    "outcome": "outcome",
    "failure": "failure",
    "verdict": "verdict",
    "calls": "calls",
    "type": "pair type",
    "model": "model",
    "order": "order",
    "kind": "program",
    "source": "run",
    "step": "step",
}
"""Name of a filter to its title, in the order of the page."""
_SIGNS = {"right": "✓", "wrong": "✗", "failed": "!", "no label": "·"}
_MAX_TITLE = 160
"""Letters of a prompt that the list holds; what is searched is all of it."""
_MAX_CHOICES = 200
"""Of one filter; more of them help nobody."""
MAX_EPISODES = 1000
"""What a page shows unless more are asked for: about 100 MB."""


@dataclass(frozen=True)
class Row:
    """One line of the list."""

    anchor: str
    pair: str
    uid: str
    order: str
    title: str
    sub: str
    sign: str
    values: Mapping[str, str]
    """Name of each filter to what this episode is."""


@dataclass(frozen=True)
class Filter:
    """One choice above the list."""

    name: str
    title: str
    values: Sequence[tuple[str, int]]
    """Each value with the number of its episodes."""


@dataclass(frozen=True)
class WrittenPage:
    """What `write_episode_page` has written."""

    path: Path
    num_episodes: int
    num_bytes: int
    num_left_out: int
    """Episodes that a limit kept away."""
    problems: tuple[str, ...]
    """Why videos have no pictures, each once."""

    def describe(self) -> str:
        """Say it in one line.

        >>> WrittenPage(Path("a.html"), 2, 3_000_000, 7, ()).describe()
        'a.html: 2 of 9 episodes, 3.0 MB'
        """
        total = self.num_episodes + self.num_left_out
        shown = f"{self.num_episodes} of {total}" if self.num_left_out else f"{total}"
        words = f"{self.path}: {shown} episodes, {self.num_bytes / 1e6:.1f} MB"
        if self.problems:
            words += f"; {len(self.problems)} videos have no pictures: {self.problems[0]}"
        return words


def read_sources(paths: Sequence[Path]) -> tuple[list[Source], list[str]]:
    """Read runs (folders) and files of episodes; returns them and what is wrong with lines that do
    not count. Of a run that is not finished, what has been played so far."""
    sources, damaged = [], []
    for path in paths:
        file = read_records(_find_file(path))
        damaged += file.damaged
        name = path.name if path.is_dir() else path.stem
        sources.append(Source(name, settle_records(file.records)))
    return sources, damaged


def _find_file(path: Path) -> Path:
    """Return the file of episodes of a run's folder."""
    if not path.is_dir():
        return path
    for name in (EPISODES, JOURNAL):
        if (path / name).is_file():
            return path / name
    raise RecordError(
        f"{path} holds neither {EPISODES} nor {JOURNAL}: give the folder of a run, or a file of "
        "episodes (*.jsonl)"
    )


def draw_episodes(sources: Sequence[Source], limit: int, seed: int) -> list[Source]:
    """Keep at most so many episodes, both orders of a pair together where they fit."""
    pairs: dict[tuple[int, str], list[EpisodeRecord]] = {}
    for number, source in enumerate(sources):
        for record in source.records:
            pairs.setdefault((number, record.uid), []).append(record)
    names = sorted(pairs)
    Random(seed).shuffle(names)
    kept = [(name[0], record) for name in names for record in pairs[name]][:limit]
    chosen = {(number, record.key) for number, record in kept}
    return [
        Source(source.name, [r for r in source.records if (number, r.key) in chosen])
        for number, source in enumerate(sources)
    ]


def write_episode_page(
    sources: Sequence[Source],
    path: str | Path,
    *,
    title: str = "Episodes",
    store: FrameStore | None = None,
    video_root: Path | None = None,
    limit: int | None = MAX_EPISODES,
    seed: int = 0,
    links: Sequence[tuple[str, str]] = (),
    facts: Sequence[tuple[str, str]] = (),
) -> WrittenPage:
    """Write the page of these episodes in one step.

    Frames come from `store` (None: the default one); videos that cannot be read are named on the
    page. Of more than `limit` episodes (None: any number) some are drawn by `seed`. `links` are
    (name, file beside the page); `facts` stand with every pair."""
    num_given = sum(len(source.records) for source in sources)
    if limit is not None and num_given > limit:
        sources = draw_episodes(sources, limit, seed)
    thumbnails = Thumbnails(store or FrameStore(), video_root)
    views = [replace(view, facts=tuple(facts)) for view in make_views(sources, thumbnails)]
    rows = [_make_row(view, column) for view in views for column in view.columns]
    text = "".join(_write_document(title, views, rows, thumbnails, links))
    written = write_page(path, text)
    problems = dict.fromkeys(
        f"{strip.path}: {strip.problem}" for view in views for strip in view.strips if strip.problem
    )
    num_left_out = num_given - len(rows)
    return WrittenPage(written, len(rows), written.stat().st_size, num_left_out, tuple(problems))


def render_inline(
    source: Source,
    store: FrameStore | None = None,
    video_root: Path | None = None,
    facts: Sequence[tuple[str, str]] = (),
) -> str:
    """Return episodes as one element with its own style and no script, for notebooks."""
    thumbnails = Thumbnails(store or FrameStore(), video_root)

    def picture(frame: FrameView) -> Any:
        content = thumbnails.pictures[frame.film][frame.picture]
        return mark_safe(f'src="data:image/webp;base64,{content}"')

    views = [replace(view, facts=tuple(facts)) for view in make_views([source], thumbnails)]
    pairs = [render("episode.html", pair=view, picture=picture) for view in views]
    return render("inline.html", pairs=[mark_safe(pair) for pair in pairs])


def _write_document(
    title: str,
    views: Sequence[PairView],
    rows: Sequence[Row],
    thumbnails: Thumbnails,
    links: Sequence[tuple[str, str]],
) -> Iterator[str]:
    """Yield the page: the index and its script first, so that the list shows while the rest is
    read."""
    yield render(
        "report.html",
        title=title,
        index=pack_text(_write_index(rows)),
        num_episodes=len(rows),
        filters=list(_list_filters(rows)),
        links=links,
    )
    written: set[str] = set()
    for view in views:
        yield _write_block(
            view.name, pack_text(render("episode.html", pair=view, picture=_name_picture))
        )
        films = {f.frame.film for strip in view.strips for f in strip.frames if f.frame.film}
        for film in sorted(films - written):
            lines = (f"{index} {text}" for index, text in thumbnails.pictures[film].items())
            yield _write_block(film, "\n".join(lines))
        written |= films
    texts = "\n".join(_list_words(view, column) for view in views for column in view.columns)
    yield _write_block("texts", pack_text(texts))
    yield "</body>\n</html>\n"


def _write_block(name: str, content: str) -> str:
    """Write a block that the script finds by its name. `content` is Base64, digits and blanks: a
    browser reads such text several times faster than markup."""
    return f'<div hidden id="{name}">{content}</div>\n'


def pack_text(text: str) -> str:
    """Return a text deflated, as Base64; lone surrogates become question marks.

    >>> packed = pack_text("frame " * 50)
    >>> len(packed) < 50, zlib.decompress(base64.b64decode(packed)).startswith(b"frame frame")
    (True, True)
    """
    packed = zlib.compress(text.encode("utf-8", "replace"), 6)
    return base64.b64encode(packed).decode("ascii")


def _write_index(rows: Sequence[Row]) -> str:
    """Return the list as JSON, an entry an episode, in the order of the page."""
    entries = [
        {
            "anchor": row.anchor,
            "pair": row.pair,
            "uid": row.uid,
            "order": row.order,
            "title": row.title[:_MAX_TITLE],
            "sub": row.sub,
            "sign": row.sign,
            "values": {name: value for name, value in row.values.items() if value},
        }
        for row in rows
    ]
    return json.dumps(entries, ensure_ascii=False, separators=(",", ":"))


def _name_picture(frame: FrameView) -> Any:
    """Return the attributes by which the script finds a picture."""
    return mark_safe(f'data-film="{frame.film}" data-index="{frame.picture}"')


def _list_words(view: PairView, column: Column) -> str:
    """Return everything of an episode that one may search for, on one line."""
    record = column.record
    words = [column.anchor, view.prompt, view.source, column.outcome]
    words += [strip.path for strip in view.strips] + [turn.reply for turn in record.turns]
    words += [] if record.failure is None else [record.failure.detail]
    return clean_line(" ".join(words)).lower()


def _make_row(view: PairView, column: Column) -> Row:
    record = column.record
    right = {True: "right", False: "wrong", None: "no label"}[record.is_right]
    right = right if record.has_result else "failed"
    calls = f"{record.num_calls} call{'' if record.num_calls == 1 else 's'}"
    pair_type = str((record.sample.meta if record.sample else {}).get("pair_type", ""))
    final = column.final.get(OVERALL)
    verdict = final.word if final is not None else "none"
    values = {
        "right": right,
        "outcome": record.outcome.replace("_", " "),
        "failure": record.failure.label if record.failure else "",
        "verdict": verdict,
        "calls": calls,
        "type": pair_type,
        "model": record.identity.model or "",
        "order": record.order.value,
        "kind": record.kind.value,
        "source": view.source,
        "step": "" if record.step is None else str(record.step),
    }
    said = verdict if final is not None else column.outcome
    parts = [said, calls, pair_type, record.uid]
    return Row(
        column.anchor,
        view.name,
        record.uid,
        record.order.value,
        view.prompt or record.uid,
        " · ".join(part for part in parts if part),
        _SIGNS[right],
        {name: clean_line(value) for name, value in values.items()},
    )


def _list_filters(rows: Sequence[Row]) -> Iterator[Filter]:
    """Yield the filters that have something to choose, each value with its number."""
    for name, title in _FILTERS.items():
        counts = Counter(row.values[name] for row in rows if row.values[name])
        is_choice = len(counts) > 1 or (counts and sum(counts.values()) < len(rows))
        if is_choice and len(counts) <= _MAX_CHOICES:
            yield Filter(name, title, sorted(counts.items(), key=_sort_number))


def _sort_number(entry: tuple[str, int]) -> tuple[int, str]:
    """Sort numbers as numbers: `2 calls` before `10 calls`."""
    first = entry[0].split(" ")[0]
    return (int(first) if first.isdigit() and first.isascii() else -1, entry[0])
