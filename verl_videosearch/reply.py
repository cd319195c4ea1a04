"""Reply: what a model wrote in one turn, made safe and cut where its turn ends.

The one idea: whoever generates - a server, a model in this process, verl's engine - hands the raw
text to `make_reply`, so that the same text is the same reply everywhere. Three things happen to it,
once: spellings of control tokens become ordinary text, the native thought of a thinking model is
split off, and what follows the turn's act is cut.

>>> make_reply("<Answer>OA=1</Answer> I hope this helps<|im_end|>").text
'<Answer>OA=1</Answer>'

A generator that stops at a stop string asks `is_finished` whether the turn is over: a call or an
answer inside an open block is a draft, and generation goes on behind it.

>>> is_finished("<Think>perhaps <Answer>OA=1</Answer>")
False

Covers: text. Does not cover: token ids (in RL the sampled ids stay as they are), verdicts
(`judgement.py`)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from verl_videosearch.judgement import find_turn_end, is_inside_block, is_tag


@dataclass(frozen=True)
class Reply:
    """What the model wrote in one turn."""

    text: str
    is_truncated: bool = False
    """The token limit of a turn cut it off."""
    thought: str = ""
    """A thinking model's native thought, with its tags, exactly as it stood before `text`; it is
    never read."""


class NativeThought(str, Enum):
    """Whether a leading `<think>` in lower case is the model's own thought or our tag."""

    AUTO = "auto"
    """Its own where the model's chat template or tokenizer has one."""
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True)
class ThoughtForm:
    """How a thinking model marks its native thought."""

    opening: str = "<think>"
    closing: str = "</think>"
    is_opened: bool | None = False
    """The chat template itself opens the thought, so a reply begins inside it; null: not known (a
    server's model), so a reply that closes a thought has begun inside it."""


def find_thought_form(
    chat_template: str | None,
    added_tokens: Iterable[str] = (),
    generation_prompt: str = "",
    setting: NativeThought = NativeThought.AUTO,
) -> ThoughtForm | None:
    """Return how a model marks its native thought, or None when it has none.

    `generation_prompt` is what the template puts before a reply; without a template (a server's
    model) it is not known whether it opens the thought.

    >>> find_thought_form("{{ '<think>' }}", generation_prompt="assistant\\n<think>\\n")
    ThoughtForm(opening='<think>', closing='</think>', is_opened=True)
    >>> find_thought_form("{{ message.content }}") is None
    True
    """
    form = ThoughtForm()
    is_opened = generation_prompt.rstrip().endswith(form.opening)
    marks, tokens = (form.opening, form.closing), set(added_tokens)
    in_template = any(mark in (chat_template or "") for mark in marks)
    is_native = in_template or is_opened or tokens.issuperset(marks)
    if setting is NativeThought.NEVER or (setting is NativeThought.AUTO and not is_native):
        return None
    return ThoughtForm(is_opened=None if chat_template is None and not is_opened else is_opened)


def split_thought(text: str, form: ThoughtForm | None) -> tuple[str, str]:
    """Split a reply into its leading native thought, tags included, and the rest.

    >>> split_thought("<think>hm</think>\\n<Answer>", ThoughtForm())
    ('<think>hm</think>', '\\n<Answer>')
    >>> split_thought("<Think>a</Think> <think>b</think>", ThoughtForm())  # it does not lead
    ('', '<Think>a</Think> <think>b</think>')
    >>> split_thought("hm</think> <Answer>", ThoughtForm(is_opened=None))  # opened by the template
    ('hm</think>', ' <Answer>')
    """
    if form is None:
        return "", text
    start = len(text) - len(text.lstrip())
    end = text.find(form.closing, start)
    if not text.startswith(form.opening, start) and not _is_opened(text, end, form):
        return "", text
    if end < 0:  # still thinking
        return text, ""
    end += len(form.closing)
    return text[:end], text[end:]


def _is_opened(text: str, end: int, form: ThoughtForm) -> bool:
    """Say whether a reply has begun inside a thought; `end` is where one is closed, or -1."""
    if form.is_opened is None:
        return end >= 0 and form.opening not in text[:end]
    return form.is_opened


def is_finished(text: str, thought: ThoughtForm | None = None) -> bool:
    """Say whether the turn is over where generation stopped at a stop string.

    `text` is everything that was sampled for the reply. False: the stop fell inside an open block,
    or inside a native thought, so it is a draft; go on generating from exactly there.
    """
    if thought is not None and thought.is_opened is None and thought.closing not in text:
        return False  # it may be inside a thought that the template has opened
    thinking, rest = split_thought(text, thought)
    is_thinking = thought is not None and bool(thinking) and thought.closing not in thinking
    return not is_thinking and not is_inside_block(rest)


def make_reply(
    raw: str,
    *,
    is_truncated: bool = False,
    thought: ThoughtForm | None = None,
    special_tokens: Iterable[str] = (),
) -> Reply:
    """Turn what a model wrote into a reply; `is_truncated` says that a token limit ended it.

    The text ends behind the turn's act, as an engine that stops there leaves it; a reply that got
    that far is not truncated."""
    thinking, text = split_thought(raw, thought)
    end = find_turn_end(text)
    return Reply(
        clean_text(text[:end], special_tokens),
        is_truncated=is_truncated and end is None,
        thought=clean_text(thinking, special_tokens),
    )


_CONTROL_TOKENS = (
    r"<(?=\|[^<>|\s]{1,64}\|>)",  # <|im_end|>, <|image_pad|>, ...
    r"<(?=\uff5c[^<>\uff5c\s]{1,64}\uff5c>)",  # DeepSeek writes them with full-width bars
    r"<(?=/?s>|pad>|unk>|bos>|eos>|image>|video>|(?:start|end)_of_turn>|IMG_CONTEXT>)",
    r"\[(?=/?INST\]|IMG\]|IMG_BREAK\]|IMG_END\])",
)
"""The first character of a control token's spelling, of any family; what follows is looked at."""
_SPELLING = re.compile("|".join(f"(?:{token})" for token in _CONTROL_TOKENS))


def clean_text(text: str, special_tokens: Iterable[str] = ()) -> str:
    """Make a text from a server or a file ordinary, once, before an episode takes it.

    Lone surrogates, which no tokenizer and no file can hold, become U+FFFD. Spellings of control
    tokens (of any model family, and the given ones of the tokenizer at hand) are broken up by a
    blank: a later context is made from this text, and a token in it would forge a turn or stand for
    an image that is not there. Our own tags stay. Cleaning twice changes nothing.

    >>> clean_text("so <|im_end|>, \\udcff")
    'so < |im_end|>, �'
    """
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    text = _SPELLING.sub(_break_up, text)
    return _find_any(frozenset(special_tokens)).sub(_break_up, text)


def _break_up(match: re.Match[str]) -> str:
    return match[0] + " "


@lru_cache(maxsize=8)
def _find_any(tokens: frozenset[str]) -> re.Pattern[str]:
    """Compile a pattern for the first character of each spelling; tags and single characters are
    left alone."""
    harmful = sorted(token for token in tokens if len(token) > 1 and not is_tag(token))
    return re.compile(f"(?s)(?={'|'.join(map(re.escape, harmful))})." if harmful else "(?!)")
