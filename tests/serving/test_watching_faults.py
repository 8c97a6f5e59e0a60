"""A watched folder when the program is killed, the disk full, the folder gone, a picture broken."""

import errno
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from diffad_jax.predicting import journal
from diffad_jax.runs import files
from diffad_jax.serving import station, watching
from tests.serving import toy_line
from tests.serving.toy_line import SETTLE, fill, names, rows, table, until
from tests.support import folders


def test_killed_at_any_moment_every_picture_is_there_once(place):
    """60 pictures, five times SIGKILL; then as without."""
    fill(place, 60)
    output = place.parent / "out"
    words = [sys.executable, "-m", "tests.serving.toy_line"]
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


def test_a_folder_that_nobody_may_list(place, watch, monkeypatch):
    """It is told; the others are judged."""
    scan = os.scandir
    (place / "closed").mkdir()

    def refused(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refused)
    fill(place, 1)
    line, output = watch(), place.parent / "out"
    until(lambda: len(rows(output)) == 1)
    assert line.problems == {"folder": "a folder in the watched one cannot be read"}
    monkeypatch.undo()
    until(lambda: not line.problems)
    assert names(output) == ["000.png"]
