"""Siblings tell each other who searched; waiting ends, and a failure reaches all of them."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

import pytest

from verl_videosearch.failures import EpisodeFailure, FailureKind
from verl_videosearch.verl_plugin import group as group_module
from verl_videosearch.verl_plugin.group import EpisodeGroup, join_group, leave_group


def gather(*sessions: Awaitable[Any]) -> list[Any]:
    async def run() -> list[Any]:
        return await asyncio.gather(*sessions, return_exceptions=True)

    return asyncio.run(run())


async def share(has_searched: bool, *, delay_s: float = 0.0, timeout_s: float = 5.0) -> float:
    """Run one session: join before the first await, as the agent loop does."""
    group = join_group("prompt")
    try:
        await asyncio.sleep(delay_s)
        return await group.share_search(has_searched, timeout_s=timeout_s, sample_uid="pair-7")
    finally:
        leave_group("prompt", group)


async def fail(delay_s: float = 0.0) -> None:
    group = join_group("prompt")
    try:
        await asyncio.sleep(delay_s)
        group.fail(EpisodeFailure(FailureKind.VIDEO, "cannot read 1.mp4", "pair-7"))
    finally:
        leave_group("prompt", group)


@pytest.mark.parametrize(
    ("searched", "rate"),
    [
        ([True], 1.0),
        ([False], 0.0),
        ([True, False], 0.5),
        ([True] + [False] * 7, 0.125),
        ([True] * 8, 1.0),
    ],
)
def test_everyone_gets_the_same_rate(searched: list[bool], rate: float) -> None:
    delays = [0.01 * (i % 3) for i in range(len(searched))]
    sessions = [share(has, delay_s=delay) for has, delay in zip(searched, delays, strict=True)]
    assert gather(*sessions) == [rate] * len(searched)
    assert group_module._groups == {}


def test_groups_do_not_mix() -> None:
    async def other() -> float:
        group = join_group("other")
        await asyncio.sleep(0)
        return await group.share_search(True, timeout_s=5.0, sample_uid="pair-8")

    assert gather(share(False), other(), share(False)) == [0.0, 1.0, 0.0]
    group_module._groups.clear()


@pytest.mark.parametrize("delay_s", [0.0, 0.05], ids=["before they wait", "while they wait"])
def test_a_failure_reaches_every_sibling_at_once(delay_s: float) -> None:
    start = time.monotonic()
    results = gather(
        share(True, timeout_s=30.0), fail(delay_s), share(False, delay_s=0.1, timeout_s=30.0)
    )
    assert time.monotonic() - start < 5
    for result in (results[0], results[2]):
        assert isinstance(result, EpisodeFailure) and result.kind is FailureKind.SIBLING
        assert "a sibling failed: cannot read 1.mp4" in str(result) and "pair-7" in str(result)
    assert group_module._groups == {}


def test_waiting_is_bounded_and_fails_the_late_one_too() -> None:
    results = gather(share(True, timeout_s=0.05), share(True, delay_s=0.3))
    assert [result.kind for result in results] == [FailureKind.TIMEOUT, FailureKind.SIBLING]
    assert "1 of 2 siblings not done after 0.05 s" in str(results[0])


def test_the_first_failure_is_the_reason() -> None:
    group = EpisodeGroup()
    first = EpisodeFailure(FailureKind.SERVER, "first")
    group.fail(first)
    group.fail(EpisodeFailure(FailureKind.VIDEO, "second"))
    assert group.failure is first
    with pytest.raises(EpisodeFailure, match="first"):
        group.raise_if_failed("pair-7")


def test_a_group_that_is_well_lets_everyone_on() -> None:
    EpisodeGroup().raise_if_failed("pair-7")


def test_the_last_one_out_forgets_the_group_and_only_its_own() -> None:
    first, again = join_group("prompt"), join_group("prompt")
    assert first is again and first.size == 2
    leave_group("prompt", first)
    assert group_module._groups == {"prompt": first}
    leave_group("prompt", first)
    second = join_group("prompt")
    assert second is not first and second.size == 1
    leave_group("prompt", first)  # a leaver of the old group
    assert group_module._groups == {"prompt": second}
    leave_group("prompt", second)
    assert group_module._groups == {}
