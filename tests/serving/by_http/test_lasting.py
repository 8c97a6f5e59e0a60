"""Pages that listen, and who may ask."""

import json
import time

import httpx
import pytest

from diffad_jax.serving import app
from tests.serving.by_http import stations

PNG = {"content-type": "image/png"}


def judge(client):
    answer = client.post("/judge", content=stations.picture(), headers=PNG)
    return answer.json()["parts"][0]


def events(client, enough):
    """The events of a stream, (name, data), until there are `enough`."""
    found, until = [], time.monotonic() + 20
    with client.stream("GET", "/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        yield
        for text in stream.iter_lines():  # silence is broken, so it does not wait for ever
            assert time.monotonic() < until, found
            if text.startswith("event: "):
                name = text.removeprefix("event: ")
            elif text.startswith("data: "):
                found.append((name, json.loads(text.removeprefix("data: "))))
                if enough(found):
                    break
    yield found


def test_events(client, line, monkeypatch):
    monkeypatch.setattr(app, "TICK", 0.05)

    def enough(found):
        kinds = {name for name, data in found if name == "part" or data["problems"]}
        return kinds == {"part", "state"}

    listening = events(client, enough)
    next(listening)
    while not line.listeners[1:]:
        pass
    part = judge(client)
    line.problems["output"] = "gone"
    found = next(listening)
    listening.close()
    assert [name for name, _ in found].count("part") == 1 and ("part", part) in found
    states = [data for name, data in found if name == "state"]
    assert states[0]["ready"] and states[-1]["problems"] == {"output": "gone"}
    assert states[-1]["counts"]["good"] == 1
    while line.listeners[1:]:  # whoever leaves is not told any more
        pass


def test_silence_is_broken(client, monkeypatch):
    monkeypatch.setattr(app, "TICK", 0.01)
    monkeypatch.setattr(app, "SILENCE", 0.05)
    with client.stream("GET", "/events") as stream:
        lines = (text for text in stream.iter_lines() if text.startswith(":"))
        assert [next(lines) for _ in range(2)] == [": "] * 2


def test_so_many_pages_listen(client, monkeypatch):
    monkeypatch.setattr(app, "MOST_EVENTS", 1)
    with client.stream("GET", "/events") as stream:
        lines = stream.iter_lines()  # leaving it would close the stream
        next(lines)
        with client.stream("GET", "/events") as other:
            assert other.status_code == 503
            assert json.loads(other.read()) == {"error": "1 pages listen already"}
        lines.close()
    statuses = {503}
    while statuses == {503}:  # until the station has seen that the page is gone
        with client.stream("GET", "/events") as stream:
            statuses = {stream.status_code}
    assert statuses == {200}


def test_the_end_does_not_wait_for_pages(line, monkeypatch):
    monkeypatch.setattr(app, "TICK", 0.05)
    with stations.answering(line) as client:
        with client.stream("GET", "/events") as stream:
            lines = stream.iter_lines()
            next(lines)
            client.server.should_exit = True
            assert list(lines) is not None  # it ends


# Who may


@pytest.fixture
def free(client):
    """A client without the token."""
    with httpx.Client(base_url=client.base_url) as free:
        yield free


def test_a_token_is_for_what_changes_something(free):
    for path in ("/model", "/state", "/parts", "/corrections", "/metrics", "/readyz"):
        assert free.get(path).status_code == 200
    assert free.post("/judge", content=stations.picture(), headers=PNG).status_code == 200
    for method, path in (
        ("POST", "/threshold"),
        ("POST", "/corrections"),
        ("DELETE", "/corrections/x"),
    ):
        assert free.request(method, path).status_code == 401


def test_or_for_everything(line):
    with stations.answering(line, for_all=True) as client:
        nothing = {"authorization": ""}
        for path in ("/", "/model", "/page.js", "/metrics", "/readyz", "/openapi.json", "/x"):
            assert client.get(path, headers=nothing).status_code == 401
        judged = client.post("/judge", content=stations.picture(), headers=PNG | nothing)
        assert judged.status_code == 401
        assert client.get("/healthz", headers=nothing).status_code == 200
        assert client.get("/model").status_code == 200


def test_the_address_in_the_log_opens_the_page(client, free):
    visitor = free
    wrong = visitor.get("/?token=guess")
    assert "set-cookie" not in wrong.headers
    answer = visitor.get(f"/?token={stations.TOKEN}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie
    assert answer.cookies.get(f"diffad_{client.base_url.port}") == stations.TOKEN
    assert visitor.post("/threshold", json={"threshold": 0.5}).status_code == 200
    # The page's own requests, and a link to it in a letter.
    own = {"origin": str(client.base_url).rstrip("/"), "sec-fetch-site": "same-origin"}
    assert visitor.post("/threshold", json={"threshold": 0.5}, headers=own).status_code == 200
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert visitor.get("/", headers=link).status_code != 403
    assert visitor.get("/model", headers=link).status_code == 403


def test_any_name_where_others_may_ask(line):
    with stations.answering(line, hosts=()) as client:
        assert client.get("/state", headers={"host": "station.example"}).status_code == 200
