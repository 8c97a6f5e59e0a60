"""Corrections: what was confirmed is there again, whatever killed the program."""

import contextlib
import dataclasses
import hashlib
import io
import json
import threading
import types
from concurrent import futures

import numpy as np
import pytest
from PIL import Image

from configs.errors import UserError
from diffad_jax.serving.corrections import Corrections
from input_pipeline import corrections


def part(name="a.png", grey=7, format="png", **row):
    buffer = io.BytesIO()
    Image.fromarray(np.full((3, 5, 3), grey, np.uint8)).save(buffer, format)
    row = {"width": 5, "height": 3, "score": 0.5, "threshold": 0.4, "error": None} | row
    row = {"verdict": "defective"} | row
    return types.SimpleNamespace(id=f"part-{name}", name=name, data=buffer.getvalue(), row=row)


def marked():
    mask = np.zeros((3, 5), np.uint8)
    mask[1, 2:4] = 255
    return mask


def test_a_correction_is_kept_with_picture_and_mask(tmp_path):
    told = part("../../etc/passwd", format="jpeg")
    line = Corrections(tmp_path).add(told, "defective", marked(), 12.5)
    (word,) = corrections.read(tmp_path / "corrections.jsonl")
    assert dataclasses.asdict(word) == line == Corrections(tmp_path).all()[0]
    sha256 = hashlib.sha256(told.data).hexdigest()
    assert (word.sha256, word.picture) == (sha256, f"corrections/{sha256}.jpg")
    assert (tmp_path / word.picture).read_bytes() == told.data
    assert np.array_equal(np.asarray(Image.open(tmp_path / word.mask)), marked())
    assert (word.name, word.part, word.time) == (told.name, told.id, 12.5)
    assert (word.verdict, word.said, word.score, word.threshold) == (
        *("defective", "defective"),
        *(0.5, 0.4),
    )
    assert len(list(tmp_path.rglob("*.*"))) == 3  # nothing else, and nothing elsewhere


def test_the_last_word_about_a_picture_counts(tmp_path):
    kept = Corrections(tmp_path)
    kept.add(part("a", 1), "defective", marked(), 1.0)
    kept.add(part("b", 2), "good", None, 2.0)
    again = kept.add(part("a under another name", 1), "good", None, 3.0)
    assert [(one["name"], one["verdict"]) for one in kept.all()] == [
        ("a under another name", "good"),
        ("b", "good"),
    ]
    kept.withdraw(again["id"])
    assert [one["name"] for one in Corrections(tmp_path).all()] == ["b"]  # not the first word again
    for id in (again["id"], "unknown"):
        with pytest.raises(KeyError):
            kept.withdraw(id)


def test_of_two_withdrawals_at_the_same_moment_one_finds_nothing(tmp_path, monkeypatch):
    kept = Corrections(tmp_path)
    id = kept.add(part("a", 1), "good", None, 1.0)["id"]
    read, meeting = kept.all, threading.Barrier(2)

    def read_together():
        words = read()
        with contextlib.suppress(threading.BrokenBarrierError):
            meeting.wait(0.5)  # both have looked before one writes, unless they take turns
        return words

    monkeypatch.setattr(kept, "all", read_together)
    with futures.ThreadPoolExecutor() as pool:
        errors = [pool.submit(kept.withdraw, id).exception for _ in range(2)]
    assert sorted(str(error()) for error in errors) == [repr(id), "None"]
    assert len((tmp_path / "corrections.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("cut", [1, 10, 200])
def test_a_line_that_was_not_finished_was_not_written(tmp_path, cut):
    kept, file = Corrections(tmp_path), tmp_path / "corrections.jsonl"
    kept.add(part("a", 1), "good", None, 1.0)
    kept.add(part("b", 2), "good", None, 2.0)
    file.write_bytes(file.read_bytes()[:-cut])
    assert [one["name"] for one in kept.all()] == ["a"]
    kept.add(part("c", 3), "good", None, 3.0)
    assert [one["name"] for one in kept.all()] == ["c", "a"]
    assert len(file.read_bytes().splitlines()) == 2


def test_a_full_disk_says_nothing_about_the_picture(tmp_path, monkeypatch):
    kept = Corrections(tmp_path)
    kept.add(part("a", 1), "good", None, 1.0)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for one in (part("b", 2), part("a", 1)):  # a new picture, and one that is there
        with pytest.raises(OSError):
            kept.add(one, "defective", None, 2.0)
    monkeypatch.undo()
    assert [(one["name"], one["verdict"]) for one in kept.all()] == [("a", "good")]
    assert kept.count == 1
    assert len(list((tmp_path / "corrections").iterdir())) == 1


@pytest.mark.parametrize(
    ("told", "verdict", "mask", "words"),
    [
        (part(), "bad", None, "a verdict is one of good, defective, not 'bad'"),
        (part(), "good", marked(), "a good part has no defect to mark"),
        (part(), "defective", marked().T, "the mask must mark something and have 5x3 px"),
        (part(), "defective", 0 * marked(), "the mask must mark something and have 5x3 px"),
        (part(error="cut"), "good", None, "this picture could not be read"),
    ],
)
def test_what_cannot_be_said_is_told_and_not_stored(tmp_path, told, verdict, mask, words):
    with pytest.raises(UserError, match=words):
        Corrections(tmp_path).add(told, verdict, mask, 0.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("line", [b"{}", b"\xff", b"[1]", b"null", b'{"id": 1, "verdict": "x"}'])
def test_a_line_that_is_none_of_ours_is_told(tmp_path, line):
    file = tmp_path / "corrections.jsonl"
    file.write_bytes(line + b"\n")
    with pytest.raises(UserError, match="line 1 is no correction"):
        corrections.read(file)


def test_many_at_once(tmp_path):
    kept = Corrections(tmp_path)
    threads = [
        threading.Thread(target=kept.add, args=(part(f"{i}", i), "good", None, float(i)))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one["name"] for one in kept.all()} == {f"{i}" for i in range(8)}
    lines = (tmp_path / "corrections.jsonl").read_text().splitlines()
    assert len({json.loads(line)["id"] for line in lines}) == 8
