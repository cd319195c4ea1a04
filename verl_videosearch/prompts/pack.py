"""PromptPack: every word that a model reads, as one file.

The one idea: a pack is plain data with one entry a sentence, so that a run can be told in other
words (another language, a published judge's protocol) without touching the package, and the hash of
its words says whether two runs were told the same.

>>> pack = load_pack("full")
>>> pack.say("evicted", frames="12, 16")
'Frames 12, 16 were shown here and have left your view; ask for them again if you need them.'
>>> load_pack("brief").say("frame_label", number=3, video=2, time="0.50 s")
'Frame 3:'

Covers: reading, checking, filling in. Does not cover: which words an episode needs when
(`prompts`), the words of tools that users add (`tool.Tool`)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from string import Formatter
from typing import Any

import yaml

from verl_videosearch.judgement import LABELS, Fault, is_tag, normalise_answer
from verl_videosearch.reply import clean_text

BUILT_IN = ("full", "brief")
"""Packs that come with the package."""

_SYSTEM = (
    "dimensions overall memory schema max_calls max_frames call_form recommend_form answer_form "
    "confidence"
)
PLACEHOLDERS: Mapping[str, str] = {
    "system": _SYSTEM,
    "system_at_once": "dimensions overall answer_form",
    "dimension_line": "key name explanation",
    "overall_line": "overall",
    "dimension_joint": "",
    "memory_all": "",
    "memory_one": "",
    "memory_many": "window",
    "once": "",
    "twice": "",
    "times": "count",
    "more": "times",
    "tool_description": "",
    "argument_description": "",
    "pair_opening": "prompt range_1 range_2",
    "video_range": "video first last seconds",
    "frame_label": "number video time",
    "frames_opening": "frames",
    "evicted": "frames",
    "calls_left": "calls_left",
    "no_calls_left": "",
    "repeated": "frames",
    "second_call": "",
    "fault_opening": "reason",
    "outside": "frames range_1 range_2",
    "too_many": "count max_frames",
    "wrong_list": "argument got",
    "call_limit": "max_calls",
    "wrong_call": "problem call_form",
    "unclosed_call": "",
    "bad_json": "",
    "not_an_object": "",
    "no_tool_name": "",
    "unknown_tool": "name",
    "no_arguments": "argument",
    "unknown_argument": "name",
    "empty_list": "",
    "a_list": "",
    "an_object": "",
    "huge_number": "",
    "and_more": "shown count",
    "caption_task": "",
}
"""Every entry of words, and what may be filled in there."""
_NEEDED = {"pair_opening": "prompt", "fault_opening": "reason"}
"""What must be filled in, or the model cannot know it."""
_MAY_BE_NULL = ("system",)
_SETTINGS = ("answer_words", "allowed_faults")
_TAG_LIKE = re.compile(r"</?[A-Za-z][A-Za-z _]{0,20}>")
_HARMLESS_TAGS = ("<tools>", "</tools>")


@dataclass(frozen=True)
class PromptPack:
    """The words of one pack, and how replies to them are read."""

    name: str
    """`full`, `brief`, or the path of the file."""
    base: str
    """The built-in pack that fills what the file leaves out."""
    words: Mapping[str, str | None]
    """Every entry of `PLACEHOLDERS` to its text; `system` is null for a judge without a tool."""
    answer_words: Mapping[str, int]
    """Whole answers in words to their overall label; such a judge rates no dimensions."""
    allowed_faults: frozenset[Fault]
    """What is no fault of form under this pack."""

    def to_yaml(self) -> str:
        """Write the pack whole, as a file that reads as the same pack."""
        content = {
            "extends": self.base,
            **self.words,
            "answer_words": dict(self.answer_words),
            "allowed_faults": sorted(fault.value for fault in self.allowed_faults),
        }
        return yaml.safe_dump(content, allow_unicode=True, sort_keys=False)

    @property
    def has_tool(self) -> bool:
        """False for a pack that only knows judges that answer at once."""
        return self.words["system"] is not None

    @property
    def words_hash(self) -> str:
        """Fingerprint of every word, and of how answers are read."""
        content = {
            "words": dict(self.words),
            "answer_words": dict(self.answer_words),
            "allowed_faults": sorted(fault.value for fault in self.allowed_faults),
        }
        text = json.dumps(content, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def say(self, entry: str, **values: object) -> str:
        """Fill in an entry; values that its text does not use are left out."""
        text = self.words[entry]
        if text is None:
            raise ValueError(f"prompt pack {self.name!r} has no {entry!r}: it has no tool")
        return text.format(**values)


@dataclass(frozen=True)
class PackReport:
    """What `check_pack` found."""

    problems: tuple[str, ...]
    """Why the file cannot be used; empty for a good one."""
    notes: tuple[str, ...]
    """What is allowed but easily an oversight."""
    pack: PromptPack | None
    """The pack, when there are no problems."""


@lru_cache(maxsize=16)
def load_pack(name: str) -> PromptPack:
    """Read a pack by name or path; every mistake in it is named in one `ValueError`."""
    report = check_pack(name)
    if report.pack is None:
        raise ValueError(f"prompt pack {name!r}: " + "; ".join(report.problems))
    return report.pack


def check_pack(name: str | Path) -> PackReport:
    """Read a pack and say what is wrong with it, and what looks like an oversight."""
    name = str(name)
    try:
        content = _read_yaml(name)
    except (OSError, ValueError, yaml.YAMLError) as error:
        return PackReport((_say_in_one_line(error),), (), None)
    base = content.pop("extends", "full")
    if base not in BUILT_IN:
        return PackReport(
            (f"extends must be one of {', '.join(BUILT_IN)}, got {base!r}",), (), None
        )
    whole = content if name == "full" else _merge(base, content)
    problems = [
        f"unknown entry {entry!r} (allowed: {', '.join((*PLACEHOLDERS, *_SETTINGS, 'extends'))})"
        for entry in content
        if entry not in PLACEHOLDERS and entry not in _SETTINGS
    ]
    for entry in PLACEHOLDERS:
        problems += _find_mistakes(entry, whole.get(entry))
    problems += _find_wrong_settings(whole)
    if problems:
        return PackReport(tuple(problems), (), None)
    pack = PromptPack(
        name=name,
        base="brief" if name == "brief" else base,
        words={entry: whole[entry] for entry in PLACEHOLDERS},
        answer_words={
            normalise_answer(text): label for text, label in whole["answer_words"].items()
        },
        allowed_faults=frozenset(Fault(each) for each in whole["allowed_faults"]),
    )
    return PackReport((), tuple(_find_oversights(pack)), pack)


def _read_yaml(name: str) -> dict[str, Any]:
    """Read a pack's file as a mapping."""
    if name in BUILT_IN:
        source = resources.files(__package__) / "packs" / f"{name}.yaml"
        text = source.read_text("utf-8")
    elif name.endswith((".yaml", ".yml")):
        text = Path(name).read_text("utf-8")
    else:
        raise ValueError(
            f"got {name!r}; allowed are {', '.join(BUILT_IN)} and a path of a .yaml file"
        )
    content = yaml.safe_load(text)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError("the file must be a mapping of entries to texts")
    return content


def _merge(base: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Fill what a pack leaves out from the built-in pack that it extends."""
    whole = _read_yaml("full")
    if base != "full":
        whole |= _read_yaml(base)
    return whole | dict(content)


def _find_mistakes(entry: str, text: Any) -> list[str]:
    """Check one text: its type, its placeholders, and that it holds no control token."""
    if text is None and entry in _MAY_BE_NULL:
        return []
    if not isinstance(text, str):
        return [f"{entry} must be a text, got {text!r}"]
    try:
        parts = list(Formatter().parse(text))
    except ValueError as error:
        return [f"{entry}: {error}; a brace of the text itself is doubled: {{{{ or }}}}"]
    names = {name for _, name, _, _ in parts if name is not None}
    allowed = PLACEHOLDERS[entry].split()
    problems = [
        f"{entry}: unknown placeholder {{{name}}} (allowed: {', '.join(allowed) or 'none'}; a "
        f"brace "
        "of the text itself is doubled)"
        for name in sorted(names - set(allowed))
    ]
    if any(spec or conversion for _, _, spec, conversion in parts):
        problems.append(
            f"{entry}: a placeholder is a bare name, such as {{{(allowed or ['x'])[0]}}}"
        )
    needed = _NEEDED.get(entry)
    if needed and needed not in names:
        problems.append(f"{entry} must contain {{{needed}}}")
    if clean_text(text) != text:
        problems.append(f"{entry} spells a control token of a model, such as <|im_end|> or <image>")
    return problems


def _find_wrong_settings(whole: Mapping[str, Any]) -> list[str]:
    """Check how replies are read."""
    problems = []
    answers, faults = whole["answer_words"], whole["allowed_faults"]
    if not isinstance(answers, dict) or not all(
        isinstance(text, str) and type(label) is int and label in LABELS
        for text, label in answers.items()
    ):
        problems.append(f"answer_words must map whole answers to 0 (tie), 1 or 2, got {answers!r}")
    names = [fault.value for fault in Fault]
    if not isinstance(faults, list) or not all(fault in names for fault in faults):
        problems.append(f"allowed_faults must be a list out of {', '.join(names)}; got {faults!r}")
    return problems


def _find_oversights(pack: PromptPack) -> list[str]:
    """Name what a model would probably miss."""
    notes = []
    for entry in ("system", "system_at_once"):
        text = pack.words[entry]
        if text is None:
            continue
        tags = _TAG_LIKE.findall(text)
        unread = [tag for tag in tags if not is_tag(tag) and tag not in _HARMLESS_TAGS]
        notes += [f"{entry}: {tag} is no tag that is read in a reply" for tag in unread]
        has_answer = any("answer" in tag.lower() and is_tag(tag) for tag in tags)
        if pack.base == "full" and not has_answer:
            notes.append(f"{entry} shows no <Answer>: the model is not told how to answer")
        if "{dimensions}" not in text and not pack.answer_words:
            notes.append(f"{entry} does not name the sample's {{dimensions}}")
    system = pack.words["system"]
    if system is not None and "<tool_call>" not in system:
        notes.append("system shows no <tool_call>: the model is not told how to call")
    if system is not None and pack.answer_words:
        notes.append("answer_words with a tool: judges that answer in words usually have none")
    return notes


def _say_in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())
