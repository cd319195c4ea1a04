"""videosearch.json: what training wrote is what is compared, and a difference is never silent."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from verl_videosearch.checkpoint import (
    FILE_NAME,
    check_checkpoint,
    compare_settings,
    describe_settings,
    read_checkpoint_settings,
    write_checkpoint_settings,
)
from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.judgement import DEFAULT_DIMENSIONS, Dimension
from verl_videosearch.prompts import load_pack

CONFIG = EpisodeConfig(window=2, prompt_pack="brief")
OTHER = (Dimension("FIN", "Fineness", "detail"),)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = write_checkpoint_settings(tmp_path, CONFIG, DEFAULT_DIMENSIONS)
    assert path == tmp_path / FILE_NAME and [path] == list(tmp_path.iterdir())
    settings = read_checkpoint_settings(tmp_path)
    assert settings == describe_settings(CONFIG, DEFAULT_DIMENSIONS)
    assert settings.config == CONFIG and settings.words["frame_label"] == "Frame {number}:"
    assert check_checkpoint(tmp_path, CONFIG, DEFAULT_DIMENSIONS) == settings


def test_a_base_model_says_nothing(tmp_path: Path) -> None:
    assert read_checkpoint_settings(tmp_path) is None
    assert check_checkpoint(tmp_path, CONFIG) is None


@pytest.mark.parametrize(
    ("config", "dimensions", "words"),
    [
        (replace(CONFIG, window=None), None, "window was 2 in training, is None"),
        (replace(CONFIG, tool_max_pixels=784), None, "tool_max_pixels was 313600 in training"),
        (replace(CONFIG, prompt_pack="full"), None, "the words of prompt pack 'full' are others"),
        (CONFIG, OTHER, "dimensions were ['TA', 'VQ', 'MQ'] in training, are ['FIN']"),
        (
            CONFIG,
            (replace(DEFAULT_DIMENSIONS[0], name="X"), *DEFAULT_DIMENSIONS[1:]),
            "(their names or explanations)",
        ),
    ],
)
def test_a_difference_is_an_error(
    tmp_path: Path, config: EpisodeConfig, dimensions: tuple[Dimension, ...] | None, words: str
) -> None:
    trained = describe_settings(CONFIG, DEFAULT_DIMENSIONS)
    write_checkpoint_settings(tmp_path, CONFIG, DEFAULT_DIMENSIONS)
    (difference,) = compare_settings(trained, config, dimensions)
    assert words in difference
    with pytest.raises(ValueError) as error:
        check_checkpoint(tmp_path, config, dimensions)
    assert words in str(error.value) and str(tmp_path) in str(error.value)
    assert check_checkpoint(tmp_path, config, dimensions, is_overridden=True) == trained


def test_a_pack_of_the_same_words_under_another_name_is_no_difference(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: brief\n")
    trained = describe_settings(CONFIG, DEFAULT_DIMENSIONS)
    assert compare_settings(trained, replace(CONFIG, prompt_pack=str(path))) == []
    other = tmp_path / "other.yaml"
    other.write_text('extends: brief\nframes_opening: "Look: {frames}"\n')
    (difference,) = compare_settings(trained, replace(CONFIG, prompt_pack=str(other)))
    assert "(frames_opening)" in difference


def test_a_pack_of_the_users_own_goes_with_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "mine.yaml").write_text("extends: full\nframe_label: 'Picture {number}:'\n")
    monkeypatch.chdir(tmp_path)
    write_checkpoint_settings("model", EpisodeConfig(prompt_pack="mine.yaml"), DEFAULT_DIMENSIONS)
    (tmp_path / "mine.yaml").unlink()
    (tmp_path / "model").rename(tmp_path / "moved")
    monkeypatch.chdir("/")
    settings = read_checkpoint_settings(tmp_path / "moved")
    pack = load_pack(settings.config.prompt_pack)
    assert pack.words["frame_label"] == "Picture {number}:"
    assert check_checkpoint(tmp_path / "moved", settings.config) == settings
    again = write_checkpoint_settings(tmp_path / "moved", settings.config, DEFAULT_DIMENSIONS)
    assert read_checkpoint_settings(again.parent) == settings


def test_a_pack_that_changes_during_a_training_is_kept_as_it_was(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "extends: brief\nframe_label: 'Picture {number}:'\nallowed_faults: [no_think]\n"
    )
    config = EpisodeConfig(prompt_pack=str(mine))
    trained = config.pack
    for change in (lambda: mine.write_text("extends: full\n"), mine.unlink):
        change()
        write_checkpoint_settings(tmp_path, config, DEFAULT_DIMENSIONS)
        settings = check_checkpoint(tmp_path, read_checkpoint_settings(tmp_path).config)
        assert settings.words_hash == trained.words_hash
        again = load_pack(settings.config.prompt_pack)
        assert (again.words, again.allowed_faults) == (trained.words, trained.allowed_faults)


def test_a_pack_of_that_name_elsewhere_is_looked_for_there(tmp_path: Path) -> None:
    write_checkpoint_settings(tmp_path, EpisodeConfig(), DEFAULT_DIMENSIONS)
    file = tmp_path / FILE_NAME
    content = json.loads(file.read_text())
    content["episode"]["prompt_pack"] = "prompt_pack.yaml"
    file.write_text(json.dumps(content))
    assert read_checkpoint_settings(tmp_path).config.prompt_pack == "prompt_pack.yaml"


def test_settings_of_an_older_package_are_read(tmp_path: Path) -> None:
    path = write_checkpoint_settings(tmp_path, CONFIG, DEFAULT_DIMENSIONS)
    content = json.loads(path.read_text())
    content["episode"]["prompt_style"] = content["episode"].pop("prompt_pack")
    del content["episode"]["tools"]  # it had one tool and no name for it
    path.write_text(json.dumps(content))
    assert check_checkpoint(tmp_path, CONFIG).config == CONFIG


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 2}', '{"format": 1}'])
def test_a_torn_file_names_itself(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(ValueError, match="videosearch.json cannot be read"):
        read_checkpoint_settings(tmp_path)
