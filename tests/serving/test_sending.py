"""Results that are sent on: to servers that answer, refuse, fail and never answer."""

import http.server
import json
import queue
import socket
import sys
import threading
import time

import pytest
from paho.mqtt import client as paho

from configs.errors import UserError
from diffad_jax.predicting.results import COLUMNS
from diffad_jax.serving import sending, station
from tests.serving import toy_line


def part(name="a.png"):
    found = station.Part(name=name, source="folder", data=b"")
    found.row["picture"] = name
    found.row["score"] = 0.25
    return found


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(sending, "PAUSES", (0.01, 0.02, 0.04))


class Server(http.server.ThreadingHTTPServer):
    """Answers with what is in `answers`, then with 200."""

    def __init__(self):
        self.answers, self.got = queue.SimpleQueue(), []
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/line?key=1"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, self.headers["Content-Type"], json.loads(body)))
        answer = 200 if self.server.answers.empty() else self.server.answers.get()
        self.send_response(answer)
        self.send_header("Content-Length", "0")
        if answer == 302:
            self.send_header("Location", self.server.url)
        self.end_headers()

    do_GET = None

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as running:
        yield running
        running.shutdown()


def test_a_server_that_fails_twice_gets_it_all_in_order(server, soon):
    for code in (500, 429):
        server.answers.put(code)
    hook, parts = sending.Webhook(server.url), [part("a.png"), part("b\udcff.png")]
    for each in parts:
        hook(each)
    hook.close()
    assert [body["picture"] for *_, body in server.got] == ["a.png"] * 3 + ["b\udcff.png"]
    path, kind, body = server.got[0]
    assert (path, kind) == ("/line?key=1", "application/json")
    assert body == parts[0].row | {"id": parts[0].id, "time": parts[0].time, "source": "folder"}
    assert tuple(body)[:-3] == COLUMNS and hook.dropped == 0


@pytest.mark.parametrize("code", [400, 404, 302])
def test_what_is_refused_is_not_sent_again(server, soon, code):
    server.answers.put(code)
    hook = sending.Webhook(server.url)
    hook(part("a.png"))
    hook(part("b.png"))
    hook.close()
    assert [body["picture"] for *_, body in server.got] == ["a.png", "b.png"]
    assert hook.dropped == 1


def test_what_always_fails_is_dropped_after_all_tries(server, soon):
    for _ in range(4):
        server.answers.put(503)
    hook = sending.Webhook(server.url)
    hook(part("a.png"))
    until(lambda: hook.dropped == 1)
    hook(part("b.png"))
    hook.close()
    assert [body["picture"] for *_, body in server.got] == ["a.png"] * 4 + ["b.png"]


def test_pauses_grow(server, monkeypatch):
    waited = []
    server.answers.put(500)
    server.answers.put(500)
    hook = sending.Webhook(server.url)
    monkeypatch.setattr(hook._stopped, "wait", waited.append)
    hook(part())
    hook.close()
    assert waited == [1.0, 2.0]


def test_a_server_that_never_answers_holds_nothing_up(tmp_path, monkeypatch):
    """The station goes on, and counts what it could not send."""
    monkeypatch.setattr(sending, "WAITING", 3)
    monkeypatch.setattr(sending, "ANSWER", 0.2)
    monkeypatch.setattr(sending, "LAST", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hook = sending.Webhook(f"http://127.0.0.1:{silent.getsockname()[1]}/")
        line = station.Station(toy_line.served(), folder=tmp_path)
        line.listeners.append(hook)
        for seed in range(12):
            line.submit(toy_line.picture(seed), f"{seed}.png", "request").result(10)
        line.close()
        assert 8 <= hook.dropped <= 9  # three wait, one is being sent
        begun = time.monotonic()
        hook.close()
        assert time.monotonic() - begun < 5
        hook._thread.join(10)
        assert not hook._thread.is_alive()


def test_what_cannot_be_posted_stops_nothing(server, soon):
    """An address whose path is no ASCII, which only urllib finds out."""
    hook = sending.Webhook(server.url)
    hook._given = server.url.replace("line", "l\xedne")
    hook(part("a.png"))
    until(lambda: hook.dropped == 1)
    hook._given = server.url
    hook(part("b.png"))
    hook.close()
    assert [body["picture"] for *_, body in server.got] == ["b.png"]


@pytest.mark.parametrize(
    "address",
    [
        *("file:///etc/passwd", "http:///x", "ftp://a/b", "a.example"),
        *("http://a:99999/", "http://a:b/", "http://[::1/"),
    ],
)
def test_no_address_of_a_webhook(address):
    with pytest.raises(UserError, match="is no address such as http://HOST:PORT/PATH"):
        sending.Webhook(address)


class Broker:
    """In the place of paho's client."""

    def __init__(self, *_):
        self.got, self.said, self.connected, self.answers = [], [], True, True
        Broker.last = self

    def publish(self, topic, message, qos):
        self.got.append((topic, json.loads(message)["picture"], qos))
        self.rc = paho.MQTT_ERR_NO_CONN  # which has broken just now; it is sent nevertheless
        return self

    def is_connected(self):
        return self.connected

    def wait_for_publish(self, timeout):
        assert timeout == sending.ANSWER
        if self.rc:
            raise RuntimeError("Message publish failed")

    def is_published(self):
        return self.answers

    def __getattr__(self, name):
        return lambda *words: self.said.append((name, *words))


@pytest.fixture
def broker(monkeypatch, soon):
    monkeypatch.setattr(paho, "Client", Broker)


def test_mqtt(broker):
    sender = sending.Mqtt("mqtt://me:p%40ss@box.example/line%201/parts")
    sender(part("a.png"))
    sender.close()
    assert Broker.last.got == [("line 1/parts", "a.png", 1)] and sender.dropped == 0
    assert Broker.last.said == [
        ("username_pw_set", "me", "p@ss"),
        ("connect_async", "box.example", 1883),
        ("loop_start",),
        ("disconnect",),
        ("loop_stop",),
    ]
    sending.Mqtt("mqtts://box.example:99/a").close()
    assert ("tls_set",) in Broker.last.said
    assert ("connect_async", "box.example", 99) in Broker.last.said


def test_mqtt_without_a_broker_and_without_an_answer(broker, monkeypatch):
    monkeypatch.setattr(sending, "PAUSES", (0.01,) * 200)
    sender = sending.Mqtt("mqtt://box.example/a")
    Broker.last.connected = Broker.last.answers = False
    sender(part("a.png"))
    time.sleep(0.05)
    assert not Broker.last.got
    Broker.last.connected = True
    until(lambda: Broker.last.got)
    time.sleep(0.05)
    Broker.last.answers = True
    sender.close()
    assert Broker.last.got == [("a", "a.png", 1)] and sender.dropped == 0  # published once


def test_mqtt_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "paho.mqtt", None)
    with pytest.raises(UserError, match=r"^paho-mqtt is not installed: pip install 'diffad_jax\["):
        sending.Mqtt("mqtt://box.example/a")


@pytest.mark.parametrize(
    "address", ["mqtt://box.example", "mqtt://box/a/#", "mqtt://box/+/a", "mqtt://box/%2B"]
)
def test_no_topic(address, broker):
    with pytest.raises(UserError, match="is no address such as mqtt://HOST:PORT/TOPIC"):
        sending.Mqtt(address)
