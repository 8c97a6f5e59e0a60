"""What people and programs send that is no request of ours: one clear answer, and it goes on."""

import base64
import io
import json
import struct
import zlib

import pytest
from PIL import Image

from diffad_jax.serving import app
from tests.serving.by_http import stations

PNG = {"content-type": "image/png"}


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


@pytest.fixture
def client(narrow, goes_on):
    return narrow


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
