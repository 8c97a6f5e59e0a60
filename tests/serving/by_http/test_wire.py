"""No request, or one that comes too slowly or too often: an answer, and it goes on."""

import json
import socket

import httpx
import pytest

from diffad_jax.serving import app, guard
from tests.serving.by_http import stations

PNG, WHOLE = {"content-type": "image/png"}, stations.picture()


@pytest.fixture
def client(narrow, goes_on):
    return narrow


def talk(client, *pieces, wait=5.0):
    """What comes back after sending so; (status, line)."""
    with socket.create_connection((client.base_url.host, client.base_url.port), wait) as wire:
        for piece in pieces:
            wire.sendall(piece)
        answer = b""
        while piece := wire.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


def head(client, *lines):
    host = f"{client.base_url.host}:{client.base_url.port}"
    return "\r\n".join(("POST /judge HTTP/1.1", f"Host: {host}", *lines, "", "")).encode()


def test_what_is_no_http(client):
    for wrong in (b"\x16\x03\x01\x02\0\1" * 40 + b"\r\n\r\n", b"HELO station\r\n\r\n"):
        assert talk(client, wrong) == (400, "this is no HTTP request")
    for wrong in ("Content-Length: -1", "Content-Length: 1e3", "Transfer-Encoding: gzip"):
        assert talk(client, head(client, wrong))[0] == 400


def test_slow_senders_are_told_so(client):
    slow = (408, "the request came too slowly")
    assert talk(client) == slow
    assert talk(client, head(client)[:-10]) == slow
    typed = head(client, "Content-Type: image/png", "Content-Length: 1000")
    assert talk(client, typed, WHOLE[:20]) == slow
    # And on a connection that has asked rightly before.
    whole = head(client, "Content-Type: image/png", f"Content-Length: {len(WHOLE)}") + WHOLE
    host, port = client.base_url.host, client.base_url.port
    with socket.create_connection((host, port), 5) as wire:
        wire.sendall(whole)
        answer = b""
        while b"}]}" not in answer:
            answer += wire.recv(65536)
        wire.sendall(b"POST /ju")
        answer = b""
        while piece := wire.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_too_many_connections(client):
    address = (client.base_url.host, client.base_url.port)
    wires = [socket.create_connection(address, 5) for _ in range(60)]
    try:
        answers = [wire.recv(65536) for wire in wires]
    finally:
        for wire in wires:
            wire.close()
    refused = sum(answer.startswith(b"HTTP/1.1 503 ") for answer in answers)
    late = sum(answer.startswith(b"HTTP/1.1 408 ") for answer in answers)
    assert refused >= 40 and late + refused == 60


def test_whoever_leaves_is_not_waited_for(client):
    typed = head(client, "Content-Type: image/png", f"Content-Length: {len(WHOLE)}")
    for sent in (typed, typed + WHOLE[:20], typed + WHOLE):
        for _ in range(10):
            with socket.create_connection((client.base_url.host, client.base_url.port), 5) as wire:
                wire.sendall(sent)


def test_no_more_than_may_wait(client, monkeypatch):
    client.judge.may.clear()
    monkeypatch.setattr(guard, "SECONDS", 20.0)
    many = {"files": [("picture", ("x.png", WHOLE, "image/png"))] * 16}
    try:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/judge", content=WHOLE, headers=PNG, timeout=0.3)
        for _ in range(3):
            with pytest.raises(httpx.ReadTimeout):
                client.post("/judge", **many, timeout=0.3)
        answers = [client.post("/judge", **many, timeout=0.3) for _ in range(0)]
        statuses = set()
        for _ in range(3):
            try:
                answers.append(client.post("/judge", **many, timeout=0.5))
                statuses.add(answers[-1].status_code)
            except httpx.ReadTimeout:
                continue
        assert statuses == {429}
        assert answers[0].json() == {"error": "too many wait already"}
        assert client.get("/healthz").status_code == 200  # and all else is answered
        assert client.get("/state").json()["counts"]["dropped"] >= 1
    finally:
        client.judge.may.set()


def test_what_is_not_judged_in_time(client, monkeypatch):
    monkeypatch.setattr(app, "SECONDS", 0.2)
    client.judge.may.clear()
    try:
        answer = client.post("/judge", content=WHOLE, headers=PNG)
    finally:
        client.judge.may.set()
    assert (answer.status_code, answer.json()) == (503, {"error": "not judged within 0 s"})


def test_too_much_at_a_time(client, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(guard, "MOST_REQUESTS", 0)
        answer = client.get("/healthz")
        assert (answer.status_code, answer.json()) == (
            503,
            {"error": "too many requests at a time"},
        )
    monkeypatch.setattr(guard, "MOST_BYTES_OF_ALL", 50)
    answer = client.post("/judge", content=WHOLE, headers=PNG)
    assert (answer.status_code, answer.json()) == (503, {"error": "too much at a time"})
    monkeypatch.undo()


def test_paths_are_not_told():
    told = {
        "/home/me/a-station/x.json cannot be written: full": "x.json cannot be written: full",
        "[Errno 2] No such file: '/srv/a b/c.png'": "[Errno 2] No such file: 'c.png'",
        "it is 3/4 and a/b, see http://x.example/y": "it is 3/4 and a/b, see http://x.example/y",
        "two\nlines": "two lines",
    }
    assert {line: guard.public(line) for line in told} == told
