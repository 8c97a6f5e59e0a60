"""What a station answers by HTTP."""

import base64
import io
import json
import types

import numpy as np
import pytest
from PIL import Image

from diffad_jax.reporting import drawing
from diffad_jax.scoring import appearance
from diffad_jax.serving import app
from tests.serving.by_http import stations

PNG = {"content-type": "image/png"}
REFERENCE = {
    "pictures": [
        {"picture": f"{n}", "label": n % 2, "score": None if n == 4 else n / 10}
        | dict.fromkeys(appearance.STATISTICS, 0.5)
        for n in range(6)
    ]
}


@pytest.fixture
def line(tmp_path):
    line = stations.opened(tmp_path, changes={"reference": REFERENCE})
    yield line
    line.close()


def judge(client, level=100, **options):
    answer = client.post("/judge", content=stations.picture(level, **options), headers=PNG)
    assert answer.status_code == 200, answer.text
    [part] = answer.json()["parts"]
    return part


def pixels(client, address):
    answer = client.get(address)
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"
    assert "immutable" in answer.headers["cache-control"]
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def test_a_part(client, line):
    data = stations.picture(210)
    answer = client.post("/judge", params={"name": "a.png"}, content=data, headers=PNG)
    [part] = answer.json()["parts"]
    kept, found = line.get(part["id"]), stations.found(stations.decoded(data))
    row = kept.row
    assert part == {
        **{"id": kept.id, "time": kept.time, "name": "a.png", "source": "request"},
        **{key: row[key] for key in ("score", "confidence", "threshold", "verdict", "boxes")},
        **{"width": 20, "height": 12, "error": None, "milliseconds": round(kept.milliseconds, 1)},
        **{view: f"/parts/{kept.id}/{view}" for view in app.VIEWS},
    }
    assert part["score"] == found.score and part["verdict"] == "defective"
    assert client.get(part["picture"]).content == data
    np.testing.assert_array_equal(pixels(client, part["reconstruction"]), found.reconstruction)
    scale = drawing.full_scale(0.75)
    over = drawing.overlay(stations.decoded(data), found.anomaly_map, scale)
    boxes = [(box.x, box.y, box.width, box.height) for box in found.boxes]
    np.testing.assert_array_equal(pixels(client, part["overlay"]), drawing.frames(over, boxes))
    # A level of the map is the place in the list of colours.
    colours = np.array(client.get("/model").json()["colours"])
    shown = colours[pixels(client, part["map"])]
    np.testing.assert_array_equal(shown, drawing.colours(found.anomaly_map, scale))


def test_several_in_a_form_are_judged_together(client, line):
    files = [("picture", (f"{n}.png", stations.picture(n), "image/png")) for n in range(1, 5)]
    line._longest_wait = 10.0
    parts = client.post("/judge", files=files).json()["parts"]
    assert [part["name"] for part in parts] == ["1.png", "2.png", "3.png", "4.png"]
    assert line.served.judge.batches == [4]
    newest = client.get("/parts", params={"limit": 3}).json()["parts"]
    assert newest == parts[:0:-1]


def test_of_a_form_that_finds_no_room_nothing_is_judged(client, line):
    line.served.judge.may.clear()
    line._longest_wait = 0.0
    line.submit(stations.picture(), "first", "request")
    stations.until(lambda: not line.waiting)
    line.most_waiting = 3
    files = [("picture", (f"{n}.png", stations.picture(n), "image/png")) for n in range(5)]
    assert client.post("/judge", files=files).status_code == 429
    line.served.judge.may.set()
    stations.until(lambda: line.newest(9) and not line.waiting)
    assert judge(client)["verdict"] and line.counts["dropped"] == 1
    assert [part.name for part in line.newest(9)] == ["picture", "first"]


@pytest.mark.parametrize(("format", "kind"), [("JPEG", "jpeg"), ("WEBP", "webp")])
def test_a_picture_as_a_browser_shows_it(client, format, kind):
    part = judge(client, format=format)
    answer = client.get(part["picture"])
    assert answer.headers["content-type"] == f"image/{kind}"
    assert answer.content == stations.picture(format=format)
    other = judge(client, format="TIFF")
    expected = stations.decoded(stations.picture(format="TIFF"))
    np.testing.assert_array_equal(pixels(client, other["picture"]), expected)


def test_what_is_no_longer_kept_has_no_pictures(client, line):
    part = judge(client)
    line._kept_bytes = 1
    judge(client)
    assert [client.get(part[view]).status_code for view in app.VIEWS] == [404] * 4
    [_, old] = client.get("/parts").json()["parts"]
    assert old["score"] == part["score"] and old["map"] is None
    answer = client.post("/corrections", json={"part": part["id"], "verdict": "good"})
    assert (answer.status_code, answer.json()) == (404, {"error": "its picture is no longer kept"})


def test_the_model(client):
    model = client.get("/model").json()
    expected = stations.served()
    for name in app.OF_MODEL:
        assert model[name] == getattr(expected, name)
    assert model["scale"] == 1.5 and len(model["colours"]) == 256
    assert model["colours"][128] == drawing.colours(np.float32([0.75]), 1.5)[0].tolist()
    assert model["evaluation"] == {"good": [0.0, 0.2], "defective": [0.1, 0.3, 0.5]}
    assert model["limits"] == {"bytes": 2**25, "pixels": 2**26, "files": 16, "waiting": 64}


def test_the_state_and_the_threshold(client, line):
    judge(client, 40), judge(client, 240)
    state = client.get("/state").json()
    counts = {"good": 1, "defective": 1, "unjudged": 0, "unreadable": 0, "dropped": 0}
    counts["unsent"] = 0
    drift = state["drift"]
    assert (drift["parts"], drift["drifted"], set(drift["p"].values())) == (1, [], {None})
    assert state == {
        **{"threshold": 0.5, "drift": drift, "watching": None, "ready": True, "problems": {}},
        **{"counts": counts, "corrections": 0},
    }
    answer = client.post("/threshold", json={"threshold": 1})
    assert answer.json() == state | {"threshold": 1.0, "drift": drift | {"parts": 0}}
    assert judge(client, 240)["verdict"] == "good"
    assert json.loads((line.folder / "station.json").read_text())["threshold"] == 1.0


def test_a_full_disk(client, line, monkeypatch):
    def full(path, *_):
        raise OSError(f"{path} cannot be written: No space left on device")

    monkeypatch.setattr("diffad_jax.runs.files.write", full)
    answer = client.post("/threshold", json={"threshold": 0.1})
    told = {"error": "station.json cannot be written: No space left on device"}
    assert (answer.status_code, answer.json()) == (503, told)
    line.problems["output"] = f"{line.folder}/predictions.csv cannot be written"
    ready = client.get("/readyz")
    problems = {"output": "predictions.csv cannot be written"}
    assert (ready.status_code, ready.json()) == (503, {"ready": False, "problems": problems})
    assert client.get("/healthz").status_code == 200 and judge(client)["score"]
    assert client.get("/state").json()["ready"] is False
    line.problems.clear()
    assert client.get("/readyz").json() == {"ready": True, "problems": {}}


def test_a_model_that_fails(tmp_path, caplog):
    line = stations.opened(tmp_path, lambda _: 1 / 0)
    with stations.answering(line) as client:
        answer = client.post("/judge", content=stations.picture(), headers=PNG)
        assert (answer.status_code, answer.json()) == (
            *(503, {"error": "the model could not judge it"}),
        )
        assert "ZeroDivisionError" in client.get("/readyz").json()["problems"]["judging"]
    line.close()


def test_a_mistake_of_ours(client, line, monkeypatch, caplog):
    part = judge(client)
    monkeypatch.setattr(drawing, "unit", None)
    answer = client.get(part["map"])
    told = {"error": "a mistake of this program; its log says more"}
    assert (answer.status_code, answer.json()) == (500, told)
    assert answer.headers["x-content-type-options"] == "nosniff"
    stations.until(lambda: "TypeError" in caplog.text)  # written after the answer


# Corrections


def mask(array):
    Image.fromarray(array).save(buffer := io.BytesIO(), "png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def test_corrections(client, line):
    first, second = judge(client, 40), judge(client, 240)
    brushed = np.zeros((12, 20, 4), np.uint8)
    brushed[2:5, 3:9] = (255, 60, 60, 128)
    words = [
        client.post("/corrections", json={"part": part["id"], "verdict": verdict, "mask": url})
        for part, verdict, url in (
            *((first, "defective", mask(brushed)), (second, "good", None)),
            (first, "defective", mask(brushed)),  # said again
        )
    ]
    assert [answer.status_code for answer in words] == [200] * 3
    words = [answer.json() for answer in words]
    assert (words[0]["verdict"], words[0]["said"], words[1]["said"]) == (
        "defective",
        "good",
        "defective",
    )
    assert client.get("/corrections").json() == {"corrections": [words[2], words[1]]}
    assert client.get("/state").json()["corrections"] == 2
    place = f"/corrections/{words[2]['id']}"
    assert client.get(f"{place}/picture").content == stations.picture(40)
    expected = 255 * brushed[..., 0].astype(bool)
    np.testing.assert_array_equal(pixels(client, f"{place}/mask"), expected)
    assert client.get(f"/corrections/{words[1]['id']}/mask").status_code == 404
    assert client.get(f"{place}/sha256").status_code == 404
    assert client.delete(place).json() == {"withdrawn": words[2]["id"]}
    assert client.delete(place).status_code == 404
    assert client.get("/corrections").json() == {"corrections": [words[1]]}
    small = {"part": first["id"], "verdict": "defective", "mask": mask(brushed[:5])}
    assert client.post("/corrections", json=small).status_code == 422


# For programs


def test_metrics(client, line):
    line.drift = types.SimpleNamespace(
        state=lambda: {"drifted": ["red"], "p": {"red": 0.0001, "score": None}},
        add=lambda *_: None,
    )
    judge(client, 40), judge(client, 240), judge(client, 240)
    client.post("/judge", content=b"none", headers=PNG)
    line.close()
    text = client.get("/metrics").text
    for expected in (
        'diffad_parts_total{verdict="good"} 1.0',
        'diffad_parts_total{verdict="defective"} 2.0',
        'diffad_parts_total{verdict="unreadable"} 1.0',
        "diffad_latency_seconds_count 4.0",
        "diffad_waiting 0.0",
        "diffad_drifted 1.0",
        'diffad_drift_p{statistic="red"} 0.0001',
        'diffad_drift_p{statistic="score"} NaN',
        "diffad_problems 0.0",
    ):
        assert f"{expected}\n" in text, expected


def test_openapi_describes_every_route_and_no_other(client, line):
    said = client.get("/openapi.json").json()
    described = {(method.upper(), path) for path, its in said["paths"].items() for method in its}
    served = {
        (method, route.path)
        for route in client.service.asgi.routes
        for method in route.methods - {"HEAD"}
    }
    assert described == served
    parts = set(said["components"]["schemas"]["Part"]["properties"])
    assert parts == set(judge(client))
    assert set(said["components"]["schemas"]["State"]["properties"]) == set(
        client.get("/state").json()
    )
    assert set(said["components"]["schemas"]["Model"]["properties"]) == set(
        client.get("/model").json()
    )
