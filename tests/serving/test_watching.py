"""A watched folder: every picture once, whatever happens to it, to the disk, to the program."""

import csv
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from configs.errors import UserError
from diffad_jax.predicting import journal
from diffad_jax.predicting.results import COLUMNS
from diffad_jax.reporting import drawing
from diffad_jax.runs import files
from diffad_jax.serving import station, watching
from tests.support import folders, toy_line

SETTLE = 0.1


@pytest.fixture
def place(tmp_path):
    """The watched folder; the output is beside it."""
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def watch(place):
    """Starts a station that watches `place`; all are stopped at the end."""
    begun = []

    def start(settle=SETTLE, **served):
        output = place.parent / "out"
        line = station.Station(toy_line.served(**served), folder=output)
        watcher = watching.Watcher(line, place, output, settle)
        watcher.start()
        begun.append((watcher, line))
        return line

    def stop():
        for watcher, line in begun:
            watcher.stop()
            line.close()
        begun.clear()

    start.stop = stop
    yield start
    stop()


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def rows(output):
    """The lines of predictions.jsonl."""
    file = output / "predictions.jsonl"
    return list(map(json.loads, file.read_bytes().splitlines())) if file.exists() else []


def names(output):
    return [row["picture"] for row in rows(output)]


def table(output):
    with open(output / "predictions.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def fill(place, count):
    for seed in range(count):
        (place / f"{seed:03}.png").write_bytes(toy_line.picture(seed))


def test_lines_maps_and_overlays_are_those_of_predict(place, watch):
    fill(place, 3)
    watch()
    output = place.parent / "out"
    until(lambda: len(rows(output)) == 3)
    watch.stop()
    for seed, (row, line) in enumerate(zip(rows(output), table(output), strict=True)):
        file = place / f"{seed:03}.png"
        picture = np.asarray(Image.open(file))
        red = picture[..., 0].astype(np.float32) / 255
        assert tuple(line) == COLUMNS and tuple(row) == (*COLUMNS, "size", "mtime_ns")
        assert row["picture"] == file.name and row["error"] is None
        assert row["score"] == float(red.mean()) and row["threshold"] == 0.5
        assert row["verdict"] == ("defective" if row["score"] >= 0.5 else "good")
        assert row["confidence"] == pytest.approx(1 / (1 + (0.5 / row["score"]) ** 2))
        assert (row["width"], row["height"]) == (12, 10)
        assert row["map"] == f"maps/{file.name}.png"
        levels = np.asarray(Image.open(output / row["map"]))
        assert levels.dtype == np.uint16
        np.testing.assert_array_equal(levels, np.round(red * 65535))
        corners = [(box["x"], box["y"], box["width"], box["height"]) for box in row["boxes"]]
        drawn = drawing.frames(drawing.overlay(picture, red, 1.0), corners)
        np.testing.assert_array_equal(np.asarray(Image.open(output / row["overlay"])), drawn)
        assert (row["size"], row["mtime_ns"]) == (file.stat().st_size, file.stat().st_mtime_ns)
        assert line["boxes"] == str(len(row["boxes"])) and line["score"] == str(row["score"])


def test_killed_at_any_moment_every_picture_is_there_once(place):
    """60 pictures, five times SIGKILL; then as without."""
    fill(place, 60)
    output = place.parent / "out"
    words = [sys.executable, "-m", "tests.support.toy_line"]
    moments, kills = random.Random(0), 0
    while len(rows(output)) < 60:
        told = (str(place), str(output), "0.05")
        child = subprocess.Popen(
            [*words, *told], cwd=folders.REPOSITORY, stdout=subprocess.PIPE, text=True
        )
        try:
            assert child.stdout.readline() == "watching\n"
            if kills < 5:  # at about a seventh of the work each
                have = len(rows(output))
                until(lambda have=have: len(rows(output)) >= min(59, have + 8))
                time.sleep(moments.uniform(0, 0.03))
                kills += 1
            else:
                until(lambda: len(table(output)) == 60)
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
            child.stdout.close()
    assert kills == 5
    whole = place.parent / "whole"
    line = station.Station(toy_line.served(), folder=whole)
    watcher = watching.Watcher(line, place, whole, SETTLE)
    watcher.start()
    until(lambda: len(rows(whole)) == 60)
    watcher.stop()
    line.close()
    for read in (rows, table):
        ours, theirs = (sorted(read(o), key=lambda r: r["picture"]) for o in (output, whole))
        assert ours == theirs
    for kind in ("maps", "overlays"):
        for file in (whole / kind).iterdir():
            assert (output / kind / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("closed", [False, True])
def test_a_file_that_grows_is_judged_when_it_is_whole(place, watch, closed):
    """In pieces; kept open, or opened anew for each."""
    watch()
    data, output = toy_line.picture(1), place.parent / "out"
    file = place / "slow.png"
    with file.open("wb", buffering=0) as kept:
        for start in range(0, len(data), 60):
            piece = data[start : start + 60]
            if closed:
                with file.open("ab") as again:
                    again.write(piece)
            else:
                kept.write(piece)
            time.sleep(SETTLE / 2)
    fill(place, 1)
    until(lambda: len(rows(output)) == 2)
    watch.stop()
    assert sorted(names(output)) == ["000.png", "slow.png"]
    assert not any(row["error"] for row in rows(output))


def test_what_cannot_be_read_has_its_line_and_nothing_stops(place, watch):
    (place / "cut.png").write_bytes(toy_line.picture(0)[:60])
    (place / "empty.png").touch()
    (place / "phone.heic").write_bytes(b"?")
    (place / "closed.png").write_bytes(toy_line.picture(0))
    line, output = watch(), place.parent / "out"
    fill(place, 1)
    until(lambda: len(rows(output)) == 5)
    watch.stop()
    said = {row["picture"]: row["error"] for row in rows(output)}
    assert said["000.png"] is None and said.pop("closed.png") is None
    for name in ("cut.png", "empty.png", "phone.heic"):
        assert said[name].startswith(f"{name} cannot be read as a picture: "), said[name]
        assert all(r["score"] == "" == r["boxes"] for r in table(output) if r["picture"] == name)
    assert not line.problems
    assert line.counts["unreadable"] == 2  # not submitted again as long as they are the same


def test_a_file_that_nobody_may_read(place, watch, monkeypatch):
    """At first; then it is there for a moment only."""
    fill(place, 2)
    read, refused = type(place).read_bytes, []

    def closed(path):
        if path.name == "001.png" or (path.name == "000.png" and not refused):
            refused.append(path.name)
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(type(place), "read_bytes", closed)
    watch()
    output = place.parent / "out"
    until(lambda: len(table(output)) == 2 if (output / "predictions.csv").exists() else False)
    said = {row["picture"]: row["error"] for row in table(output)}
    assert said["000.png"] == ""
    assert said["001.png"] == "001.png cannot be read as a picture: Permission denied"


def test_another_picture_under_the_same_name_is_judged_again(place, watch):
    fill(place, 2)
    watch()
    output = place.parent / "out"
    until(lambda: len(rows(output)) == 2)
    (place / "000.png").write_bytes(toy_line.picture(8))
    until(lambda: len(rows(output)) == 3)
    watch.stop()
    assert names(output) == ["000.png", "001.png", "000.png"]
    assert rows(output)[0]["score"] != rows(output)[2]["score"]
    os.utime(place / "001.png", ns=(0, 5))  # while nobody watched
    watch()
    until(lambda: len(rows(output)) == 4)
    watch.stop()
    assert names(output)[3] == "001.png" and rows(output)[1]["score"] == rows(output)[3]["score"]


def test_names_folders_and_what_is_left_alone(place, watch):
    watch()
    output, data = place.parent / "out", toy_line.picture(3)
    odd = os.fsdecode(b"odd\xff.png")
    (place / "a/b").mkdir(parents=True)
    for name in ("new.part", ".hidden.png", "moved.tmp", "notes.txt", "x.png.part", "Thumbs.db"):
        (place / name).write_bytes(data)
    (place / ".folder").mkdir()
    (place / ".folder/in.png").write_bytes(data)
    (place / "new.part").rename(place / "new.png")
    (place / odd).write_bytes(data)
    (place / "a/b/x.png").write_bytes(data)
    (place.parent / "whole.png").write_bytes(data)
    (place.parent / "whole.png").rename(place / "whole.png")
    wanted = ["a/b/x.png", "new.png", odd, "whole.png"]
    until(lambda: len(rows(output)) == 4)
    time.sleep(4 * SETTLE)  # one more rescan
    watch.stop()
    assert sorted(names(output)) == wanted
    assert sorted(row["picture"] for row in table(output)) == [
        "a/b/x.png",
        "new.png",
        r"odd\udcff.png",
        "whole.png",
    ]
    assert (output / f"maps/{odd}.png").exists() and (output / "maps/a/b/x.png.png").exists()
    watch()  # knows them all
    fill(place, 1)
    until(lambda: len(rows(output)) == 5)
    assert names(output)[4] == "000.png"


def test_a_folder_that_goes_and_comes_back(place, watch):
    fill(place, 2)
    line, output = watch(), place.parent / "out"
    until(lambda: len(rows(output)) == 2)
    place.rename(place.parent / "away")
    until(lambda: line.problems == {"folder": "the watched folder is not there"})
    (place.parent / "away/late.png").write_bytes(toy_line.picture(5))
    (place.parent / "away").rename(place)
    until(lambda: len(rows(output)) == 3)
    assert names(output)[2] == "late.png" and not line.problems
    (place / "heard.png").write_bytes(toy_line.picture(6))
    until(lambda: len(rows(output)) == 4)


@pytest.mark.parametrize("what", ["write", "append"])
def test_a_full_disk(place, watch, monkeypatch, what):
    """Of maps, or in the middle of a line; nothing is lost, nothing is there twice."""
    full, real, after = [True], getattr(files, what), []

    def fails(path, content):
        if full:
            after.append(path)
            if len(after) > 5:
                raise OSError(f"{path} cannot be written: No space") from OSError(
                    errno.ENOSPC, "No space left on device"
                )
        real(path, content)

    monkeypatch.setattr(files, what, fails)
    fill(place, 6)
    line, output = watch(), place.parent / "out"
    told = {"output": "results cannot be written: No space left on device"}
    until(lambda: line.problems == told)
    full.clear()
    until(lambda: len(table(output)) == 6)
    until(lambda: not line.problems)
    watch.stop()
    assert names(output) == [f"{seed:03}.png" for seed in range(6)]
    assert [row["picture"] for row in table(output)] == names(output)
    assert len(list((output / "overlays").iterdir())) == 6


def test_a_full_disk_at_the_start_and_at_the_end(place, watch, monkeypatch):
    def full(path, *_):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    fill(place, 1)
    with monkeypatch.context() as patch:
        patch.setattr(files, "append", full)
        line, output = watch(), place.parent / "out"
        until(lambda: line.problems == {"watching": "No space left on device"})
        watch.stop()
    watch()
    until(lambda: len(rows(output)) == 1)


def test_many_pictures_wait_for_room(place, watch):
    fill(place, 150)
    line, output = watch(), place.parent / "out"
    until(lambda: len(rows(output)) == 150)
    assert line.counts["dropped"] == 0 and not line.problems


def test_a_model_that_fails_is_asked_again(place, watch):
    broken = [True]

    def judge(pictures):
        if broken:
            raise RuntimeError("out of memory")
        return [toy_line.finding(picture) for picture in pictures]

    fill(place, 2)
    line, output = watch(judge=judge), place.parent / "out"
    until(lambda: line.counts["unreadable"] >= 5)
    assert not rows(output) and line.problems["judging"]
    broken.clear()
    until(lambda: len(rows(output)) == 2)
    assert not any(row["error"] for row in rows(output))
    until(lambda: not line.problems)


def test_without_events_rescans_do(place, watch, monkeypatch):
    def none_left(*_, **__):
        raise OSError(errno.ENOSPC, "inotify watch limit reached")

    monkeypatch.setattr(watching.observers.Observer, "schedule", none_left)
    watch()
    fill(place, 2)
    until(lambda: len(rows(place.parent / "out")) == 2)


def test_what_was_submitted_is_written_before_the_end(place, watch):
    fill(place, 8)
    line, output = watch(seconds=0.05), place.parent / "out"
    until(lambda: sum(line.counts.values()) >= 1)
    watch.stop()
    judged = line.counts["good"] + line.counts["defective"]
    assert names(output) == [f"{seed:03}.png" for seed in range(judged)] and 1 <= judged <= 8


def test_wrong_use(place):
    line = station.Station(toy_line.served(), folder=place)
    with pytest.raises(UserError, match=r"there is no folder .*nowhere to watch"):
        watching.Watcher(line, place / "nowhere", place.parent)
    with pytest.raises(UserError, match="lies in the watched folder"):
        watching.Watcher(line, place, place / "out")
    line.close()


def test_a_mistake_of_ours_is_told_and_survived(place, watch, monkeypatch):
    broken, add = [True], journal.Journal.add

    def wrong(*words):
        if broken:
            raise KeyError("mistake")
        add(*words)

    monkeypatch.setattr(journal.Journal, "add", wrong)
    fill(place, 2)
    line, output = watch(), place.parent / "out"
    until(lambda: line.problems == {"watching": "KeyError"})
    broken.clear()
    until(lambda: len(rows(output)) == 2)
    until(lambda: not line.problems)
