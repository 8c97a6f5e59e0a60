"""A proxy in front of an emulator of Google Cloud Storage that fails as it is told to.

Clients that can be pointed elsewhere send plain requests to it. TensorFlow's file system, which
knows no other place than https://*.googleapis.com, is told that it is its HTTPS proxy: CONNECT is
answered here, with a certificate made for it.
"""

import contextlib
import dataclasses
import http.client
import http.server
import pathlib
import socket
import ssl
import struct
import subprocess
import threading
import time

_Answer = tuple[int, bytes, list[tuple[str, str]]]  # status, body, headers
_HOP = (
    "connection",
    "expect",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "content-length",
)


@dataclasses.dataclass
class Rules:
    """What goes wrong. Changed at any time; 0 and '' are for nothing."""

    unavailable: int = 0  # every so manieth request is answered by 503
    reset: int = 0  # every so manieth finds its connection reset: before it was served, or after
    delay: float = 0.0  # s, before each answer
    status: int = 0  # of every request that has `denied` in its path or in its client's name
    denied: str = ""


class Proxy(http.server.ThreadingHTTPServer):
    """Listens on a free port of this machine. A context manager.

    Attributes:
      rules: what goes wrong from now on.
      seen: how many requests came since the rules were set.
      failed: how many of them were made to fail.
    """

    daemon_threads = True

    def __init__(self, folder: pathlib.Path):
        """`folder` gets key and certificate."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.rules, self.seen, self.failed = Rules(), 0, 0
        self.upstream = ("127.0.0.1", 0)  # the emulator
        self.count = threading.Lock()
        self.uploads: dict[str, _Answer] = {}  # what those that are complete were answered
        self.certificate = folder / "certificate.pem"
        self.tls = _context(self.certificate, folder / "key.pem")

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def obey(self, rules: Rules) -> None:
        """Fail by other rules, and count anew."""
        with self.count:
            self.rules, self.seen, self.failed = rules, 0, 0

    def __enter__(self) -> "Proxy":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_) -> None:
        """Clients that are killed leave broken connections: no word of them."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_CONNECT(self) -> None:
        """Be the host that is asked for, from here on."""
        self.send_response(200)
        self.end_headers()
        self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb", -1)
        self.wfile = self.connection.makefile("wb", 0)
        self.close_connection = False

    def _pass_on(self) -> None:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = self._chunks()  # TensorFlow names a length as well
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        lost = self._failure()
        if isinstance(lost, tuple):
            self._answer(*lost)
        elif lost == "before":
            self._reset()
        else:
            answer = self._state() or self._served(body)
            self._reset() if lost == "after" else self._answer(*answer)

    def _served(self, body: bytes) -> _Answer:
        """What the emulator answers."""
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
        if self.path.startswith(("/storage/", "/upload/", "/resumable/")):
            # What the emulator sends a client to next has this host in it.
            headers["Host"] = self.server.url.removeprefix("http://")
        with contextlib.closing(http.client.HTTPConnection(*self.server.upstream)) as emulator:
            emulator.request(self.command, self.path, body or None, headers)
            answer = emulator.getresponse()
            whole = answer.status, answer.read(), answer.getheaders()
        if self.command == "PUT" and answer.status == 200:
            self.server.uploads[self.path] = whole
        return whole

    def _state(self) -> _Answer | None:
        """How far an upload is, where that is asked: the emulator takes the question for its end.

        See https://docs.cloud.google.com/storage/docs/performing-resumable-uploads#status-check
        """
        asked = self.headers.get("Content-Range", "")
        if self.command != "PUT" or not asked.startswith("bytes */") or asked == "bytes */0":
            return None
        return self.server.uploads.get(self.path, (308, b"", []))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = _pass_on

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _failure(self) -> _Answer | str:
        """The answer in the emulator's place, or when the connection is reset; '': neither."""
        server, rules = self.server, self.server.rules
        with server.count:
            server.seen += 1
            number = server.seen
        time.sleep(rules.delay)
        status = 503 if rules.unavailable and number % rules.unavailable == 0 else 0
        if rules.status and rules.denied in f"{self.path} {self.headers.get('User-Agent')}":
            status = rules.status
        reset = not status and rules.reset and number % rules.reset == 0
        server.failed += bool(reset or status)
        if reset:
            return ("before", "after")[number // rules.reset % 2]
        text = b'{"error": {"code": %d, "message": "injected"}}' % status
        return (status, text, [("Content-Type", "application/json")]) if status else ""

    def _reset(self) -> None:
        """Closed with a time to linger of zero, a connection is reset."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        # The streams hold the socket open.
        for one in (self.rfile, self.wfile, self.connection):
            one.close()
        self.close_connection = True

    def _answer(self, status: int, body: bytes, headers: list[tuple[str, str]]) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_) -> None:
        """No line for each request."""


def _context(certificate: pathlib.Path, key: pathlib.Path) -> ssl.SSLContext:
    """TLS with a certificate for the hosts that TensorFlow asks."""
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=emulator"]
    names = "subjectAltName=DNS:*.googleapis.com"
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", *words, "-addext", names, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
