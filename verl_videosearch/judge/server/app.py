"""The HTTP side of the judge: routes, their OpenAPI description, figures for Prometheus.

    POST /v1/videos            a video as the body -> its name
    POST /v1/compare           which of two videos is better
    POST /v1/rank              the clips of one prompt, from best to worst
    POST /v1/reward            scores of a group of clips, for reinforcement learning
    POST /v1/batches           many pairs, in the background; GET, results, cancel below it
    GET  /healthz  /metrics  /docs  /openapi.json

The one idea: a route reads a message, calls the service and writes its answer; what can go wrong is
a `Refusal`, and each status is in the description. No route ever fetches an address.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from verl_videosearch.judge.server.api_page import POLICY, render_api_page
from verl_videosearch.judge.server.guard import Guard
from verl_videosearch.judge.server.messages import (
    BatchAnswer,
    BatchRequest,
    BatchResults,
    CompareAnswer,
    CompareRequest,
    ErrorAnswer,
    HealthAnswer,
    PairRequest,
    RankAnswer,
    RankRequest,
    RewardAnswer,
    RewardRequest,
    UploadAnswer,
)
from verl_videosearch.judge.server.refusal import STATUSES, Reason, Refusal
from verl_videosearch.judge.server.service import AsyncJudge, JudgeService
from verl_videosearch.judge.server.settings import ServerConfig

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": ", ".join(reasons)}
    for status in sorted(set(STATUSES.values()))
    if (reasons := [reason.value for reason in Reason if STATUSES[reason] == status])
}
"""Every refusal that a route may answer with."""
BatchName = Annotated[str, Path(max_length=64)]
_VIDEO_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


def make_app(
    judge: AsyncJudge,
    config: ServerConfig,
    on_stop: Callable[[], None] = lambda: None,
) -> Guard:
    """Return the ASGI application; `on_stop` is called when the last request has been answered."""
    service, figures = JudgeService(judge, config), Figures()

    @asynccontextmanager
    async def live(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()
        on_stop()

    app = FastAPI(
        title="verl-videosearch judge",
        version="1",
        lifespan=live,
        responses=ERRORS,
        docs_url=None,  # FastAPI's own pages load scripts from somebody else's server
        redoc_url=None,
    )
    app.state.service = service
    app.exception_handler(Refusal)(_answer_refusal)
    app.exception_handler(RequestValidationError)(_answer_invalid)
    app.exception_handler(HTTPException)(_answer_http_error)
    _add_judging(app, service, config)
    _add_batches(app, service, config)
    _add_figures(app, service, figures)
    guard = Guard(app, config, figures.count)
    guard.state = app.state  # type: ignore[attr-defined]
    return guard


def _add_judging(app: FastAPI, service: JudgeService, config: ServerConfig) -> None:
    """Add the routes that wait for the judge."""

    @app.post("/v1/videos", response_model=UploadAnswer, status_code=201, openapi_extra=_VIDEO_BODY)
    async def upload(request: Request) -> Any:
        """Upload one video as the body of the request; its name is good for every other route."""
        return await service.upload(request.stream())

    @app.post("/v1/compare", response_model=CompareAnswer)
    async def compare(asked: CompareRequest) -> Any:
        """Say which of two videos is better, why, and what was looked at."""
        _check_prompt(asked.prompt, config)
        return await service.compare(asked.prompt, asked.video_1, asked.video_2, asked.deadline_s)

    @app.post("/v1/rank", response_model=RankAnswer)
    async def rank(asked: RankRequest) -> Any:
        """Put the clips of one prompt in order."""
        _check_prompt(asked.prompt, config)
        _check_count("videos", asked.videos, config.max_clips)
        return await service.rank(
            asked.prompt, asked.videos, asked.max_comparisons, asked.deadline_s
        )

    @app.post("/v1/reward", response_model=RewardAnswer)
    async def reward(asked: RewardRequest) -> Any:
        """Score the clips of one prompt by their win rate in the group, or against an anchor."""
        _check_prompt(asked.prompt, config)
        _check_count("clips", asked.clips, config.max_clips)
        least = 1 if asked.anchor is not None else 2
        if len(asked.clips) < least:
            raise Refusal(Reason.INVALID, "a group without an anchor needs at least two clips")
        if asked.anchor is not None and (asked.max_comparisons or len(asked.clips)) < len(
            asked.clips
        ):
            raise Refusal(Reason.INVALID, "against an anchor every clip costs one comparison")
        return await service.reward(
            asked.prompt, asked.clips, asked.anchor, asked.max_comparisons, asked.deadline_s
        )


def _add_batches(app: FastAPI, service: JudgeService, config: ServerConfig) -> None:
    """Add the routes of pairs that are judged in the background."""

    @app.post("/v1/batches", response_model=BatchAnswer, status_code=202)
    async def add(asked: BatchRequest) -> Any:
        """Take many pairs; they are judged in the background, also after a restart."""
        _check_count("pairs", asked.pairs, config.max_pairs)
        for pair in asked.pairs:
            _check_prompt(pair.prompt, config)
        return service.add_batch([PairRequest.model_dump(pair) for pair in asked.pairs])

    @app.get("/v1/batches", response_model=list[BatchAnswer])
    async def list_newest(limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Any:
        """List the newest batches."""
        return service.batches.list_batches(limit)

    @app.get("/v1/batches/{name}", response_model=BatchAnswer)
    async def describe(name: BatchName) -> Any:
        """Say where a batch stands."""
        return service.describe_batch(name)

    @app.get("/v1/batches/{name}/results", response_model=BatchResults)
    async def results(
        name: BatchName,
        offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> Any:
        """Return what became of the pairs, in their order."""
        service.describe_batch(name)
        return {"results": service.batches.read_results(name, offset, limit)}

    @app.post("/v1/batches/{name}/cancel", response_model=BatchAnswer)
    async def cancel(name: BatchName) -> Any:
        """Cancel the pairs that have no result yet."""
        service.batches.cancel(name)
        return service.describe_batch(name)


def _add_figures(app: FastAPI, service: JudgeService, figures: Figures) -> None:
    """Add the routes for those who run the server."""

    @app.get("/healthz", response_model=HealthAnswer, responses={503: {"model": HealthAnswer}})
    async def health(response: Response) -> Any:
        """Say whether the server takes requests."""
        response.status_code = 503 if service.is_draining else 200
        return {
            "status": "draining" if service.is_draining else "ok",
            "num_running": service.num_running,
            "num_waiting": service.num_waiting,
            "num_batch_pairs": service.batches.count_open(),
        }

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        """Show every route; nothing is loaded from elsewhere."""
        page = render_api_page(app.openapi())
        return HTMLResponse(page, headers={"Content-Security-Policy": POLICY})

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Return figures for Prometheus."""
        return Response(figures.write(service), media_type=CONTENT_TYPE_LATEST)


class Figures:
    """What Prometheus is told."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._answers = Counter(
            "videosearch_requests", "Answers", ["route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "videosearch_request_seconds",
            "Seconds from the request to its answer",
            ["route"],
            buckets=(0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300),
            registry=self.registry,
        )
        self._gauges = {
            name: Gauge(f"videosearch_{name}", words, registry=self.registry)
            for name, words in {
                "running": "Requests that are judged now",
                "waiting": "Requests in the queue",
                "batch_pairs": "Pairs of batches that wait or run",
            }.items()
        }

    def count(self, route: str, status: int, seconds: float) -> None:
        """Note one answer."""
        self._answers.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def write(self, service: JudgeService) -> bytes:
        """Return the figures in Prometheus' text form."""
        self._gauges["running"].set(service.num_running)
        self._gauges["waiting"].set(service.num_waiting)
        self._gauges["batch_pairs"].set(service.batches.count_open())
        return generate_latest(self.registry)


def _check_prompt(prompt: str, config: ServerConfig) -> None:
    if len(prompt) > config.max_prompt_chars:
        raise Refusal(
            Reason.INVALID,
            f"the prompt has {len(prompt)} characters, allowed are {config.max_prompt_chars}",
        )


def _check_count(what: str, items: list[Any], most: int) -> None:
    if len(items) > most:
        raise Refusal(Reason.INVALID, f"{len(items)} {what} are too many, allowed are {most}")


async def _answer_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal), "registered for it"
    return JSONResponse(error.to_json(), error.status_code, error.headers)


async def _answer_invalid(request: Request, error: Exception) -> Response:
    """Say what is wrong with a message, without repeating its content."""
    assert isinstance(error, RequestValidationError), "registered for it"
    words = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:10]]
    return await _answer_refusal(request, Refusal(Reason.INVALID, "; ".join(words)))


async def _answer_http_error(request: Request, error: Exception) -> Response:
    """Give the framework's own refusals the form of ours."""
    assert isinstance(error, HTTPException), "registered for it"
    reason = {404: Reason.NOT_FOUND.value}.get(error.status_code, Reason.BAD_REQUEST.value)
    body = {"error": {"reason": reason, "detail": str(error.detail)}}
    return JSONResponse(body, error.status_code, error.headers)
