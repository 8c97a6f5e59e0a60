"""What every request passes first: whose it is, how much it sends, and for how long."""

import asyncio
import hmac
import re
from typing import Any
from urllib.parse import urlsplit

import h11
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from uvicorn.protocols.http import h11_impl

MOST_BYTES, MOST_BYTES_OF_ALL = 2**25, 2**29  # of a request, of all that are under way
MOST_REQUESTS, MOST_CONNECTIONS = 128, 400  # at a time
SECONDS = 20.0  # in which a request must have come: its head, and its body
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
_PATH = re.compile(r"(?<![\w/:.])/(?:[^/\n'\":;,]+/)+([^/\s'\":;,]*)|(?<![\w/:.])/([^/\s'\":;,]+)")


def error(status: int, line: str, **headers: str) -> JSONResponse:
    """The answer that says in a line what is wrong."""
    return JSONResponse({"error": public(line)}, status, headers)


def public(line: str) -> str:
    """A line for strangers: of every path of this machine the last part alone."""
    return _PATH.sub(r"\1\2", " ".join(line.split()))


class Guard:
    """An ASGI application around another one.

    token: of what changes something, or `for_all`. hosts: what this machine is called, where only
    it may ask; else (). port: of the station, which its cookie is called after.
    """

    def __init__(self, app: Any, token: str, for_all=False, hosts: tuple[str, ...] = (), port=0):
        self._app, self._token, self._for_all, self._hosts = app, token, for_all, hosts
        self._cookie, self._running, self._bytes = f"diffad_{port}", 0, 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, or have it answered."""
        length, whole, until = 0, False, asyncio.get_running_loop().time() + SECONDS

        async def limited() -> Any:
            nonlocal length, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                raise _cut(408, "the request came too slowly") from None
            size, whole = len(message.get("body", b"")), not message.get("more_body")
            length, self._bytes = length + size, self._bytes + size
            if length > MOST_BYTES:
                raise _cut(413, f"a request may have {MOST_BYTES:,} bytes")
            if self._bytes > MOST_BYTES_OF_ALL:
                raise _cut(503, "too much at a time")
            return message

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
                refused = error(503, "too many requests at a time")
            await (refused or self._app)(scope, limited, answer)
        finally:
            self._running, self._bytes = self._running - 1, self._bytes - length

    def _refused(self, request: Request) -> Response | None:
        """The answer to a request that goes no further."""
        headers, path, visit = request.headers, request.url.path, request.method in ("GET", "HEAD")
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._hosts and (urlsplit(f"//{host}").hostname or "") not in self._hosts:
            return error(400, "this station is not called so: see the Host header")
        opened = visit and path == "/" and headers.get("sec-fetch-mode") == "navigate"
        own = opened or headers.get("sec-fetch-site", "none") in ("same-origin", "none")
        if not own or (origin is not None and urlsplit(origin).netloc != host):
            return error(403, "requests of other sites are refused")
        if int(headers.get("content-length", 0)) > MOST_BYTES:  # h11 has seen that it is a number
            return error(413, f"a request may have {MOST_BYTES:,} bytes")
        given = request.query_params.get("token")
        if path == "/" and given is not None and self._right(given):
            answer = RedirectResponse("/", 303)
            answer.set_cookie(self._cookie, given, httponly=True, samesite="strict")
            return answer
        if path == "/healthz" or not (self._for_all or not (visit or path == "/judge")):
            return None
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        shown = bearer.strip() if kind.lower() == "bearer" else request.cookies.get(self._cookie)
        if self._right(shown or ""):
            return None
        return error(401, "this needs the token: open the address that the station's log shows")

    def _right(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())


def _cut(status: int, line: str) -> HTTPException:
    """What ends a request in its middle, and with it the connection."""
    return HTTPException(status, line, {"connection": "close"})


class Connection(h11_impl.H11Protocol):
    """A client's connection: not too many, none that waits for ever."""

    def connection_made(self, transport: Any) -> None:
        """Refuse what is too much; expect the head of a request in time."""
        super().connection_made(transport)
        self._late = self.loop.call_later(SECONDS, self._expired)
        if len(self.connections) > MOST_CONNECTIONS:
            self._close(503, "too many connections")

    def on_response_complete(self) -> None:
        """Expect the head of the next request in time."""
        super().on_response_complete()
        self._late.cancel()
        self._late = self.loop.call_later(SECONDS, self._expired)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the clock."""
        self._late.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """As all other answers."""
        self._close(400, "this is no HTTP request")

    def _expired(self) -> None:
        if self.conn.our_state is h11.IDLE:  # no request is being answered
            self._close(408, "the request came too slowly")

    def _close(self, status: int, line: str) -> None:
        if self.conn.our_state is h11.IDLE and not self.transport.is_closing():
            answer = error(status, line, connection="close", **HEADERS)
            head = h11.Response(status_code=status, headers=answer.raw_headers)
            for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
                self.transport.write(bytes(self.conn.send(event) or b""))
        self.transport.close()
