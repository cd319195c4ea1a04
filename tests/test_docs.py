"""What the pages say can be done: links lead somewhere, commands exist, Python runs."""

import functools
import importlib
import importlib.util
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from tests.seeing_judge import CLIPS, serve_judge, write_clips
from verl_videosearch.checkpoint import read_checkpoint_settings
from verl_videosearch.cli import app
from verl_videosearch.cli.lazy import LazyVerb
from verl_videosearch.prompts import load_pack
from verl_videosearch.recipe import read_episode

ROOT = Path(__file__).parents[1]
TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = [*TOP, *sorted((ROOT / "docs").glob("*.md"))]
OURS = ("verl_videosearch", "data_prep", "recipes", "benchmarks", "examples")
PASSES_ON = ("verl_videosearch.models.serve",)
"""Programs that hand their options to another one."""
ADDRESS = "http://localhost:8000/v1"


def name_page(page: Path) -> str:
    return str(page.relative_to(ROOT))


def read_blocks(text: str, language: str | None = None) -> list[str]:
    """Return fenced blocks (of one language), and, without a language, indented ones."""
    fenced = re.findall(r"^```([a-z]*)\n(.*?)^```", text, re.M | re.S)
    if language is not None:
        return [block for name, block in fenced if name == language]
    outside = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    indented = re.findall(r"(?:^ {4,}\S.*\n)+", outside, re.M)
    return [block for name, block in fenced if name in ("", "console", "bash")] + indented


def read_commands(text: str) -> Iterator[list[str]]:
    """Yield the words of every command of a page: `videosearch ...`, `python -m ...`, `make
    ...`."""
    blocks = [block.replace("\\\n", " ") for block in read_blocks(text)]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    for line in [line for block in blocks for line in block.splitlines()] + inline:
        for part in re.split(r"&&|;|\bdo\b| \| ", re.sub(r"(^|\s)#.*", "", line)):
            words = re.sub(r"[\[\]](?= |$)|(?<= )\[(?=--)", "", part).strip().lstrip("$ ")
            if re.match(r"([A-Z_]+=\S+ )*(videosearch|python -m|make) \S", words):
                yield drop_settings(shlex.split(words))


def drop_settings(words: list[str]) -> list[str]:
    """Leave out `NAME=value` before a command."""
    return words[1:] if re.match(r"[A-Z_]+=", words[0]) else words


def find_anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)", page.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@functools.cache
def load_program(module: str) -> Any:
    """Return the command of one of our programs, None for one that hands its options on."""
    place = f"{module}.__main__" if hasattr(importlib.import_module(module), "__path__") else module
    main = getattr(importlib.import_module(place), "main", None)
    if module in PASSES_ON or main is None or main.__code__.co_argcount == 0:
        return None
    single = typer.Typer(add_completion=False)
    single.command(context_settings={"ignore_unknown_options": True})(main)
    return typer.main.get_command(single)


@functools.cache
def load_verb(*names: str) -> Any:
    """Return the command behind `videosearch NAME ...`."""
    command: Any = typer.main.get_command(app)
    for name in names:
        command = command.commands[name]
    return command.load() if isinstance(command, LazyVerb) else command


def find_verb(words: list[str]) -> tuple[Any, list[str]]:
    """Split the words after `videosearch` into a command and what it gets."""
    depth = 2 if words[0] in ("data", "store", "prompt-pack") else 1
    if words[0].startswith("-") or words[:1] == ["..."] or words[1:2] == ["..."] and depth == 2:
        return None, []
    return load_verb(*words[:depth]), words[depth:]


def list_unknown(command: Any, words: list[str]) -> list[str]:
    """Return the options among a command's words that it does not have."""
    known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
    own = words[: words.index("--")] if "--" in words else words
    given = [word.split("=")[0] for word in own if re.match(r"--[a-z]", word)]
    return [name for name in given if name not in known | {"--help"}]


def check_words(words: list[str]) -> None:
    """Fail for a command that does not exist or lacks an option."""
    if words[0] == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
        assert words[1] in targets, f"make has no target {words[1]!r}"
    elif words[0] == "videosearch":
        command, given = find_verb(words[1:])
        assert command is None or not list_unknown(command, given), words
    elif words[2].split(".")[0] in OURS and not words[2].endswith(".X"):
        command = load_program(words[2])
        assert command is None or not list_unknown(command, words[3:]), words
    elif not words[2].endswith(".X"):  # "any of them" in a sentence
        check_overrides(words)


def check_overrides(words: list[str]) -> None:
    """Fail for a verl command with a program, a recipe or a setting of ours that is not there."""
    assert importlib.util.find_spec(words[2].split(".")[0]), words[2]
    recipes = [word.removeprefix("+recipe=") for word in words if word.startswith("+recipe=")]
    for recipe in recipes:
        nodes = read_with_bases(recipe)
        for word in words:
            name = word.split("=")[0]
            if name.startswith("videosearch."):
                assert any(has_setting(node, name) for node in nodes), f"no recipe has {name}"


def read_with_bases(recipe: str) -> list[dict[str, Any]]:
    """Return a recipe and those that it starts from."""
    node = yaml.safe_load((ROOT / f"recipes/recipe/{recipe}.yaml").read_text("utf-8"))
    bases = [base for base in node.get("defaults", []) if base != "_self_"]
    return [
        node,
        *(each for base in bases if isinstance(base, str) for each in read_with_bases(base)),
    ]


def has_setting(node: Any, name: str) -> bool:
    for part in name.split("."):
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return True


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in find_anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_files_that_are_named_exist(page: Path) -> None:
    top = "verl_videosearch|recipes|data_prep|benchmarks|examples|tests|docs"
    text = page.read_text("utf-8")
    named = re.findall(rf"(?<![\w/.])((?:{top})/[\w./-]*\.(?:py|sh|yaml|md|json|svg))", text)
    new = {"verl_videosearch/sources/yours.py", "recipes/recipe/NAME.yaml"}  # not one file
    assert [name for name in named if name not in new and not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_commands_exist(page: Path) -> None:
    for words in read_commands(page.read_text("utf-8")):
        check_words(words)


def test_a_wrong_command_is_noticed() -> None:
    for line in (
        "    videosearch judge a.mp4 b.mp4 --promt x\n",
        "    videosearch jugde a.mp4 b.mp4\n",
        "    SEED=1 make dmo\n",
        "    python -m data_prep.build --sauce x \\\n        --out y\n",
        "    python -m data_prep.bild\n",
        "    python -m verl.trainer.main_ppo +recipe=videosearch_grpo "
        "videosearch.episode.windw=2\n",
        "see `videosearch eval --bench genai`\n",
    ):
        [words] = read_commands(line)
        with pytest.raises((AssertionError, KeyError, ModuleNotFoundError)):
            check_words(words)


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    pages = [page.name for page in PAGES if page not in TOP]
    assert [page for page in pages if page != "README.md" and f"({page})" not in index] == []


def test_the_tree_of_the_readme_is_the_tree() -> None:
    text = (ROOT / "README.md").read_text("utf-8").split("## What is where\n")[1]
    tree = text.split("\n## ")[0].split("    data_prep/")[0]
    package = ROOT / "verl_videosearch"
    rooms = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    modules = {path.name for path in package.glob("*.py") if not path.name.startswith("__")}
    assert set(re.findall(r"(?:^ {6}|; {2})(\w+(?:\.py|/))", tree, re.M)) == rooms | modules


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the two videos that the pages speak of; the second has a defect."""
    write_clips(tmp_path)
    for name, clip in (("a.mp4", CLIPS[0]), ("b.mp4", CLIPS[2])):
        (tmp_path / clip).replace(tmp_path / name)
    monkeypatch.setenv("VIDEOSEARCH_FRAME_STORE", str(tmp_path / "frames"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_python(source: str, folder: Path) -> dict[str, Any]:
    """Run Python as a page shows it, with the server of the test in place of its address."""
    with serve_judge() as server:
        server.models.append("judge")
        (folder / "shown.py").write_text(source.replace(ADDRESS, server.url), "utf-8")
        return runpy.run_path(str(folder / "shown.py"))


def test_python_of_the_readme(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = "\n".join(read_blocks((ROOT / "README.md").read_text("utf-8"), "python"))
    found = run_python(source, folder)
    found["judge"].close()
    assert found["verdict"].overall == 1
    assert capsys.readouterr().out.startswith("video 1 is better: a.mp4\n{'TA': 0, 'VQ': 1,")


def test_the_notebook_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = (ROOT / "examples" / "judge.py").read_text("utf-8")
    found = run_python(source, folder)
    assert [outcome.overall for outcome in found["outcomes"]] == [1, 2]
    assert (folder / "verdict.html").stat().st_size > 1000
    assert "orders agree: True" in capsys.readouterr().out
    assert all(cell.strip() for cell in source.split("# %%")[1:])


def test_released_weights_get_their_settings(folder: Path) -> None:
    text = (ROOT / "docs" / "released_weights.md").read_text("utf-8")
    [pack] = read_blocks(text, "yaml")
    writes, opens = read_blocks(text, "python")
    (folder / "vrthinker").mkdir()
    (folder / "vrthinker" / "config.json").write_text("{}", "utf-8")
    lines = pack.splitlines()[:2] + ["  Compare the videos. Call a tool with frame numbers."]
    (folder / "my_pack.yaml").write_text("\n".join(lines), "utf-8")
    exec(compile(writes, "released_weights.md", "exec"), {})
    settings = read_checkpoint_settings(folder / "vrthinker")
    assert settings is not None
    assert (settings.config.frames_per_video, settings.config.max_frames_per_call) == (128, 12)
    found: dict[str, Any] = {}
    exec(compile(opens, "released_weights.md", "exec"), found)
    assert found["judge"].source.serve == Path("vrthinker")
    found["judge"].close()
    commands = "".join(read_blocks(text))
    said = re.findall(r"(?:--set |videosearch\.episode\.)(\w+)=(\S+)", commands)
    assert said == [("prompt_pack", "my_pack.yaml")] * len(said) and len(said) == 1
    copy = settings.config.prompt_pack
    assert load_pack(copy).words == load_pack(str(folder / "my_pack.yaml")).words
    assert settings.config == read_episode("vr_thinker", [f"prompt_pack={copy}"])
