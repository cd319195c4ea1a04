"""The judge over HTTP: every limit is answered with a reason, nothing is lost, nothing leaks."""

import asyncio
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason='pip install ".[judge]"')

from fastapi.testclient import TestClient

from tests.judge.episodes import make_judge
from tests.seeing_judge import CLIPS, serve_judge, write_clips
from verl_videosearch.failures import EpisodeFailure, FailureKind
from verl_videosearch.judge.server.app import make_app
from verl_videosearch.judge.server.batches import BatchStore
from verl_videosearch.judge.server.settings import ServerConfig

CLEAN, OTHER, DEFECT = CLIPS
PAIR = {"prompt": "a cat", "video_1": CLEAN, "video_2": DEFECT}


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    write_clips(folder)
    return folder


@contextmanager
def serve(judge: Any, clips: Path, **settings: Any) -> Iterator[TestClient]:
    config = ServerConfig(state=clips.parent / "state", roots=(clips,), **settings)
    with TestClient(make_app(judge, config), base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture
def client(clips: Path, tmp_path: Path) -> Iterator[TestClient]:
    """A server with a judge that looks."""
    with serve_judge() as server, make_judge(server, tmp_path) as judge:
        judge.open()
        with serve(judge, clips) as client:
            yield client


class Waiting:
    """A judge that fails when it is told to."""

    is_away = False

    def __init__(self, failures: Sequence[Exception] = ()) -> None:
        self.go = asyncio.Event()
        self.failures = list(failures)
        self.num_asked = 0

    async def compare_async(self, *_: str) -> Any:
        self.num_asked += 1
        await self.go.wait()
        if self.failures:
            raise self.failures.pop(0)
        raise EpisodeFailure(FailureKind.SERVER, "the model is away")


REFUSED = EpisodeFailure(FailureKind.SERVER, "400: not this prompt", is_passing=False)
FOR_GOOD = {
    "model_refused": (422, REFUSED),
    "invalid": (422, ValueError("the calibration is for another model")),
    "internal": (500, KeyError("a bug")),
}
"""Reason to its status and a failure that no other try cures."""


def reason_of(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["reason"]


def test_a_pair_by_path_is_judged(client: TestClient) -> None:
    answer = client.post("/v1/compare", json=PAIR)
    content = answer.json()
    assert answer.status_code == 200 and content["overall"] == 1 and content["winner"] == CLEAN
    assert content["video_2"] == DEFECT and "episodes" not in content
    assert len(content["frames_asked"]) == 4 and content["confidence"] is None


def test_a_pair_by_upload_is_judged_and_remembered_by_content(
    client: TestClient, clips: Path
) -> None:
    names = []
    for name in (DEFECT, OTHER):
        answer = client.post("/v1/videos", content=(clips / name).read_bytes())
        assert answer.status_code == 201
        names.append(answer.json()["video"])
    asked = {"prompt": "a cat", "video_1": names[0], "video_2": names[1]}
    assert client.post("/v1/compare", json=asked).json()["winner"] == names[1]
    by_path = asked | {"video_1": DEFECT, "video_2": OTHER}
    assert client.post("/v1/compare", json=by_path).json()["num_cached"] == 2


def test_clips_are_ranked_and_scored(client: TestClient) -> None:
    videos = [DEFECT, CLEAN, OTHER]
    ranking = client.post("/v1/rank", json={"prompt": "a cat", "videos": videos}).json()
    assert [clip["rank"] for clip in ranking["clips"]] == [1, 1, 3]
    assert ranking["clips"][2]["video"] == DEFECT and ranking["num_comparisons"] == 3
    scores = client.post("/v1/reward", json={"prompt": "a cat", "clips": videos}).json()
    assert scores["scores"][0] < 0.3 < 0.6 < scores["scores"][1] and scores["num_flips"] == 0
    asked = {"prompt": "a cat", "clips": videos, "anchor": OTHER}
    assert client.post("/v1/reward", json=asked).json()["scores"] == [0.0, 0.5, 0.5]


@pytest.mark.parametrize(
    "name",
    [
        "../secret.mkv",
        "a/../../secret.mkv",
        "/etc/passwd",
        "link.mkv",
        "folder/secret.mkv",
        "clean_a.mp4\0.mkv",
        "http://127.0.0.1/a.mp4",
        "file:///etc/passwd",
        "concat:clean_a.mp4|clean_b.mp4",
        "fifo.mkv",
        ".",
        "x" * 1000,
        "upload-" + "0" * 32,
        "upload-../../secret",
    ],
)
def test_only_files_below_the_roots_exist(client: TestClient, clips: Path, name: str) -> None:
    secret = clips.parent / "secret.mkv"
    secret.write_bytes((clips / CLEAN).read_bytes())
    (clips / "link.mkv").symlink_to(secret)
    (clips / "folder").symlink_to(clips.parent)
    os.mkfifo(clips / "fifo.mkv")
    answer = client.post("/v1/compare", json=PAIR | {"video_2": name})
    assert reason_of(answer) == (422, "bad_video")
    assert str(clips.parent) not in answer.text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("torn.mp4", None),
        ("empty.mp4", b""),
        ("text.mp4", b"not a video"),
        ("list.m3u8", b"#EXTM3U\n#EXTINF:1,\nclean_a.mp4\n#EXT-X-ENDLIST\n"),
        ("list.mp4", b"ffconcat version 1.0\nfile 'clean_a.mp4'\n"),
        ("huge.gif", b"GIF89a\xff\xff\xff\xff\x00\x00\x00,\x00\x00\x00\x00\xff\xff\xff\xff\x00;"),
    ],
)
def test_what_is_no_good_video_is_refused_by_path_and_by_upload(
    client: TestClient, clips: Path, name: str, content: bytes | None
) -> None:
    content = (clips / CLEAN).read_bytes()[:300] if content is None else content
    (clips / name).write_bytes(content)
    by_path = client.post("/v1/compare", json=PAIR | {"video_2": name})
    assert reason_of(by_path) == (422, "bad_video") and name in by_path.json()["error"]["detail"]
    assert str(clips) not in by_path.text
    assert reason_of(client.post("/v1/videos", content=content)) == (422, "bad_video")
    assert not list((clips.parent / "state" / "uploads").iterdir())


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_pixels": 56 * 84 - 1}, "84x56 pixels"),
        ({"max_frames": 7}, "8 frames"),
        ({"max_seconds": 0.1}, "s long"),
        ({"max_upload_bytes": 100}, "bytes"),
    ],
)
def test_limits_of_a_video(clips: Path, limits: dict, words: str) -> None:
    with serve(Waiting(), clips, **limits) as client:
        answer = client.post("/v1/compare", json=PAIR)
    assert reason_of(answer) == (422, "bad_video") and words in answer.json()["error"]["detail"]


def test_limits_of_a_body(clips: Path) -> None:
    limits = {"max_upload_bytes": 2000, "max_body_bytes": 500, "max_clips": 3, "max_pairs": 1}
    limits["max_batch_bytes"] = 1000
    with serve(Waiting(), clips, max_prompt_chars=20, **limits) as client:

        def chunks() -> Iterator[bytes]:  # no Content-Length
            for _ in range(10):
                yield b"\0" * 500

        for body in (b"\0" * 5000, chunks()):
            assert reason_of(client.post("/v1/videos", content=body)) == (413, "too_large")
        long = PAIR | {"prompt": "x" * 600}
        assert reason_of(client.post("/v1/compare", json=long)) == (413, "too_large")
        form = {"Content-Type": "multipart/form-data; boundary=x"}  # no route reads one
        answer = client.post("/v1/compare", content=b"\0" * 600, headers=form)
        assert reason_of(answer) == (413, "too_large")
        many = {"pairs": [PAIR] * 20}
        assert reason_of(client.post("/v1/batches", json=many)) == (413, "too_large")
        for route, body in {
            "compare": PAIR | {"prompt": "x" * 21},
            "rank": {"prompt": "x", "videos": list("abcd")},
            "reward": {"prompt": "x", "clips": ["a"]},
            "batches": {"pairs": [PAIR, PAIR]},
        }.items():
            assert reason_of(client.post(f"/v1/{route}", json=body)) == (422, "invalid")
        assert not list((clips.parent / "state" / "uploads").iterdir())


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 422),
        (b"\xff\xfe", 422),
        (b"[]", 422),
        (b'{"prompt": "\\ud800", "video_1": "a", "video_2": "b"}', 422),
        (b'{"prompt": 3, "video_1": "a", "video_2": "b"}', 422),
        (b'{"prompt": "a", "video_1": "a", "video_2": "b", "deadline_s": 1e999}', 422),
        (b'{"prompt": "a", "video_1": "a", "video_2": "b", "url": "http://x"}', 422),
        (b"[" * 100_000, 400),
    ],
)
def test_a_garbled_message_is_no_crash(client: TestClient, body: bytes, status: int) -> None:
    headers = {"Content-Type": "application/json"}
    answer = client.post("/v1/compare", content=body, headers=headers)
    assert answer.status_code in {status, 400} and answer.json()["error"]["detail"]


def test_a_token_is_asked_for_everywhere_but_at_the_health_check(clips: Path) -> None:
    token = "correct horse battery"
    with serve(Waiting(), clips, token=token) as client:
        assert client.get("/healthz").json()["status"] == "ok"
        for path in ("/metrics", "/openapi.json", "/v1/batches", "/nowhere"):
            assert reason_of(client.get(path)) == (401, "unauthorized")
        for wrong in ("Bearer x", "Basic " + token, "Bearer \u00e9".encode(), ""):
            assert client.get("/metrics", headers={"Authorization": wrong}).status_code == 401
        right = {"Authorization": f"Bearer {token}"}
        assert client.get("/metrics", headers=right).status_code == 200
        assert client.get("/nowhere", headers=right).status_code == 404


def test_a_web_page_cannot_reach_a_server_on_loopback(clips: Path) -> None:
    with serve(Waiting(), clips) as client:
        answer = client.get("/healthz", headers={"Host": "evil.example"})
        assert reason_of(answer) == (400, "bad_request")


@pytest.mark.parametrize(
    ("names", "status"), [(None, 200), (("judge",), 200), (("other.example",), 400)]
)
def test_a_server_for_other_machines_has_their_name_for_it(
    clips: Path, names: tuple[str, ...] | None, status: int
) -> None:
    open_to_all = {"host": "0.0.0.0", "token": "correct horse battery", "allowed_hosts": names}
    with serve(Waiting(), clips, **open_to_all) as client:
        answer = client.get("/healthz", headers={"Host": "judge:8080"})
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"host": "0.0.0.0"}, "set a token"),
        ({"token": "short"}, "16 characters"),
        ({"roots": (Path("/nowhere"),)}, "no folder"),
        ({"max_running": 0, "port": 70000}, "port .* max_running|max_running"),
    ],
)
def test_bad_settings_are_refused(tmp_path: Path, settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ServerConfig(state=tmp_path, **settings)


def test_the_deadline_counts_and_may_be_shorter(clips: Path) -> None:
    with serve(Waiting(), clips) as client:
        start = time.monotonic()
        answer = client.post("/v1/compare", json=PAIR | {"deadline_s": 0.3})
        assert reason_of(answer) == (504, "deadline") and time.monotonic() - start < 5
        assert client.get("/healthz").json()["num_running"] == 0


def test_a_model_that_is_away_is_503(clips: Path) -> None:
    judge = Waiting()
    judge.go.set()
    with serve(judge, clips) as client:
        answer = client.post("/v1/compare", json=PAIR)
    assert reason_of(answer) == (503, "model_away") and answer.headers["Retry-After"]


@pytest.mark.parametrize("reason", FOR_GOOD)
def test_what_no_other_try_cures_is_said_so_and_holds_nobody_up(clips: Path, reason: str) -> None:
    status, failure = FOR_GOOD[reason]
    judge = Waiting([failure] * 6)
    judge.go.set()
    with serve(judge, clips) as client:
        assert reason_of(client.post("/v1/compare", json=PAIR)) == (status, reason)
        name = client.post("/v1/batches", json={"pairs": [PAIR] * 5}).json()["id"]
        wait_for(lambda: client.get(f"/v1/batches/{name}").json()["num_failed"] == 5)
        results = client.get(f"/v1/batches/{name}/results").json()["results"]
    assert {each["result"]["error"]["reason"] for each in results} == {reason}
    assert judge.num_asked == 6


def test_a_pair_that_is_given_back_lets_others_go_first(clips: Path) -> None:
    judge = Waiting([EpisodeFailure(FailureKind.SERVER, "busy"), *[REFUSED] * 4])
    judge.go.set()
    with serve(judge, clips, max_batch_running=1) as client:
        name = client.post("/v1/batches", json={"pairs": [PAIR] * 5}).json()["id"]
        wait_for(lambda: client.get(f"/v1/batches/{name}").json()["num_failed"] == 4)
        results = client.get(f"/v1/batches/{name}/results").json()["results"]
    assert [each["state"] for each in results] == ["waiting", *["failed"] * 4]


def test_figures_for_prometheus(client: TestClient) -> None:
    client.post("/v1/compare", json=PAIR)
    client.get("/nowhere")
    text = client.get("/metrics").text
    assert 'videosearch_requests_total{route="/v1/compare",status="200"} 1.0' in text
    assert "videosearch_waiting 0.0" in text and "videosearch_request_seconds_bucket" in text


def wait_for(condition: Any, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_a_batch_is_judged_in_the_background(client: TestClient) -> None:
    pairs = [PAIR, PAIR | {"video_1": "gone.mp4"}, PAIR | {"video_1": DEFECT, "video_2": OTHER}]
    answer = client.post("/v1/batches", json={"pairs": pairs})
    name = answer.json()["id"]
    assert answer.status_code == 202 and answer.json()["num_pairs"] == 3
    wait_for(lambda: client.get(f"/v1/batches/{name}").json()["state"] == "done")
    state = client.get(f"/v1/batches/{name}").json()
    assert (state["num_done"], state["num_failed"]) == (2, 1)
    results = client.get(f"/v1/batches/{name}/results").json()["results"]
    assert [each["state"] for each in results] == ["done", "failed", "done"]
    assert results[2]["result"]["winner"] == OTHER
    assert results[1]["result"]["error"]["reason"] == "bad_video"
    page = client.get(f"/v1/batches/{name}/results", params={"offset": 2, "limit": 1}).json()
    assert [each["number"] for each in page["results"]] == [2]
    assert reason_of(client.get("/v1/batches/nothing")) == (404, "not_found")


def test_a_lease_that_is_over_does_not_touch_the_next_one(tmp_path: Path) -> None:
    store = BatchStore(tmp_path / "batches.sqlite")
    name = store.add([PAIR])
    late = store.take(-1.0)
    holder = store.take(60.0)
    assert late is not None and holder is not None
    store.give_back(late, wait_s=0.0)
    store.finish(late, {"overall": 2})
    assert store.take(60.0) is None
    store.finish(holder, {"overall": 1})
    [row] = store.read_results(name, 0, 9)
    store.close()
    assert (row["state"], row["result"]) == ("done", {"overall": 1})


def test_a_batch_can_be_cancelled(clips: Path) -> None:
    with serve(Waiting(), clips) as client:
        name = client.post("/v1/batches", json={"pairs": [PAIR] * 5}).json()["id"]
        state = client.post(f"/v1/batches/{name}/cancel").json()
        assert state["state"] == "cancelled" and state["num_cancelled"] == 5
        assert reason_of(client.post("/v1/batches/nothing/cancel")) == (404, "not_found")


def test_what_is_done_cannot_be_cancelled(client: TestClient) -> None:
    name = client.post("/v1/batches", json={"pairs": [PAIR]}).json()["id"]
    wait_for(lambda: client.get(f"/v1/batches/{name}").json()["state"] == "done")
    assert client.post(f"/v1/batches/{name}/cancel").json()["state"] == "done"


def test_a_pair_outlives_a_model_that_is_started_again(clips: Path) -> None:
    judge = Waiting()
    judge.is_away = True
    with serve(judge, clips, deadline_s=0.1) as client:
        name = client.post("/v1/batches", json={"pairs": [PAIR]}).json()["id"]
        wait_for(lambda: judge.num_asked >= 3)  # it was given back at each deadline
        assert client.get(f"/v1/batches/{name}").json()["num_failed"] == 0
        judge.is_away = False
        wait_for(lambda: client.get(f"/v1/batches/{name}").json()["state"] == "done")
        result = client.get(f"/v1/batches/{name}/results").json()["results"][0]["result"]
        assert result["error"]["reason"] == "deadline"


def test_the_description_names_every_refusal(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    codes = set(paths["/v1/compare"]["post"]["responses"])
    assert {"200", "400", "401", "404", "408", "413", "422", "429", "503", "504"} <= codes


def test_the_page_of_routes_loads_nothing(client: TestClient) -> None:
    answer = client.get("/docs")
    assert (
        answer.status_code == 200
        and "default-src 'none'" in answer.headers["content-security-policy"]
    )
    for word in (
        "POST /v1/compare",
        "GET /v1/batches/{name}/results",
        "video_1",
        "max_comparisons",
    ):
        assert word in answer.text
    assert not re.search(r"<script|<link|<img|src=|https?://", answer.text)
    assert client.get("/redoc").status_code == 404


def test_no_message_of_the_description_is_a_crash(clips: Path) -> None:
    import schemathesis
    from hypothesis import HealthCheck, given, settings

    judge = Waiting()
    judge.go.set()
    config = ServerConfig(state=clips.parent / "state", roots=(clips,), allowed_hosts=("*",))
    app = make_app(judge, config)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)

    for operation in schema.get_all_operations():

        @given(operation.ok().as_strategy())
        @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
        def ask(case: Any) -> None:
            answer = case.call()
            assert answer.status_code in {*range(200, 500), 503, 504}, answer.text

        ask()
