"""Hostile replies, from the raw text to the verdict.

The one idea: a text has one verdict, however it came. Each reply is made whole and as an engine
would that stops at every stop string; it is cleaned twice; and its episode is written, read and
replayed. All must agree, and where a reply is built around a verdict, with that verdict.

Covers: make_reply, is_finished, parse_turn, Episode.step, records. Does not cover: token ids."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from benchmarks.faults.tally import End, Outcome, Trial
from tests.episode_contract import SAMPLE, pair_of
from verl_videosearch.episode import Episode, EpisodeConfig
from verl_videosearch.judgement import (
    STOP_STRINGS,
    Judgement,
    Reading,
    format_judgement,
    parse_turn,
)
from verl_videosearch.prompts import PromptPack, load_pack
from verl_videosearch.reply import Reply, ThoughtForm, is_finished, make_reply
from verl_videosearch.runs.record import RecordKind, record_episode, replay_episode
from verl_videosearch.runs.record_file import parse_record, write_record
from verl_videosearch.sample import Order

KEYS = SAMPLE.dimension_keys
CANDIDATES = pair_of(12, 12)
SPECIAL = frozenset({"<|im_end|>", "<|image_pad|>", "<tool_call>", "</think>", "<think>", "<mask>"})
"""Tokens of a tokenizer at hand; some are tags of ours."""
WORDS = {"video 1 is better": 1, "video 2 is better": 2, "tie": 0}
"""Of a pack whose judge answers in words."""
_STOP = re.compile("|".join(map(re.escape, STOP_STRINGS)))
_PIECES = (
    "<Think>", "</Think>", "<think>", "</think>", "<Snapshot>", "</Snapshot>", "<Answer>",
    "</Answer>", "</answer>", "<Final Answer>", "</Final Answer>", "</final answer>", "<tool_call>",
    "</tool_call>", "<Recommend Answer>", "</Recommend Answer>", "</ Answer >", "<\nAnswer>",
    "TA=1, VQ=0, MQ=2, OA=1", "TA=2,VQ=2,MQ=2,OA=2", "TA=0/1/2", "OA=", "=", ",", "CF=1", "{", "}",
    '{"name": "select_frames", "arguments": {"target_frames": [1, 13]}}', "[1, 2", "null", "NaN",
    "1e999", "9" * 400, "<|im_end|>", "<|image_pad|>", "<|im_start|>assistant", "\udcff", "\ud83d",
    "\0", "\x1b[2J", "\u202e", "\u2028", "<", ">", "</", "/>", "&lt;Answer&gt;", "<Ansẅer>",
    "ſnapshot", "<ſnapshot>", " ", "\n", "Video 1 is better", "good", "é", "𝕏", "[INST]", "</s>",
)  # fmt: skip


RECORDED_SHARE = 0.25


@dataclass(frozen=True)
class Case:
    """One raw reply and what is known of it."""

    kind: str
    raw: str
    expected: Reading | None = None
    """Its verdict, where it is built around one."""
    thought: ThoughtForm | None = None
    is_truncated: bool = False
    pack: str = "full"
    """`full`, `brief`, or `words`: of a judge that answers in words."""


def _draw_judgement(rng: random.Random) -> Judgement:
    confidence = rng.choice([None, 1, 2, 3])
    return Judgement({key: rng.randrange(3) for key in (*KEYS, "OA")}, confidence)


def _write_answer(rng: random.Random, judgement: Judgement) -> str:
    tag = rng.choice(["Answer", "answer", "Final Answer", "final answer"])
    blank = rng.choice(["", " ", "\n"])
    return f"<{tag}>{blank}{format_judgement(judgement)}{blank}</{tag}>"


def _write_call(rng: random.Random) -> str:
    numbers = [rng.randrange(-1, 30) for _ in range(rng.randrange(0, 10))]
    arguments = rng.choice([f'{{"target_frames": {numbers}}}', "{}", "null", f"{numbers}"])
    return f'<tool_call>{{"name": "select_frames", "arguments": {arguments}}}</tool_call>'


def _write_draft(rng: random.Random) -> str:
    """Write what a model says while it thinks: drafts, quoted forms, quoted calls."""
    kinds: list[Callable[[], str]] = [
        lambda: _write_answer(rng, _draw_judgement(rng)),
        lambda: "<Answer>TA=0/1/2, VQ=0/1/2, MQ=0/1/2, OA=0/1/2</Answer>",
        lambda: _write_call(rng),
        lambda: "the <Answer> tag, or <tool_call>",
        lambda: "</Answer> ends it",
        lambda: "<Recommend Answer>TA=0</Recommend Answer>",
        lambda: "no wait, " * rng.randrange(1, 5),
    ]
    return " ".join(rng.choice(kinds)() for _ in range(rng.randrange(1, 5)))


def _draft(rng: random.Random) -> Case:
    tag, verdict = rng.choice(["Think", "think", "Snapshot", "THINK"]), _draw_judgement(rng)
    raw = f"<{tag}>{_write_draft(rng)}</{tag}>{rng.choice(['', ' ', chr(10)])}"
    return Case("draft or quote in a closed block", raw + _write_answer(rng, verdict), verdict)


def _nested(rng: random.Random) -> Case:
    verdict, depth = _draw_judgement(rng), rng.randrange(2, 30)
    tags = [rng.choice(["Think", "Snapshot", "Recommend Answer"]) for _ in range(depth)]
    opened = "".join(f"<{tag}>" for tag in tags)
    closed = "".join(f"</{tag}>" for tag in reversed(tags))
    raw = f"{opened}{_write_draft(rng)}{closed}{_write_answer(rng, verdict)} bye"
    return Case("nested blocks", raw, verdict)


def _unclosed(rng: random.Random) -> Case:
    answers = [_draw_judgement(rng) for _ in range(rng.randrange(1, 4))]
    written = " so ".join(_write_answer(rng, each) for each in answers)
    return Case("block never closed", f"<Think>perhaps {written}", answers[-1])


def _thought(rng: random.Random) -> Case:
    verdict, form = _draw_judgement(rng), ThoughtForm(is_opened=rng.random() < 0.5)
    opening = "" if form.is_opened else form.opening
    draft = _write_draft(rng).replace("</think>", "")
    act = _write_answer(rng, verdict)
    return Case("native thought", f"{opening}{draft}</think>\n{act}", verdict, form)


def _unclosed_thought(rng: random.Random) -> Case:
    form = ThoughtForm(is_opened=True)
    return Case("native thought never closed", _write_draft(rng), None, form, rng.random() < 0.5)


def _call(rng: random.Random) -> Case:
    raw = f"<Snapshot>a</Snapshot><Think>{_write_draft(rng)}</Think>{_write_call(rng)}"
    return Case("call, good or bad", raw)


def _soup(rng: random.Random) -> Case:
    pieces = rng.choices(_PIECES, k=rng.randrange(0, 40))
    form = rng.choice([None, None, ThoughtForm(), ThoughtForm(is_opened=True)])
    return Case("tags in any order", "".join(pieces), None, form, rng.random() < 0.3)


def _mutated(rng: random.Random) -> Case:
    letters = list(rng.choice([_draft, _nested, _call])(rng).raw)
    for _ in range(rng.randrange(1, 8)):
        place = rng.randrange(len(letters) + 1)
        letters[place : place + rng.randrange(3)] = rng.choice(_PIECES + ("", "x"))
    return Case("changed in some places", "".join(letters), None, None, rng.random() < 0.3)


def _noise(rng: random.Random) -> Case:
    limit = rng.choice([0x80, 0x800, 0x11_0000])
    raw = "".join(chr(rng.randrange(limit)) for _ in range(rng.randrange(200)))
    return Case("any characters", raw, None, None, rng.random() < 0.3)


def _control(rng: random.Random) -> Case:
    verdict = _draw_judgement(rng)
    tokens = ("<|im_end|>", "<|image_pad|>", "<mask>", "\udcff", "<｜end▁of▁sentence｜>", "\ud800")
    seen = "".join(rng.choices(tokens, k=4))
    raw = f"<Snapshot>{seen}</Snapshot><Think>{seen}</Think>{_write_answer(rng, verdict)}{seen}"
    return Case("control tokens and surrogates", raw, verdict)


def _words(rng: random.Random) -> Case:
    word = rng.choice([*WORDS])
    verdict = Judgement({"OA": WORDS[word]})
    raw = f"<Think>{_write_draft(rng)}</Think><Answer> {word.upper()}.\n</Answer>"
    return Case("pack that answers in words", raw, verdict, pack="words")


def _brief(rng: random.Random) -> Case:
    return replace(rng.choice([_draft, _unclosed, _soup])(rng), kind="pack brief", pack="brief")


MAKERS = (
    _draft, _nested, _unclosed, _thought, _unclosed_thought, _call, _soup, _mutated, _noise,
    _control, _words, _brief,
)  # fmt: skip


def make_case(seed: int, number: int) -> Case:
    """Make a case; the same for the same two numbers."""
    rng = random.Random(f"{seed}/{number}")
    return MAKERS[number % len(MAKERS)](rng)


@lru_cache(maxsize=4)
def _load(pack: str) -> PromptPack:
    full = load_pack("full" if pack == "words" else pack)
    return replace(full, answer_words=WORDS) if pack == "words" else full


@lru_cache
def _make_config(window: int | None, max_tool_calls: int, pack: str) -> EpisodeConfig:
    name = "full" if pack == "words" else pack
    return EpisodeConfig(window=window, max_tool_calls=max_tool_calls, prompt_pack=name)


def read_as_stream(case: Case) -> Reply:
    """Make the reply as an engine leaves it that stops at every stop string and goes on where the
    turn is not over."""
    for stop in _STOP.finditer(case.raw):
        sampled = case.raw[: stop.end()]
        if is_finished(sampled, case.thought):
            return make_reply(sampled, thought=case.thought, special_tokens=SPECIAL)
    return _make(case, case.raw)


def _make(case: Case, raw: str) -> Reply:
    return make_reply(
        raw, is_truncated=case.is_truncated, thought=case.thought, special_tokens=SPECIAL
    )


def check_case(case: Case) -> str:
    """Return what is wrong with how a case is read; empty: nothing."""
    reply, pack = _make(case, case.raw), _load(case.pack)
    turn = parse_turn(reply.text, KEYS, pack.answer_words)
    streamed = read_as_stream(case)
    if streamed != reply:
        return f"stopped and whole differ: {streamed!r} and {reply!r}"
    again = _make(case, reply.thought + reply.text)
    if (again.text, again.thought) != (reply.text, reply.thought):
        return f"made twice differs: {again!r} and {reply!r}"
    (reply.thought + reply.text).encode()  # a lone surrogate would raise
    for token in SPECIAL & {"<|im_end|>", "<|image_pad|>", "<mask>"}:
        if token in reply.text + reply.thought:
            return f"{token} is still there"
    if case.expected is not None and turn.answer != case.expected:
        return f"read {turn.answer}, right is {case.expected}"
    return ""


def play_cases(cases: list[Case], rng: random.Random) -> str:
    """Play cases as the turns of an episode; return what is wrong, empty: nothing.

    A share of the episodes is written, read and played again from its record."""
    pack = cases[0].pack
    config = _make_config(rng.choice([None, 1, 2]), rng.randrange(4), pack)
    episode = Episode(SAMPLE, CANDIDATES, config)
    for case in cases:
        if episode.is_done:
            break
        episode.step(_make(case, case.raw))
    if not episode.is_done:
        episode.stop_overlong()
    if rng.random() > RECORDED_SHARE:
        episode.messages()
        return ""
    record = record_episode(RecordKind.EVALUATION, "a AB", SAMPLE, Order.AB, episode)
    line = write_record(record)
    read = parse_record(line, "line 1")
    replayed = replay_episode(read)
    if write_record(read) != line or replayed.messages() != episode.messages():
        return "the record does not bring the episode back"
    if replayed.result().verdict != episode.result().verdict:
        return f"two verdicts: {replayed.result().verdict} and {episode.result().verdict}"
    return ""


def run(seed: int, first: int, count: int) -> Iterator[Outcome]:
    """Read cases one by one, then play them in episodes of up to five turns."""
    if first == 0:
        yield from measure_growth()
    for number in range(first, first + count):
        case, start = make_case(seed, number), time.perf_counter()
        yield _judge(case.kind, f"--seed {seed}, case {number}", start, check_case, case)
    rng = random.Random(f"{seed}/{first}/episodes")
    for begin in range(first, first + count, 5):
        cases = [make_case(seed, n) for n in range(begin, begin + 5)]
        rng.shuffle(cases)
        cases = [case for case in cases if case.pack == cases[0].pack]
        where, start = f"--seed {seed}, cases from {begin}", time.perf_counter()
        yield _judge("played, written, read, replayed", where, start, play_cases, cases, rng)


def _judge(
    kind: str, where: str, start: float, check: Callable[..., str], *arguments: object
) -> Outcome:
    try:
        problem = check(*arguments)
    except Exception as error:  # the boundary of this program: any exception is a finding
        return Outcome(kind, End.CRASHED, f"{where}: {type(error).__name__}: {error}")
    seconds = time.perf_counter() - start
    return Outcome(kind, End.WRONG if problem else End.HANDLED, f"{where}: {problem}", 1, seconds)


GROWING: dict[str, Callable[[int], str]] = {
    "openings": lambda size: "<Think>" * (size // 7),
    "closings": lambda size: "</Answer>" * (size // 9),
    "blocks": lambda size: "<Answer>OA=1</Answer>" * (size // 21),
    "nesting": lambda size: "<Think>" * (size // 15) + "</Think>" * (size // 15),
    "drafts": lambda size: "<Think>" + "<Answer>OA=1</Answer>" * (size // 21) + "</Think>",
    "blanks": lambda size: "<" + " " * size,
    "angles": lambda size: "<" * size,
    "bars": lambda size: "<|" * (size // 2),
    "surrogates": lambda size: "\udcff" * size,
    "digits": lambda size: f"<Answer>OA={'1' * size}</Answer>",
    "commas": lambda size: f"<Answer>{',' * size}</Answer>",
    "brackets": lambda size: f"<tool_call>{'[' * size}</tool_call>",
    "keys": lambda size: "<tool_call>" + '{"a":' * (size // 5) + "</tool_call>",
    "prose": lambda size: "no wait, " * (size // 9),
}
"""Texts of a given length that a careless reader takes long for."""
SMALL, LARGE = 2**20, 2**22
_MAX_RATIO = 8.0  # 4 is linear; a busy machine doubles it now and then
_MAX_S = 20.0
_MAX_TRIES = 5


def time_reading(text: str) -> float:
    """Return the processor's seconds for one text, as text of a turn and as a native thought."""
    start = time.thread_time()
    for thought in (None, ThoughtForm(is_opened=True)):
        reply = make_reply(text, thought=thought, special_tokens=SPECIAL)
        is_finished(text, thought)
        episode = Episode(SAMPLE, CANDIDATES, EpisodeConfig())
        episode.step(reply)
    return time.thread_time() - start


def measure_growth(small: int = SMALL, large: int = LARGE) -> Iterator[Outcome]:
    """Time texts of two lengths; four times the length may take about four times as long. What
    seems slow is timed again: another program slows a text for a while, its length always."""
    for name, make in GROWING.items():
        shorts, longs = [time_reading(make(small))], [time_reading(make(large))]
        while _is_slow(min(shorts), min(longs), large / small) and len(longs) < _MAX_TRIES:
            shorts.append(time_reading(make(small)))
            longs.append(time_reading(make(large)))
        short_s, long_s = min(shorts), min(longs)
        is_slow = _is_slow(short_s, long_s, large / small)
        detail = f"{name}: {short_s:.2f} s for {small} characters, {long_s:.2f} s for {large}"
        yield Outcome("4 MB", End.WRONG if is_slow else End.HANDLED, detail, 1, long_s)


def _is_slow(short_s: float, long_s: float, growth: float) -> bool:
    return long_s / max(short_s, 0.01) > _MAX_RATIO * growth / 4 or long_s > _MAX_S


TRIAL = Trial("replies", run, chunk=3000, default_count=300_000, short_count=60_000)
