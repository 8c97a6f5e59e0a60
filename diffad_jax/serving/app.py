"""The station by HTTP; page/openapi.json says what it answers."""

import asyncio
import base64
import binascii
import collections
import contextlib
import io
import json
import pathlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
import prometheus_client
from PIL import Image
from prometheus_client import core
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from configs.errors import UserError
from diffad_jax.predicting import writing
from diffad_jax.reporting import drawing
from diffad_jax.reporting.html import printable
from diffad_jax.serving import guard
from diffad_jax.serving.corrections import Corrections
from diffad_jax.serving.station import FAILED, MOST_PIXELS, Full, Part, Station
from input_pipeline.decoding import formats
from input_pipeline.decoding.pictures import decode_mask

MultiPartParser.spool_max_size = guard.MOST_BYTES  # a form stays in memory, as all else
PAGE = pathlib.Path(__file__).parent / "page"
MOST_FILES, MOST_EVENTS = 16, 16  # pictures of a request; pages that listen
SECONDS = 60.0  # in which a picture must be judged
TICK, SILENCE = 1.0, 15.0  # s between looks at the state, and until a page hears something
VIEWS = ("picture", "map", "overlay", "reconstruction")
SHOWN = ("PNG", "JPEG", "WEBP")  # by every browser
OF_ROW = ("score", "confidence", "threshold", "verdict", "width", "height")
OF_MODEL = (
    *("category", "kind", "size", "step", "program", "precision"),
    *("threshold", "pixel_threshold", "slope", "rule"),
)


class App:
    """A station's routes: `asgi` is the application.

    watched: the name of the folder that is, or None. closing: whether pages that listen let go.
    """

    def __init__(self, station: Station, corrections: Corrections, watched: str | None = None):
        self.station, self.watched, self._corrections = station, watched, corrections
        self.closing, self._listening = lambda: False, 0
        self._scale = drawing.full_scale(station.served.pixel_threshold)
        self._registry = prometheus_client.CollectorRegistry()
        self._registry.register(self)
        told = ("diffad_latency_seconds", "From a picture's coming to its verdict.")
        latency = prometheus_client.Histogram(*told, registry=self._registry)
        station.listeners.append(lambda part: latency.observe(part.milliseconds / 1e3))
        get = {"/parts": self._parts, "/parts/{id}/{view}": self._view, "/events": self._events}
        get |= {"/model": self._model, "/state": self._now, "/corrections": self._said}
        get |= {"/corrections/{id}/{view}": self._corrected_view, "/metrics": self._metrics}
        get |= {"/healthz": self._healthz, "/readyz": self._readyz}
        get |= dict.fromkeys(("/", "/page.css", "/page.js", "/openapi.json"), self._file)
        post = {"/judge": self._judge, "/threshold": _of_json(self._threshold)}
        post |= {"/corrections": _of_json(self._correct)}
        routes = [Route(path, does) for path, does in get.items()]
        routes += [Route(path, does, methods=["POST"]) for path, does in post.items()]
        routes += [Route("/corrections/{id}", self._withdraw, methods=["DELETE"])]
        kinds = (HTTPException, UserError, OSError, Exception)
        self.asgi = Starlette(routes=routes, exception_handlers=dict.fromkeys(kinds, _told))

    def state(self) -> dict[str, Any]:
        """What changes, as JSON."""
        station = self.station
        problems = {key: guard.public(told) for key, told in station.troubles().items()}
        return {
            "threshold": station.threshold,
            "drift": station.drift.state() if station.drift else None,
            "watching": self.watched,
            "ready": not problems and not station.closing,
            "problems": problems,
            "counts": station.counts | {"unsent": station.unsent},
            "corrections": self._corrections.count,
        }

    def collect(self) -> Iterator[core.Metric]:
        """What Prometheus is told besides the latency."""
        state = self.state()
        drift = state["drift"] or {"p": {}, "drifted": []}
        counts = core.CounterMetricFamily("diffad_parts", "By verdict.", labels=["verdict"])
        found = core.GaugeMetricFamily("diffad_drift_p", "Of each test.", labels=["statistic"])
        for kind, count in state["counts"].items():
            counts.add_metric([kind], count)
        for name, p in drift["p"].items():
            found.add_metric([name], float("nan") if p is None else p)
        yield from (counts, found)
        now = {"drifted": len(drift["drifted"]), "problems": len(state["problems"])}
        for name, value in (now | {"waiting": self.station.waiting}).items():
            yield core.GaugeMetricFamily(f"diffad_{name}", "How many.", value=value)

    # What is judged

    async def _judge(self, request: Request) -> Response:
        files, futures = await _files(request), []
        try:
            for name, data in files:
                futures.append(self.station.submit(data, name, "request"))
        except Full as error:
            for future in futures:
                future.cancel()
            raise HTTPException(503 if self.station.closing else 429, str(error)) from error
        try:
            async with asyncio.timeout(SECONDS):
                parts = await asyncio.gather(*map(asyncio.wrap_future, futures))
        except TimeoutError:
            raise HTTPException(503, f"not judged within {SECONDS:.0f} s") from None
        problem = parts[0].row["error"]
        if problem and len(parts) == 1:
            raise HTTPException(503 if problem == FAILED else 422, problem)
        return JSONResponse({"parts": [_shown(part) for part in parts]})

    async def _parts(self, request: Request) -> Response:
        limit = request.query_params.get("limit", "60")
        if not (limit.isascii() and limit.isdigit() and len(limit) < 9):
            raise HTTPException(400, "limit must be a number")
        return JSONResponse({"parts": [_shown(part) for part in self.station.newest(int(limit))]})

    def _part(self, id: object) -> Part:
        part = self.station.get(str(id))
        if part is None:
            raise HTTPException(404, "there is no such part, or no longer")
        return part

    def _view(self, request: Request) -> Response:
        part, view = self._part(request.path_params["id"]), request.path_params["view"]
        found, data, served = part.finding, part.data, self.station.served
        if found is None or not data or view not in VIEWS:
            raise HTTPException(404, "there is no such picture, or no longer")
        if view == "picture":
            return self._browsable(data)
        if view == "map":
            return _png(drawing.levels(found.anomaly_map, self._scale))
        if view == "reconstruction":
            return _png(found.reconstruction)
        picture, verdict = served.read(data, "it"), part.row["verdict"]
        return _png(writing.marked(picture, found, verdict, served.pixel_threshold))

    def _browsable(self, data: bytes) -> Response:
        kind = formats.known(data)
        return _image(data, kind) if kind in SHOWN else _png(self.station.served.read(data, "it"))

    # What the station is

    async def _model(self, request: Request) -> Response:
        served = self.station.served
        facts: dict[str, Any] = {name: getattr(served, name) for name in OF_MODEL}
        facts |= {
            "scale": self._scale,
            "colours": drawing.colours(np.arange(256) / 256, 1.0).tolist(),
        }
        limits = {"bytes": guard.MOST_BYTES, "pixels": MOST_PIXELS, "files": MOST_FILES}
        facts |= {"limits": limits | {"waiting": self.station.most_waiting}, "evaluation": None}
        if served.reference:
            scores = [(each["label"], each["score"]) for each in served.reference["pictures"]]
            kinds = enumerate(("good", "defective"))
            facts["evaluation"] = {
                kind: [score for label, score in scores if label == which and score is not None]
                for which, kind in kinds
            }
        return JSONResponse(facts)

    async def _now(self, request: Request) -> Response:
        return JSONResponse(self.state())

    async def _healthz(self, request: Request) -> Response:
        return JSONResponse({"alive": True})

    async def _readyz(self, request: Request) -> Response:
        state = self.state()
        told = {key: state[key] for key in ("ready", "problems")}
        return JSONResponse(told, 200 if state["ready"] else 503)

    async def _metrics(self, request: Request) -> Response:
        text = prometheus_client.generate_latest(self._registry)
        return Response(text, media_type=prometheus_client.CONTENT_TYPE_LATEST)

    async def _file(self, request: Request) -> Response:
        file = PAGE / (request.url.path.strip("/") or "index.html")
        return FileResponse(file, headers={"cache-control": "no-cache"})

    async def _events(self, request: Request) -> Response:
        if self._listening >= MOST_EVENTS:
            raise HTTPException(503, f"{MOST_EVENTS} pages listen already")
        return StreamingResponse(self._stream(), media_type="text/event-stream")

    async def _stream(self) -> AsyncIterator[str]:
        """Parts as they are judged, and the state when it changes."""
        loop, something, last, spoke = asyncio.get_running_loop(), asyncio.Event(), "", 0.0
        news: collections.deque[str] = collections.deque(maxlen=self.station.kept)

        def hear(part: Part) -> None:
            news.append(f"event: part\ndata: {json.dumps(_shown(part))}\n\n")
            loop.call_soon_threadsafe(something.set)

        self.station.listeners.append(hear)
        self._listening += 1
        try:
            while not self.closing():
                state = json.dumps(self.state())
                if state != last or loop.time() > spoke + SILENCE:
                    yield ": \n\n" if state == last else f"event: state\ndata: {state}\n\n"
                    last, spoke = state, loop.time()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(something.wait(), TICK)
                something.clear()
                while news:
                    yield news.popleft()
        finally:
            self.station.listeners.remove(hear)
            self._listening -= 1

    # What people say

    def _threshold(self, said: dict[str, Any]) -> Response:
        self.station.set_threshold(said.get("threshold"), time.time())
        return JSONResponse(self.state())

    def _correct(self, said: dict[str, Any]) -> Response:
        part, url = self._part(said.get("part")), said.get("mask")
        if said.get("verdict") not in ("good", "defective"):
            raise HTTPException(422, "the verdict must be good or defective")
        if not part.data:
            raise HTTPException(404, "its picture is no longer kept")
        mask = None if url is None else _mask(str(url), part)
        return JSONResponse(self._corrections.add(part, said["verdict"], mask, time.time()))

    def _said(self, request: Request) -> Response:
        return JSONResponse({"corrections": self._corrections.all()})

    def _corrected_view(self, request: Request) -> Response:
        word, view = self._word(request), request.path_params["view"]
        name = word[view] if view in ("picture", "mask") else None
        if name is None:
            raise HTTPException(404, "there is no such picture")
        return self._browsable((self.station.folder / name).read_bytes())

    def _withdraw(self, request: Request) -> Response:
        id = self._word(request)["id"]
        with contextlib.suppress(KeyError):  # somebody else was faster
            self._corrections.withdraw(id)
        return JSONResponse({"withdrawn": id})

    def _word(self, request: Request) -> dict[str, Any]:
        id = request.path_params["id"]
        word = next((word for word in self._corrections.all() if word["id"] == id), None)
        if word is None:
            raise HTTPException(404, "there is no such correction")
        return word


def _shown(part: Part) -> dict[str, Any]:
    """A part as JSON."""
    row, problem = part.row, part.row["error"]
    facts: dict[str, Any] = {"id": part.id, "time": part.time, "name": printable(part.name)}
    facts |= {view: f"/parts/{part.id}/{view}" if part.finding else None for view in VIEWS}
    facts |= {"source": part.source, "milliseconds": round(part.milliseconds, 1)}
    facts |= {"boxes": row["boxes"] or [], "error": problem and guard.public(printable(problem))}
    return facts | {key: row[key] for key in OF_ROW}


async def _files(request: Request) -> list[tuple[str, bytes]]:
    """(name for people, content) of the pictures in a request."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("image/") or kind == "application/octet-stream":
        files = [(request.query_params.get("name"), await request.body())]
    elif kind == "multipart/form-data":
        async with request.form() as form:
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


def _of_json(answer: Callable[[dict[str, Any]], Response]) -> Callable[[Request], Any]:
    """The route of an answer to a JSON object, which is made in a thread."""

    async def route(request: Request) -> Response:
        said = None
        with contextlib.suppress(ValueError, RecursionError):
            said = json.loads(await request.body())
        if not isinstance(said, dict):
            raise HTTPException(400, "the body must be a JSON object")
        return await run_in_threadpool(answer, said)

    return route


def _mask(url: str, part: Part) -> np.ndarray:
    """u8[h,w], 255 where a person has painted: a PNG in a data URL."""
    try:
        data = base64.b64decode(url.removeprefix("data:image/png;base64,"), validate=True)
    except binascii.Error as error:
        raise UserError("the mask must be a data:image/png;base64 URL") from error
    most = (part.row["width"] or 0) * (part.row["height"] or 0)
    return 255 * decode_mask(pathlib.PurePath("the mask"), data, most)[..., 0]


def _png(array: np.ndarray) -> Response:
    Image.fromarray(array).save(buffer := io.BytesIO(), "png", compress_level=1)
    return _image(buffer.getvalue(), "png")


def _image(data: bytes, kind: str) -> Response:
    headers = {"cache-control": "private, max-age=3600, immutable"}  # an id is of one picture
    return Response(data, media_type=f"image/{kind.lower()}", headers=headers)


async def _told(request: Request, error: Exception) -> Response:
    """An error in a line."""
    if isinstance(error, HTTPException):
        return guard.error(error.status_code, error.detail, **(error.headers or {}))
    if isinstance(error, UserError):
        return guard.error(422, str(error))
    if isinstance(error, OSError):
        return guard.error(503, error.strerror or str(error))
    return guard.error(500, "a mistake of this program; its log says more")
