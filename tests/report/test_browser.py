"""The page of episodes in a real browser: opened, filtered, searched, read and looked at."""

import base64
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from tests.report.browser import Page
from tests.report.conftest import PlayedPage
from tests.report.played import draw_clip
from verl_videosearch.report.episode_page import Source, write_episode_page
from verl_videosearch.runs.record import EpisodeRecord

KEY = "pair-001 BA"
LINK = "#pair-001%20BA"
SIZES = ((400, 800), (1000, 800), (1600, 900))
_TURN = """return [...document.querySelectorAll(
  `.column[data-anchor="${arguments[0]}"] .turn[data-turn="${arguments[1]}"] figure`)].map((each) =>
  [Number(each.dataset.number), each.className, each.querySelector("img").src])"""


def read_turn(browser: Page, key: str, turn: int) -> list[tuple[int, str, str]]:
    """Return (number, look, picture) of every frame beside a turn."""
    return [tuple(each) for each in browser.ask(_TURN, key, turn)]


def read_picture(address: str) -> np.ndarray:
    """Return the pixels of a picture of the page."""
    content = base64.b64decode(address.removeprefix("data:image/webp;base64,"))
    return np.asarray(Image.open(BytesIO(content)).convert("RGB")).astype(float)


def find_clip(record: EpisodeRecord, number: int) -> tuple[int, int]:
    """Return (seed of the clip, frame index) behind a frame number as the judge saw it."""
    place = record.candidates.locate(number)
    path = record.shown.video_1 if place.video == 1 else record.shown.video_2
    return int(path.removesuffix(".mp4")), place.index


def count_rows(browser: Page) -> int:
    return browser.ask("return document.querySelectorAll('#list a').length")


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_frames_beside_a_turn_are_those_of_the_record(
    browser: Page, played: PlayedPage, turn: int
) -> None:
    browser.resize(1600, 900)
    browser.open(played.written.path, LINK)
    record = played.record(KEY)
    seen = record.turns[turn - 1]
    assert len(record.turns) == 3, "the script of this episode searches twice"
    found = read_turn(browser, KEY, turn)
    in_view = {number for number, look, _ in found if look != "forgotten"}
    assert in_view == set(seen.visible)
    assert {number for number, look, _ in found if look == "forgotten"} == set(seen.forgotten)
    new = (
        set()
        if turn == 1
        else set(record.turns[turn - 2].shown) - set(record.turns[turn - 2].visible)
    )
    assert {number for number, look, _ in found if look == "new"} == new
    for number, _, address in found:
        seed, index = find_clip(record, number)
        picture = read_picture(address)
        size = (picture.shape[1], picture.shape[0])
        frames = [
            np.asarray(Image.fromarray(frame).resize(size)).astype(float)
            for frame in draw_clip(seed)
        ]
        distances = [np.abs(frame - picture).mean() for frame in frames]
        assert int(np.argmin(distances)) == index, f"frame {number} shows another one"


def test_filters_and_search_keep_what_fits(browser: Page, played: PlayedPage) -> None:
    browser.resize(1600, 900)
    browser.open(played.written.path)
    assert count_rows(browser) == len(played.records) == played.written.num_episodes
    choose = """const select = document.querySelector(`select[name="${arguments[0]}"]`);
        select.value = arguments[1]; select.dispatchEvent(new Event("change"));"""
    browser.ask(choose, "outcome", "failed")
    assert count_rows(browser) == 1
    browser.click("#clear")
    browser.ask(choose, "right", "right")
    assert count_rows(browser) == sum(record.is_right is True for record in played.records)
    browser.ask(choose, "calls", "2 calls")
    kept = [r for r in played.records if r.is_right and r.num_calls == 2]
    assert count_rows(browser) == len(kept)
    browser.click("#clear")
    search = browser.driver.find_element("css selector", "#search")
    search.send_keys("cannot <b>which")
    kept = [r for r in played.records if any("cannot tell" in t.reply for t in r.turns)]
    browser.wait(f"document.querySelectorAll('#list a').length === {len(kept)}")
    assert count_rows(browser) == len(kept) > 0
    assert f"{len(kept)} of {len(played.records)}" in browser.ask(
        "return document.querySelector('#count').textContent"
    )


@pytest.fixture(scope="module")
def long_page(played: PlayedPage) -> Path:
    """A page of 1,000 made-up episodes: 500 copies of one pair, each with words of its own."""
    pair = [played.record(key) for key in ("pair-001 AB", "pair-001 BA")]
    records = []
    for number in range(500):
        for record in pair:
            uid = f"copy-{number:03d}"
            sample = replace(record.own, uid=uid, prompt=f"Prompt number {number} of many")
            shown = record.order.value
            records.append(
                msgspec.structs.replace(record, key=f"{uid} {shown}", uid=uid, sample=sample)
            )
    written = write_episode_page(
        [Source("many", records)],
        played.folder / "long.html",
        store=played.store,
        video_root=played.folder,
    )
    assert written.num_episodes == 1000
    return written.path


def test_a_list_of_a_thousand_is_usable(browser: Page, long_page: Path) -> None:
    browser.resize(1600, 900)
    browser.open(long_page)
    count = "return document.querySelector('#count').textContent"
    assert browser.ask(count).startswith("1000 episodes")
    assert count_rows(browser) < 500, "what nobody has scrolled to is not on the page yet"
    to_end = "const list = document.querySelector('#list'); list.scrollTop = list.scrollHeight"
    while (before := count_rows(browser)) < 1000:
        browser.ask(to_end)
        browser.wait(f"document.querySelectorAll('#list a').length > {before}")
    chosen = "document.querySelector('.column.chosen')?.dataset.anchor"
    last = browser.ask("return [...document.querySelectorAll('#list a')].at(-1).dataset.anchor")
    browser.driver.find_elements("css selector", "#list a")[-1].click()
    browser.wait(f"{chosen} === '{last}'")
    search = browser.driver.find_element("css selector", "#search")
    search.send_keys("number 321")
    browser.wait("document.querySelectorAll('#list a').length === 2")
    assert "2 of 1000" in browser.ask(count)


def test_who_drags_a_list_to_its_end_gets_all_of_it(browser: Page, long_page: Path) -> None:
    browser.resize(1600, 900)
    browser.open(long_page)
    stay = "list.scrollTop = list.scrollHeight; requestAnimationFrame(stay)"
    browser.ask(f"const list = document.querySelector('#list'), stay = () => {{ {stay} }}; stay()")
    browser.wait("document.querySelectorAll('#list a').length === 1000")


def test_a_link_to_the_end_of_a_long_list_opens_it(browser: Page, long_page: Path) -> None:
    browser.resize(1600, 900)
    browser.open(long_page, "#copy-432%20BA")
    marked = "document.querySelector('#list a[aria-current]')"
    box = browser.ask(f"const box = {marked}.getBoundingClientRect(); return [box.top, box.bottom]")
    assert 0 < box[0] < box[1] <= 900, "its entry is in view"
    assert browser.ask(f"return {marked}.dataset.anchor") == "copy-432 BA"
    images = "[...document.querySelectorAll('#detail img')]"
    assert browser.ask(f"return {images}.length > 9 && {images}.every((i) => i.naturalWidth > 0)")
    browser.press("j")
    browser.wait("document.querySelector('.column.chosen').dataset.anchor === 'copy-433 AB'")


def test_keys_and_links_lead_from_one_episode_to_another(browser: Page, played: PlayedPage) -> None:
    browser.resize(1600, 900)
    browser.open(played.written.path, LINK)
    chosen = "document.querySelector('.column.chosen').dataset.anchor"
    assert browser.ask(f"return {chosen}") == KEY
    browser.press("j")
    browser.wait(f"{chosen} === 'pair-002 AB'")
    browser.press("k")
    browser.wait(f"{chosen} === '{KEY}'")
    browser.press("/")
    assert browser.ask("return document.activeElement.id") == "search"
    browser.open(played.written.path, "#nobody")
    assert "no episode is called nobody" in browser.ask("return document.body.textContent")


def test_both_orders_stand_side_by_side_and_verdicts_are_turned_back(
    browser: Page, played: PlayedPage
) -> None:
    browser.resize(1600, 900)
    browser.open(played.written.path, LINK)
    tops = browser.ask(
        "return [...document.querySelectorAll('.column')].map((c) => c.getBoundingClientRect().top)"
    )
    assert len(tops) == 2 and tops[0] == tops[1]
    cells = browser.ask(
        "return [...document.querySelectorAll('table.verdicts tbody tr')].at(-1).innerText"
    )
    record = played.record(KEY)
    assert record.verdicts["OA"] != record.own_verdicts["OA"]
    assert cells.split("\t")[-1].startswith(f"video {record.own_verdicts['OA']}")
    assert cells.split("\t")[1] == f"video {record.own.labels['OA']}"


def test_text_of_models_and_prompts_neither_runs_nor_loads(
    browser: Page, played: PlayedPage
) -> None:
    browser.read_log()
    browser.open(played.written.path, "#pair-003%20AB")
    assert browser.ask("return document.title") == "Played"
    assert "</script><script>" in browser.ask("return document.querySelector('h2').textContent")
    assert browser.ask("return document.querySelectorAll('#detail script, img[src=x]').length") == 0
    assert browser.ask("return performance.getEntriesByType('resource').length") == 0
    assert browser.read_log() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_nothing_sticks_out_and_contrast_is_enough(
    browser: Page, played: PlayedPage, width: int, height: int, scheme: str
) -> None:
    browser.resize(width, height, scheme)
    for anchor in ("", LINK) if width == 400 else ("#pair-003%20AB",):
        browser.open(played.written.path, anchor)
        assert browser.list_overflow() == [], anchor
        assert browser.list_violations() == [], anchor
    browser.open(played.written.path, LINK)
    bottom = browser.ask("return document.querySelector('.strip').getBoundingClientRect().bottom")
    assert 0 < bottom <= height, "the first strip is not visible without scrolling"
