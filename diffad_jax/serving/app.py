"""The station by HTTP; openapi.json beside the page describes what it answers."""

import asyncio
import base64
import binascii
import collections
import contextlib
import io
import json
import pathlib
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import prometheus_client
from PIL import Image
from prometheus_client import core
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from configs.errors import UserError
from diffad_jax.reporting import drawing
from diffad_jax.reporting.html import printable
from diffad_jax.serving import guard
from diffad_jax.serving.station import FAILED, MOST_PIXELS, Full, Part, Station
from input_pipeline.decoding.pictures import decode_mask

PAGE = pathlib.Path(__file__).parent / "page"
MOST_FILES, MOST_EVENTS = 16, 16  # pictures of a request; pages that listen
SECONDS = 60.0  # in which a picture must be judged
TICK, SILENCE = 1.0, 15.0  # s between looks at the state, and until a page hears something
VIEWS = ("picture", "map", "overlay", "reconstruction")
SHOWN = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp"}  # by every browser
OF_ROW = ("score", "confidence", "threshold", "verdict", "width", "height")


class App:
    """A station's routes. `asgi` is the application; `closing` makes pages that listen let go.

    corrections: a `corrections.Corrections`, or None. watched: the name of the folder that is.
    """

    def __init__(self, station: Station, corrections: Any = None, watched: str | None = None):
        self.station, self.watched, self.closing = station, watched, False
        self._corrections, self._corrected = (
            corrections,
            len(corrections.all()) if corrections else 0,
        )
        self._scale, self._listening = drawing.full_scale(station.served.pixel_threshold), 0
        self._registry = prometheus_client.CollectorRegistry()
        self._registry.register(self)
        told = ("diffad_latency_seconds", "From a picture's coming to its verdict.")
        latency = prometheus_client.Histogram(*told, registry=self._registry)
        station.listeners.append(lambda part: latency.observe(part.milliseconds / 1e3))
        routes = [
            Route(f"/{name}", self.file) for name in ("", "page.css", "page.js", "openapi.json")
        ]
        routes += [
            Route("/judge", self.judge, methods=["POST"]),
            Route("/parts", self.parts),
            Route("/parts/{id}/{view}", self.view),
            Route("/events", self.events),
            Route("/model", self.model),
            Route("/state", self.state),
            Route("/threshold", self.threshold, methods=["POST"]),
            Route("/corrections", self.correct, methods=["POST"]),
            Route("/corrections", self.all_corrections),
            Route("/corrections/{id}", self.withdraw, methods=["DELETE"]),
            Route("/corrections/{id}/{view}", self.corrected),
            Route("/healthz", self.healthz),
            Route("/readyz", self.readyz),
            Route("/metrics", self.metrics),
        ]
        kinds = (HTTPException, UserError, OSError, Exception)
        self.asgi = Starlette(routes=routes, exception_handlers=dict.fromkeys(kinds, _told))

    # What is judged

    async def judge(self, request: Request) -> Response:
        """Judge the pictures of a body or a form; the answer comes when all are."""
        files = await _files(request)
        try:
            futures = [self.station.submit(data, name, "request") for name, data in files]
        except Full as error:
            raise HTTPException(503 if self.station.closing else 429, str(error)) from error
        waiting = asyncio.gather(*map(asyncio.wrap_future, futures))
        try:
            parts = await asyncio.wait_for(waiting, SECONDS)
        except TimeoutError:
            raise HTTPException(503, f"not judged within {SECONDS:.0f} s") from None
        problem = parts[0].row["error"]
        if problem and len(parts) == 1:
            raise HTTPException(503 if problem == FAILED else 422, problem)
        return JSONResponse({"parts": [self._shown(part) for part in parts]})

    async def parts(self, request: Request) -> Response:
        """The last parts, the newest first."""
        limit = request.query_params.get("limit", "60")
        if not limit.isdecimal():
            raise HTTPException(400, "limit is a number")
        parts = self.station.newest(int(limit))
        return JSONResponse({"parts": [self._shown(part) for part in parts]})

    async def view(self, request: Request) -> Response:
        """A part's picture, map, overlay or reconstruction."""
        part, view = self._part(request.path_params["id"]), request.path_params["view"]
        if view not in VIEWS or not part.data or part.finding is None:
            raise HTTPException(404, "there is no such picture, or no longer")
        if view == "picture":
            return await run_in_threadpool(self._browsable, part.data)
        return await run_in_threadpool(self._drawn, part, view)

    def _part(self, id: object) -> Part:
        part = self.station.get(str(id))
        if part is None:
            raise HTTPException(404, "there is no such part, or no longer")
        return part

    def _shown(self, part: Part) -> dict[str, Any]:
        """A part as JSON."""
        row, problem = part.row, part.row["error"]
        urls = {view: f"/parts/{part.id}/{view}" if part.finding else None for view in VIEWS}
        facts = {"id": part.id, "time": part.time, "name": printable(part.name)}
        facts |= {"source": part.source, "milliseconds": round(part.milliseconds, 1)}
        facts |= {
            "boxes": row["boxes"] or [],
            "error": problem and guard.public(printable(problem)),
        }
        return facts | {key: row[key] for key in OF_ROW} | urls

    def _browsable(self, data: bytes) -> Response:
        kind = next((kind for start, kind in SHOWN.items() if data.startswith(start)), None)
        return _image(data, kind) if kind else _png(self.station.served.read(data, "the picture"))

    def _drawn(self, part: Part, view: str) -> Response:
        found, data = part.finding, part.data
        if found is None or not data:  # meanwhile
            raise HTTPException(404, "there is no such picture any longer")
        if view == "reconstruction":
            return _png(found.reconstruction)
        if view == "map":
            grey = np.minimum(drawing.unit(found.anomaly_map / self._scale) * 256, 255)
            return _png(grey.astype(np.uint8))
        picture = self.station.served.read(data, part.name)
        corners = [(box.x, box.y, box.width, box.height) for box in found.boxes]
        return _png(
            drawing.frames(drawing.overlay(picture, found.anomaly_map, self._scale), corners)
        )

    # What the station is

    async def model(self, request: Request) -> Response:
        """What does not change while the station runs."""
        served, names = self.station.served, ("category", "kind", "size", "step", "program")
        names += ("precision", "threshold", "pixel_threshold", "slope", "rule")
        pictures, limits = (served.reference or {}).get("pictures"), {"bytes": guard.MOST_BYTES}
        limits |= {"pixels": MOST_PIXELS, "files": MOST_FILES, "waiting": self.station.most_waiting}
        kinds = enumerate(("good", "defective"))
        scores = pictures and {
            kind: [each["score"] for each in pictures if each["label"] == label]
            for label, kind in kinds
        }
        facts: dict[str, Any] = {name: getattr(served, name) for name in names}
        colours = drawing.colours(np.arange(256) / 256, 1.0).tolist()
        facts |= {"scale": self._scale, "colours": colours, "evaluation": scores, "limits": limits}
        return JSONResponse(facts)

    async def state(self, request: Request) -> Response:
        """What changes."""
        return JSONResponse(self._state())

    def _state(self) -> dict[str, Any]:
        station = self.station
        problems = {key: guard.public(told) for key, told in station.troubles().items()}
        return {
            "threshold": station.threshold,
            "drift": station.drift.state() if station.drift else None,
            "watching": self.watched,
            "ready": not problems and not station.closing,
            "problems": problems,
            "counts": dict(station.counts),
            "corrections": self._corrected,
        }

    async def events(self, request: Request) -> Response:
        """Parts as they are judged, and the state when it changes, as server-sent events."""
        if self._listening >= MOST_EVENTS:
            raise HTTPException(503, f"{MOST_EVENTS} pages listen already")
        return StreamingResponse(self._events(), media_type="text/event-stream")

    async def _events(self) -> AsyncIterator[str]:
        loop, something, last, spoke = asyncio.get_running_loop(), asyncio.Event(), "", 0.0
        news: collections.deque[Part] = collections.deque(maxlen=self.station.kept)

        def hear(part: Part) -> None:
            news.append(part)
            loop.call_soon_threadsafe(something.set)

        self.station.listeners.append(hear)
        self._listening += 1
        try:
            while not self.closing:
                state = json.dumps(self._state())
                if state != last or loop.time() > spoke + SILENCE:
                    yield ": \n\n" if state == last else f"event: state\ndata: {state}\n\n"
                    last, spoke = state, loop.time()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(something.wait(), TICK)
                something.clear()
                while news:
                    yield f"event: part\ndata: {json.dumps(self._shown(news.popleft()))}\n\n"
        finally:
            self.station.listeners.remove(hear)
            self._listening -= 1

    async def healthz(self, request: Request) -> Response:
        """It runs."""
        return JSONResponse({"alive": True})

    async def readyz(self, request: Request) -> Response:
        """Whether all is well, else what is not."""
        state = self._state()
        body = {key: state[key] for key in ("ready", "problems")}
        return JSONResponse(body, 200 if state["ready"] else 503)

    async def metrics(self, request: Request) -> Response:
        """For Prometheus."""
        text = prometheus_client.generate_latest(self._registry)
        return Response(text, media_type=prometheus_client.CONTENT_TYPE_LATEST)

    def collect(self) -> Iterator[core.Metric]:
        """What Prometheus is told besides the latency."""
        state, station = self._state(), self.station
        counts = core.CounterMetricFamily("diffad_parts", "By verdict.", labels=["verdict"])
        for kind, count in state["counts"].items():
            counts.add_metric([kind], count)
        drift = core.GaugeMetricFamily("diffad_drift_p", "Of each test.", labels=["statistic"])
        for name, p in (state["drift"] or {"p": {}})["p"].items():
            drift.add_metric([name], float("nan") if p is None else p)
        drifted = len(state["drift"]["drifted"]) if state["drift"] else 0
        yield from (counts, drift)
        for name, value in {
            "diffad_waiting_pictures": station.waiting,
            "diffad_drifted_statistics": drifted,
            "diffad_problems": len(state["problems"]),
        }.items():
            yield core.GaugeMetricFamily(name, "Now.", value=value)

    async def file(self, request: Request) -> Response:
        """The page, its style and script; the description of all this."""
        file = PAGE / (request.url.path.strip("/") or "index.html")
        if not file.is_file():
            raise HTTPException(404, "there is no such page")
        return FileResponse(file, headers={"cache-control": "no-cache"})

    # What people say

    async def threshold(self, request: Request) -> Response:
        """Judge by another threshold."""
        value = (await _json(request)).get("threshold")
        await run_in_threadpool(self.station.set_threshold, value, time.time())
        return await self.state(request)

    async def correct(self, request: Request) -> Response:
        """Keep what a person says of a part."""
        said = await _json(request)
        part, verdict = self._part(said.get("part")), said.get("verdict")
        if verdict not in ("good", "defective") or not part.data or part.finding is None:
            raise HTTPException(422, "a verdict is good or defective, of a picture that is kept")
        mask = _mask(said.get("mask"), part.finding.anomaly_map.shape)
        told = (part, verdict, mask, time.time())
        entry = await run_in_threadpool(self._corrections.add, *told)
        self._corrected = len(await run_in_threadpool(self._corrections.all))
        return JSONResponse(entry)

    async def all_corrections(self, request: Request) -> Response:
        """All that people have said."""
        return JSONResponse({"corrections": await run_in_threadpool(self._corrections.all)})

    async def corrected(self, request: Request) -> Response:
        """The picture or the mask of a correction."""
        entry, view = await self._entry(request), request.path_params["view"]
        name = entry.get(view) if view in ("picture", "mask") else None
        if not name:
            raise HTTPException(404, "there is no such picture")
        data = await run_in_threadpool((self.station.folder / name).read_bytes)
        return await run_in_threadpool(self._browsable, data)

    async def withdraw(self, request: Request) -> Response:
        """Forget a correction."""
        entry = await self._entry(request)
        await run_in_threadpool(self._corrections.withdraw, entry["id"])
        self._corrected = len(await run_in_threadpool(self._corrections.all))
        return JSONResponse({"withdrawn": entry["id"]})

    async def _entry(self, request: Request) -> dict[str, Any]:
        for entry in await run_in_threadpool(self._corrections.all):
            if entry["id"] == request.path_params["id"]:
                return entry
        raise HTTPException(404, "there is no such correction")


async def _files(request: Request) -> list[tuple[str, bytes]]:
    """(name for people, content) of the pictures in a request."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("image/") or kind == "application/octet-stream":
        files = [(request.query_params.get("name"), await request.body())]
    elif kind == "multipart/form-data":
        parser = MultiPartParser(request.headers, request.stream())
        parser.spool_max_size = guard.MOST_BYTES  # in memory, as all else
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise HTTPException(400, error.message) from error
        uploads = [each for _, each in form.multi_items() if isinstance(each, UploadFile)]
        files = [(each.filename, await each.read()) for each in uploads]
    else:
        raise HTTPException(415, "send a picture (image/*), or a form with several")
    if not files or not all(data for _, data in files):
        raise HTTPException(400, "there is no picture in the request, or an empty one")
    if len(files) > MOST_FILES:
        raise HTTPException(413, f"a request may have {MOST_FILES} pictures, not {len(files)}")
    names = [(name or "").replace("\\", "/").rpartition("/")[2] for name, _ in files]
    shown = [printable(name)[:200] or "picture" for name in names]
    return [(name, data) for name, (_, data) in zip(shown, files, strict=True)]


async def _json(request: Request) -> dict[str, Any]:
    try:
        said = json.loads(await request.body())
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise HTTPException(400, "the body must be a JSON object")
    return said


def _mask(url: object, shape: tuple[int, ...]) -> np.ndarray | None:
    """u8[h,w], 255 where a person has painted, of a PNG in a data: URL."""
    if url is None:
        return None
    try:
        data = base64.b64decode(str(url).removeprefix("data:image/png;base64,"), validate=True)
    except binascii.Error as error:
        raise UserError("the mask must be a data:image/png;base64 URL") from error
    mask = decode_mask(pathlib.PurePath("the mask"), data, shape[0] * shape[1])[..., 0]
    if mask.shape != shape:
        raise UserError(f"the mask is {mask.shape}, its picture {shape}")
    return 255 * mask


def _png(array: np.ndarray) -> Response:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png", compress_level=1)
    return _image(buffer.getvalue(), "png")


def _image(data: bytes, kind: str) -> Response:
    kept = {"cache-control": "private, max-age=3600, immutable"}  # an id is of one picture
    return Response(data, media_type=f"image/{kind}", headers=kept)


async def _told(request: Request, error: Exception) -> Response:
    """An error in a line."""
    if isinstance(error, HTTPException):
        return guard.error(error.status_code, error.detail, **(error.headers or {}))
    if isinstance(error, UserError):
        return guard.error(422, str(error))
    if isinstance(error, OSError):
        return guard.error(503, error.strerror or str(error))
    return guard.error(500, "a mistake of this program; its log says more")
