"""Results sent on as they come: posted to a web address, or published to an MQTT broker."""

import contextlib
import json
import logging
import queue
import threading
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from configs.errors import UserError
from diffad_jax.serving.station import Part

logger = logging.getLogger(__name__)
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # s, after tries that failed
ANSWER, WAITING, LAST = 10.0, 1000, 5.0  # s for an answer; messages that wait; s at the end


class _Stay(urllib.request.HTTPRedirectHandler):
    """What is posted to another place arrives there without its content."""

    def redirect_request(self, *_) -> None:
        return None


class Webhook:
    """Posts each part's line of the tables as JSON, with its id, time (unix s) and source.

    A listener of a station, which never waits for it. What fails is tried again after each of
    PAUSES, so something can arrive twice; what fails then, is refused, or finds WAITING others
    before it is counted in `dropped`.
    """

    schemes, example = ("http", "https"), "http://HOST:PORT/PATH"

    def __init__(self, address: str):
        """Raises UserError: no such address, or something is not installed."""
        self._given, self._host = address, ""
        with contextlib.suppress(ValueError):  # a port that there is not
            self._url = urllib.parse.urlsplit(address)
            self._port, self._host = self._url.port, self._url.hostname or ""
        if not self._host or self._url.scheme not in self.schemes or not self._open():
            raise UserError(f"{address} is no address such as {self.example}")
        self.dropped, self._stopped = 0, threading.Event()
        self._messages: queue.Queue[bytes | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._run, name="sending", daemon=True)
        self._thread.start()

    def __call__(self, part: Part) -> None:
        about = {"id": part.id, "time": part.time, "source": part.source}
        try:
            self._messages.put_nowait(json.dumps(part.row | about).encode())
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Send what waits; give up after LAST seconds."""
        try:
            self._messages.put_nowait(None)
            self._thread.join(LAST)
        except queue.Full:
            logger.warning("%s: %d results are not sent", self._host, WAITING)
        self._stopped.set()

    def _run(self) -> None:
        while (message := self._messages.get()) is not None and not self._stopped.is_set():
            self._try(message)

    def _try(self, message: bytes) -> None:
        for pause in (*PAUSES, 0.0):
            try:
                return self._deliver(message)
            except Exception as error:  # whatever it is, the others are sent
                if pause == PAUSES[0]:
                    logger.warning("%s: %s", self._host, error)
                code = getattr(error, "code", 500)
                if 300 <= code < 500 and code not in (408, 429):
                    break
            if self._stopped.wait(pause):
                break
        self.dropped += 1

    def _open(self) -> bool:
        """Whether there is all that an address needs."""
        self._opener = urllib.request.build_opener(_Stay)
        return True

    def _deliver(self, message: bytes) -> None:
        kind = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._given, message, kind, method="POST")
        self._opener.open(request, timeout=ANSWER).close()


class Mqtt(Webhook):
    """Publishes them under a topic, acknowledged (QoS 1); mqtts with TLS, USER:PASSWORD@ known."""

    schemes, example = ("mqtt", "mqtts"), "mqtt://HOST:PORT/TOPIC"

    def _open(self) -> bool:
        try:
            from paho.mqtt import client
        except ModuleNotFoundError as error:
            raise UserError("paho-mqtt is not installed: pip install 'diffad_jax[mqtt]'") from error
        self._topic = urllib.parse.unquote(self._url.path.lstrip("/"))
        if not self._topic or "#" in self._given or {"+", "#"} & set(self._topic):
            return False
        self._client = client.Client(client.CallbackAPIVersion.VERSION2)
        secure = self._url.scheme == "mqtts"
        if secure:
            self._client.tls_set()
        if self._url.username:
            words = self._url.username, self._url.password or ""
            self._client.username_pw_set(*map(urllib.parse.unquote, words))
        self._client.connect_async(self._host, self._port or (8883 if secure else 1883))
        self._client.loop_start()
        self._sent: tuple[bytes, Any] = (b"", None)
        return True

    def close(self) -> None:
        super().close()
        self._client.disconnect()
        self._client.loop_stop()

    def _deliver(self, message: bytes) -> None:
        if not self._client.is_connected():
            raise ConnectionError("there is no connection to the broker")
        if self._sent[0] is not message:  # else it is on its way, and sent again by itself
            sent: Any = self._client.publish(self._topic, message, qos=1)
            sent.rc = 0  # paho keeps it, and sends it later if the connection has broken just now
            self._sent = message, sent
        self._sent[1].wait_for_publish(ANSWER)
        if not self._sent[1].is_published():
            raise TimeoutError("the broker does not answer")
