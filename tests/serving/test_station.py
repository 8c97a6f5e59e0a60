"""The queue and the thread that judges: together, in order, bounded, and for ever."""

import concurrent.futures
import json
import os
import shutil
import threading
import types

import numpy as np
import pytest

from configs.errors import UserError
from diffad_jax.predicting.results import COLUMNS
from diffad_jax.scoring import appearance, threshold
from diffad_jax.serving import station
from tests.serving.by_http import stations


@pytest.fixture
def begin(tmp_path):
    """Make a station that is closed in the end."""
    begun = []

    def begin(judge=None, **options):
        begun.append(stations.opened(tmp_path, judge, **options))
        return begun[-1]

    yield begin
    for line in begun:
        line.served.judge.may.set() if isinstance(line.served.judge, stations.Judge) else None
        line.close()


def blocked(begin, **options):
    """A station whose thread waits with one picture in its hands."""
    judge = stations.Judge()
    line, begun = begin(judge, **options), threading.Event()
    judge.may.clear()
    read = line.served.read
    held = types.SimpleNamespace(**vars(line.served), square=line.served.square)
    held.read = lambda *given: (begun.set(), read(*given))[1]
    line.served = held
    first = line.submit(stations.picture(), "first.png", "request")
    assert begun.wait(10)
    return line, judge, first


def test_a_part_is_what_prediction_says(begin):
    data = stations.picture(180)
    part = begin().submit(data, "a.png", "folder").result(10)
    assert tuple(part.row) == COLUMNS and part.row["map"] is part.row["overlay"] is None
    score = stations.found(stations.decoded(data)).score
    sure = float(threshold.confidence(score, stations.THRESHOLD, 3.0))
    assert (part.row["score"], part.row["confidence"]) == (score, sure)
    assert (part.row["picture"], part.row["width"], part.row["height"]) == ("a.png", 20, 12)
    assert part.row["threshold"] == stations.THRESHOLD and part.row["verdict"] == "defective"
    assert part.row["error"] is None and part.row["boxes"] == []
    assert (part.name, part.source, part.data) == ("a.png", "folder", data)
    assert part.milliseconds > 0 and len(part.id) == 16
    assert begin().submit(stations.picture(210), "", "folder").result(10).row["boxes"][0] == {
        **{"x": 0, "y": 0, "width": 20, "height": 12, "area": 239},
        "peak": pytest.approx(210 / 255),
    }


def test_what_waits_is_judged_together_and_in_order(begin):
    line, judge, first = blocked(begin)
    heard = []
    line.listeners.append(lambda part: heard.append(part.name))
    rest = [line.submit(stations.picture(n), f"{n}.png", "request") for n in range(9)]
    judge.may.set()
    parts = [future.result(10) for future in [first, *rest]]
    assert judge.batches == [1, 4, 4, 1]  # the first waits no longer than its 5 ms
    names = ["first.png", *(f"{n}.png" for n in range(9))]
    assert [part.name for part in parts] == names
    assert [part.name for part in line.newest(100)] == names[::-1]
    assert [part.name for part in line.newest(2)] == names[:-3:-1] and line.newest(0) == []
    line.close()
    assert heard == names


def test_what_comes_within_the_wait_is_judged_with_it(begin):
    judge = stations.Judge()
    line = begin(judge, longest_wait_ms=10_000.0)
    futures = [line.submit(stations.picture(n), "", "request") for n in range(4)]
    concurrent.futures.wait(futures, 10)  # a full batch does not wait
    assert judge.batches == [4]


def test_no_more_is_taken_than_may_wait(begin):
    line, judge, first = blocked(begin, most_waiting=4)
    taken = [line.submit(stations.picture(), "", source) for source in ("folder", "folder")]
    with pytest.raises(station.Full, match="too many"):  # the other half is for requests
        line.submit(stations.picture(), "", "folder")
    taken += [line.submit(stations.picture(), "", "request") for _ in range(2)]
    with pytest.raises(station.Full, match="too many"):
        line.submit(stations.picture(), "", "request")
    assert (line.waiting, line.counts["dropped"]) == (4, 1)
    assert taken[0].cancel()  # whoever left needs no answer
    judge.may.set()
    assert all(future.result(10).row["score"] for future in [first, *taken[1:]])
    assert line.counts["good"] == 4


def test_closing_finishes_what_was_taken_and_takes_no_more(begin):
    line, judge, first = blocked(begin)
    rest = [line.submit(stations.picture(), "", "request") for _ in range(9)]
    closing = threading.Thread(target=line.close)
    closing.start()
    while not line.closing:
        pass
    with pytest.raises(station.Full, match="closing"):
        line.submit(stations.picture(), "", "request")
    judge.may.set()
    closing.join(10)
    assert all(future.done() and future.result().row["verdict"] for future in [first, *rest])


def test_pictures_that_cannot_be_read(begin):
    line = begin()
    for data in (b"", b"no picture", stations.picture()[:-20]):
        part = line.submit(data, "x.png", "request").result(10)
        assert part.row["error"].startswith("x.png cannot be read as a picture: ")
        assert part.finding is part.row["score"] is part.row["verdict"] is None
    assert line.counts["unreadable"] == 3
    assert line.submit(stations.picture(), "", "request").result(10).row["verdict"] == "good"


def test_a_request_has_fewer_pixels_than_a_file_may(begin, monkeypatch):
    monkeypatch.setattr(station, "MOST_PIXELS", 12 * 20 - 1)
    line = begin()
    asked = line.submit(stations.picture(), "x.png", "request").result(10)
    assert "it claims 20x12 px, 240 in all; the limit is 239" in asked.row["error"]
    assert line.submit(stations.picture(), "x.png", "folder").result(10).row["error"] is None


def test_a_model_that_fails_fails_for_one_picture(begin, caplog):
    def judge(pictures):
        if any(picture[5, 5, 0] == 66 for picture in pictures):
            raise FloatingPointError("the score is nan: the model has diverged")
        return [stations.found(picture) for picture in pictures]

    line = begin(judge, longest_wait_ms=1000.0)
    futures = [line.submit(stations.picture(n), "", "request") for n in (65, 66, 67, 68)]
    errors = [future.result(10).row["error"] for future in futures]
    assert errors == [None, station.FAILED, None, None] and "diverged" in caplog.text
    only = line.submit(stations.picture(66), "", "request").result(10)
    assert only.row["error"] == station.FAILED and "FloatingPointError" in line.problems["judging"]
    line.submit(stations.picture(65), "", "request").result(10)
    assert line.problems == {}


def test_a_mistake_of_ours_ends_neither_the_wait_nor_the_station(begin, monkeypatch, caplog):
    line = begin()
    with monkeypatch.context() as patch:
        patch.setattr(line, "_keep", None)
        with pytest.raises(TypeError):
            line.submit(stations.picture(), "", "request").result(10)
    assert "a batch was lost" in caplog.text
    assert line.submit(stations.picture(), "", "request").result(10).row["score"]


def test_a_listener_that_fails_harms_nobody(begin, caplog):
    line, heard = begin(), []
    line.listeners += [lambda part: 1 / 0, lambda part: heard.append(part.id)]
    parts = [line.submit(stations.picture(), "", "request").result(10) for _ in range(3)]
    line.close()
    assert heard == [part.id for part in parts] and "ZeroDivisionError" in caplog.text


def test_so_many_parts_are_kept(begin):
    line = begin(kept=3)
    parts = [line.submit(stations.picture(n), f"{n}", "request").result(10) for n in range(5)]
    assert [part.name for part in line.newest(9)] == ["4", "3", "2"]
    assert line.get(parts[0].id) is None and line.get(parts[4].id) is parts[4]
    assert line._bytes == sum(part.size for part in parts[2:])


def test_so_many_bytes_are_kept_and_the_rows_of_the_others(begin):
    size = 12 * 20 * (4 + 3) + len(stations.picture())
    line = begin(kept_bytes=2 * size + 100)
    parts = [line.submit(stations.picture(), "", "request").result(10) for n in range(5)]
    kept = [line.get(part.id) for part in parts]
    assert [bool(part.data and part.finding) for part in kept] == [False] * 3 + [True] * 2
    assert all(part.data and part.finding for part in parts)  # whoever has one has it whole
    assert len(line.newest(9)) == 5 and line._bytes == 2 * size
    assert all(part.row["score"] for part in parts)
    big = line.submit(stations.picture(shape=(99, 99)), "", "request").result(10)
    assert line.get(big.id) is big and not line.get(parts[4].id).data  # the newest is there


def test_a_threshold_that_a_person_sets_outlives_the_station(begin, tmp_path):
    line = begin()
    assert line.threshold == stations.THRESHOLD
    line.set_threshold(0.25, 1234.5)
    assert json.loads((tmp_path / "station.json").read_text()) == {
        "threshold": 0.25,
        "time": 1234.5,
    }
    part = line.submit(stations.picture(100), "", "request").result(10)
    assert (part.row["threshold"], part.row["verdict"]) == (0.25, "defective")
    assert begin().threshold == 0.25 and begin(threshold=0.75).threshold == 0.75
    for wrong in (-0.1, 1.5, float("nan"), True, "0.5", None, [0.5]):
        with pytest.raises(UserError, match=r"a number in \[0, 1\]"):
            line.set_threshold(wrong, 0.0)
    assert line.threshold == 0.25
    (tmp_path / "station.json").write_text("{")
    with pytest.raises(UserError, match=r"station\.json is damaged .*: remove it"):
        begin()


def test_a_threshold_that_cannot_be_stored_is_not_set(begin, monkeypatch):
    line = begin()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(station.files, "write", full)
    with pytest.raises(OSError, match="No space"):
        line.set_threshold(0.25, 0.0)
    assert line.threshold == stations.THRESHOLD


def test_without_a_threshold_there_is_no_verdict(begin):
    line = begin(changes={"threshold": None})
    row = line.submit(stations.picture(), "", "request").result(10).row
    assert row["score"] and row["verdict"] is row["confidence"] is row["threshold"] is None
    assert line.counts["unjudged"] == 1
    line = begin(changes={"slope": None})
    row = line.submit(stations.picture(), "", "request").result(10).row
    assert row["verdict"] == "good" and row["confidence"] is None


def test_drift_is_looked_for_among_what_the_threshold_calls_good(begin, tmp_path):
    looks = dict.fromkeys(appearance.STATISTICS, 0.5)
    known = [{"label": 0, "score": score / 100, **looks} for score in range(100)]
    line = begin(changes={"reference": {"pictures": known}})
    before = line.drift
    line.set_threshold(0.3, 1.0)
    assert line.drift is not before and line.drift.state()["parts"] == 0
    assert len(before._reference["score"]) == 50 and len(line.drift._reference["score"]) == 30


def test_good_parts_feed_drift(begin):
    line, fed = begin(), []
    line.drift = types.SimpleNamespace(add=lambda values, time: fed.append((values, time)))
    good, _, _ = (
        line.submit(data, "", "request").result(10)
        for data in (stations.picture(40), stations.picture(240), b"none")
    )
    line.close()
    square = line.served.square(stations.decoded(good.data))
    expected = {key: each[0] for key, each in appearance.statistics(square[None]).items()}
    assert square.shape == (stations.SIZE, stations.SIZE, 3)
    assert fed == [(expected | {"score": good.row["score"]}, good.time)]


def test_what_is_wrong_is_seen_by_looking(begin, tmp_path, monkeypatch):
    model = tmp_path / "model.onnx"
    model.write_text("")
    line = begin(changes={"needed": (model,)})
    assert line.troubles() == {}
    model.unlink()
    assert line.troubles() == {
        "model": "model.onnx is gone; judging goes on with what is in memory"
    }
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=3 * 2**20))
        assert line.troubles()["output"] == "disk full: 3 MiB free"
        line.problems["output"] = "what somebody has seen"
        assert line.troubles()["output"] == "what somebody has seen"
    line.problems.clear()
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        assert line.troubles()["output"] == "not writable"
    line.folder = tmp_path / "gone"
    assert "No such file" in line.troubles()["output"]
    assert line.submit(stations.picture(), "", "request").result(10).row["score"]


def test_parts_are_not_to_be_guessed():
    ids = {station.Part("", "request", b"").id for _ in range(100)}
    assert len(ids) == 100 and all(set(id) <= set(_LETTERS) for id in ids)


_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"


def test_numbers_are_those_of_python(begin):
    """JSON knows no others."""
    row = begin().submit(stations.picture(), "", "request").result(10).row
    json.dumps(row)
    assert not any(isinstance(value, np.generic) for value in row.values())
