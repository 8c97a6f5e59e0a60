"""What people and programs send that is no request of ours: one clear answer, and it goes on."""

import base64
import io
import json
import socket
import struct
import zlib

import httpx
import numpy as np
import pytest
from PIL import Image

from diffad_jax.serving import app, guard
from tests.support import stations

PNG = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """Of a station whose limits are near."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard, "MOST_BYTES", 100_000)
        patch.setattr(guard, "SECONDS", 0.4)
        patch.setattr(guard, "MOST_CONNECTIONS", 20)
        line = stations.opened(tmp_path_factory.mktemp("station"))
        with stations.answering(line) as client:
            client.judge = line.served.judge
            yield client
        line.close()


@pytest.fixture(autouse=True)
def goes_on(client):
    """After each: a picture is judged as before, by a client that comes new."""
    yield
    answer = httpx.post(f"{client.base_url}/judge", content=stations.picture(77), headers=PNG)
    assert answer.status_code == 200
    assert (
        answer.json()["parts"][0]["score"]
        == stations.found(stations.decoded(stations.picture(77))).score
    )


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, data, *more):
    """A PNG with a header that claims what it likes."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(data, 9))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + body + chunk(b"IEND", b"")


def tiff_of(count):
    pages = [Image.new("L", (9, 9), n) for n in range(count)]
    pages[0].save(buffer := io.BytesIO(), "tiff", save_all=True, append_images=pages[1:])
    return buffer.getvalue()


def form(count, data=b"", name="x.png"):
    return {"files": [("picture", (name, data or stations.picture(), "image/png"))] * count}


def post(path="/judge", content=b"", headers=PNG, **options):
    return {"method": "POST", "url": path, "content": content, "headers": headers, **options}


def said(path="/threshold", **values):
    return {"method": "POST", "url": path, "json": values}


BOMB = zlib.compress(bytes(5 * 10**7), 9)
WHOLE = stations.picture()
NO_TOKEN = {"authorization": ""}
PICTURES = {
    "empty": (400, post(), "an empty one"),
    "cut": (422, post(content=WHOLE[:-25]), "cut"),
    "cut JPEG": (422, post(content=stations.picture(format="JPEG")[:-40]), "cannot be read"),
    "damaged": (422, post(content=WHOLE[:50] + b"\0\0" + WHOLE[52:]), "damaged"),
    "no picture": (422, post(content=b"<html>"), "it is no PNG, JPEG, BMP, TIFF or WebP file"),
    "a header that claims 10^9 pixels": (
        422,
        post(content=png(40_000, 30_000, b"")),
        "40000x30000",
    ),
    "zip bomb in a comment": (
        *(422, post(content=png(9, 9, bytes(90), chunk(b"zTXt", b"a\0\0" + BOMB)))),
        "cannot be read",
    ),
    "zip bomb of pixels": (422, post(content=png(9_000, 9_000, bytes(10**7))), "9000x9000"),
    "several in one": (422, post(content=tiff_of(3)), "3 pictures"),
    "GIF": (422, post(content=b"GIF89a" + bytes(50)), "it is no PNG"),
}
REQUESTS = {
    "wrong type": (415, post(content=WHOLE, headers={"content-type": "text/html"}), "image/*"),
    "no type": (415, post(content=WHOLE, headers={}), "image/*"),
    "a form without an end": (
        *(400, post(content=b"--b\r\nx", headers={"content-type": "multipart/form-data"})),
        "boundary",
    ),
    "a form of garbage": (
        400,
        post(content=b"garbage", headers={"content-type": "multipart/form-data; boundary=b"}),
        "",
    ),
    "a form without pictures": (
        *(400, {"method": "POST", "url": "/judge", "files": {"a": (None, b"text")}}),
        "no picture",
    ),
    "an empty file in a form": (
        *(400, {"method": "POST", "url": "/judge", "files": {"a": ("x.png", b"")}}),
        "an empty one",
    ),
    "too many files": (
        *(413, {"method": "POST", "url": "/judge"} | form(app.MOST_FILES + 1)),
        "16 pictures, not 17",
    ),
    "too many bytes": (413, post(content=bytes(100_001)), "100,000 bytes"),
    "too many bytes, in pieces": (
        *(413, post(content=iter([bytes(60_000)] * 2))),
        "100,000 bytes",
    ),
    "unknown part": (404, {"url": "/parts/abc/map"}, "no such part"),
    "unknown view": (404, {"url": "/parts/PART/secret"}, "no such picture"),
    "unknown page": (404, {"url": "/admin"}, "Not Found"),
    "unknown correction": (404, {"url": "/corrections/abc/mask"}, "no such correction"),
    "no such correction": (404, {"method": "DELETE", "url": "/corrections/abc"}, "no such"),
    "up in the address": (404, {"url": "/parts/..%2f..%2fetc/passwd"}, ""),
    "up in a correction": (404, {"url": "/corrections/..%2f..%2fstation.json/picture"}, ""),
    "up in a file": (404, {"url": "/%2e%2e/%2e%2e/etc/passwd"}, ""),
    "wrong method": (405, {"method": "GET", "url": "/judge"}, "Method Not Allowed"),
    "another wrong method": (405, {"method": "PUT", "url": "/threshold"}, "Method Not Allowed"),
    "limit": (400, {"url": "/parts?limit=-1"}, "number"),
    "endless limit": (400, {"url": "/parts?limit=" + "9" * 5000}, "number"),
    "of another site": (
        *(403, post(content=WHOLE, headers=PNG | {"origin": "http://evil.example"})),
        "other sites",
    ),
    "of no site": (403, post(content=WHOLE, headers=PNG | {"origin": "null"}), "other sites"),
    "a picture in another site": (
        *(403, {"url": "/model", "headers": {"sec-fetch-site": "cross-site"}}),
        "other sites",
    ),
    "of a site beside": (
        *(403, {"url": "/state", "headers": {"sec-fetch-site": "same-site"}}),
        "other sites",
    ),
    "wrong Host": (400, {"url": "/", "headers": {"host": "evil.example"}}, "Host"),
    "no token": (401, said(threshold=0.4) | {"headers": NO_TOKEN}, "token"),
    "wrong token": (
        *(401, said(threshold=0.4) | {"headers": {"authorization": b"Bearer x\xe4"}}),
        "token",
    ),
    "token in a wrong place": (401, post("/threshold?token=a-secret", headers=NO_TOKEN), "token"),
    "wrong cookie": (
        401,
        post("/corrections", headers=NO_TOKEN | {"cookie": "diffad_0=a"}),
        "token",
    ),
    "no JSON": (400, post("/threshold", content=b"{"), "JSON object"),
    "not UTF-8": (400, post("/threshold", content=b"\xff"), "JSON object"),
    "a list": (400, post("/threshold", content=b"[]"), "JSON object"),
    "deep": (400, post("/threshold", content=b'{"a":' * 19_000), "JSON object"),
    "no threshold": (422, said(), "[0, 1]"),
    "threshold too high": (422, said(threshold=1.5), "[0, 1]"),
    "no number": (422, post("/threshold", content=b'{"threshold": NaN}'), "[0, 1]"),
    "no verdict": (422, said("/corrections", part="PART", verdict="maybe"), "good or defective"),
    "no part": (404, said("/corrections", part=["x"], verdict="good"), "no such part"),
    "no base64": (
        *(422, said("/corrections", part="PART", verdict="defective", mask="data:%")),
        "data:image/png;base64",
    ),
    "no mask": (
        *(422, said("/corrections", part="PART", verdict="defective", mask="AAAA")),
        "the mask cannot be read",
    ),
    "a mask too large": (
        422,
        said(
            *("/corrections",),
            part="PART",
            verdict="defective",
            mask="data:image/png;base64," + base64.b64encode(png(999, 9, b"")).decode(),
        ),
        "it claims 999x9 px",
    ),
}


def ask(client, request):
    """With an id that is there."""
    part = client.post("/judge", content=WHOLE, headers=PNG).json()["parts"][0]["id"]
    request = {key: value for key, value in request.items() if key != "files"} | (
        {"files": request["files"]} if "files" in request else {}
    )
    request["url"] = request["url"].replace("PART", part)
    if "json" in request:
        request["content"] = json.dumps(request.pop("json")).replace("PART", part)
    return client.request(**({"method": "GET"} | request))


@pytest.mark.parametrize("name", [*PICTURES, *REQUESTS])
def test_one_clear_answer(client, name):
    status, request, words = (PICTURES | REQUESTS)[name]
    answer = ask(client, request)
    assert answer.status_code == status, answer.text
    [(key, line)] = answer.json().items()
    assert key == "error" and words in line and "\n" not in line and 3 < len(line) < 300
    assert "/" not in line.replace("image/*", "").replace("image/png", "")
    assert "Traceback" not in line and "site-packages" not in line
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; ")


@pytest.mark.parametrize(
    "name",
    [
        *("../../etc/passwd", "..\\..\\windows\\system.ini", "/etc/passwd", "a/../b", "C:\\x"),
        *("\0", "..", "x" * 500, "<script>alert(1)</script>", "line\nbreak", "\u202eexe.png", ""),
    ],
)
def test_a_name_is_never_a_path(client, name):
    answer = client.post("/judge", files={"a": (name or "x", WHOLE, "image/png")})
    assert answer.status_code == 200
    shown = answer.json()["parts"][0]["name"]
    assert "/" not in shown.replace("</script>", "") and "\\.." not in shown
    assert shown.isprintable() and 0 < len(shown) <= 200
    asked = client.post("/judge", content=WHOLE, headers=PNG, params={"name": name})
    assert asked.status_code == 200 and len(asked.json()["parts"][0]["name"]) <= 200


def test_one_bad_picture_among_good_ones(client):
    files = [("a", ("1.png", WHOLE)), ("a", ("2.png", b"none")), ("b", ("3.png", WHOLE))]
    parts = client.post("/judge", files=files).json()["parts"]
    assert [part["name"] for part in parts] == ["1.png", "2.png", "3.png"]
    assert [part["error"] is None for part in parts] == [True, False, True]
    assert parts[1]["map"] is parts[1]["score"] is parts[1]["picture"] is None


# Bytes on a wire


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
    many = {"files": form(16)["files"]}
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


def test_arrays_in_json_are_plain(client):
    part = client.post("/judge", content=stations.picture(240), headers=PNG).json()["parts"][0]
    assert part["boxes"] and not any(isinstance(v, np.generic) for v in part.values())
