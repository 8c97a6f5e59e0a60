"""What every request passes first: whose it is, how much it may send, and for how long.

An answer of its own is JSON, {"error": "one line"}. No path of this machine is in any answer.
"""

import asyncio
import hmac
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import h11
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from uvicorn.protocols.http import h11_impl

MOST_BYTES = 2**25  # of a request
MOST_REQUESTS, MOST_CONNECTIONS = 128, 400  # at a time; each connection is a file descriptor
SECONDS = 20.0  # in which a request must have come, headers and body each
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
_PATH = re.compile(r"(?<![\w/:])/(?:[^/\s'\":;,]+/)*([^/\s'\":;,]+)")


def error(status: int, line: str, **headers: str) -> JSONResponse:
    """An answer that says in a line what is wrong."""
    return JSONResponse({"error": public(line)}, status, headers)


def public(line: str) -> str:
    """A line for strangers: of every path in it the last part alone."""
    return _PATH.sub(r"\1", " ".join(line.split()))


class Guard:
    """An ASGI application around another one."""

    def __init__(
        self,
        app: Any,
        token: str,
        for_all: bool = False,
        hosts: tuple[str, ...] = (),
        port: int = 0,
    ):
        """Token: of what changes state, or `for_all`; hosts: names of this machine, if not any."""
        self._app, self._token, self._for_all, self._hosts = app, token, for_all, hosts
        self._cookie, self._running = (
            f"diffad_{port}",
            0,
        )  # cookies are of a host, for all its ports

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refused = self._refused(Request(scope))
        self._running += 1
        try:
            if refused is None and self._running > MOST_REQUESTS:
                refused = error(503, "too many requests at a time", **{"retry-after": "1"})
            await (refused or self._app)(scope, _limited(scope, receive), answer)
        finally:
            self._running -= 1

    def _refused(self, request: Request) -> Response | None:
        """The answer to a request that goes no further."""
        headers, path = request.headers, request.url.path
        host = headers.get("host", "")
        if self._hosts and (urlsplit(f"//{host}").hostname or "") not in self._hosts:
            return error(400, "this station is not called so: the Host header is another's")
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        visit = request.method == "GET" and headers.get("sec-fetch-mode") == "navigate"
        foreign = site not in ("same-origin", "none") and not (visit and path == "/")
        if foreign or (origin is not None and urlsplit(origin).netloc != host):
            return error(403, "requests of other sites are refused")
        if int(headers.get("content-length", 0)) > MOST_BYTES:  # h11 has checked that it is one
            return error(413, f"a request may have {MOST_BYTES:,} bytes")
        given = request.query_params.get("token")
        if path == "/" and given is not None and self._right(given):
            answer = RedirectResponse("/", 303)
            answer.set_cookie(self._cookie, given, httponly=True, samesite="strict")
            return answer
        free = path == "/healthz" or not (
            self._for_all or (request.method not in ("GET", "HEAD") and path != "/judge")
        )
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        shown = bearer.strip() if kind.lower() == "bearer" else request.cookies.get(self._cookie)
        if free or self._right(shown or ""):
            return None
        told = "this needs the token: open the address that the station's log shows"
        return error(401, told, **{"www-authenticate": "Bearer"})

    def _right(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())


def _limited(scope: Any, receive: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
    """`receive` of a body that is not too long and comes in time, else an HTTPException."""
    loop, left, whole = asyncio.get_running_loop(), MOST_BYTES, False
    until = loop.time() + SECONDS

    async def limited() -> Any:
        nonlocal left, whole
        if whole:
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), until - loop.time())
        except TimeoutError:
            raise HTTPException(
                408, "the request came too slowly", {"connection": "close"}
            ) from None
        left -= len(message.get("body", b""))
        whole = not message.get("more_body", False)
        if left < 0:
            told = f"a request may have {MOST_BYTES:,} bytes"
            raise HTTPException(413, told, {"connection": "close"})
        return message

    return limited


class Connection(h11_impl.H11Protocol):
    """A client's connection: there are not too many, and none waits for ever."""

    def connection_made(self, transport: Any) -> None:
        """Refuse what is too much; close what sends no request in time."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            self._say(503, "too many connections")
        self._timer = self.loop.call_later(SECONDS, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer."""
        self._timer.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """As all other answers."""
        self._say(400, "this is no HTTP request")

    def _late(self) -> None:
        if self.cycle is None:
            self._say(408, "the request came too slowly")

    def _say(self, status: int, line: str) -> None:
        answer = error(status, line, connection="close", **HEADERS)
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not self.transport.is_closing():
            head = h11.Response(status_code=status, headers=answer.raw_headers)
            for event in (head, h11.Data(data=answer.body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
