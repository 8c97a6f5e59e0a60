"""The journal: what is there after whatever end."""

import csv
import errno
import json
import logging

import pytest

from diffad_jax.predicting import results, writing
from diffad_jax.predicting.journal import Journal
from diffad_jax.predicting.results import COLUMNS
from diffad_jax.runs import files

LINES, TABLE = "predictions.jsonl", "predictions.csv"
ODD = "odd\udcff\n.png"


def row(name):
    return dict.fromkeys(COLUMNS) | {"picture": name, "score": 0.25, "boxes": []}


def three(folder):
    journal = Journal(folder)
    for number, name in enumerate(("a.png", ODD, 'c,".png')):
        journal.add(row(name), (number, 10))
    return {name: (folder / name).read_bytes() for name in (LINES, TABLE)}


def test_the_tables_are_those_of_a_prediction(tmp_path):
    ours = three(tmp_path / "ours")
    (tmp_path / "theirs").mkdir()
    results.write(tmp_path / "theirs", map(row, ("a.png", ODD, 'c,".png')))
    theirs = {name: (tmp_path / "theirs" / name).read_bytes() for name in ours}
    assert ours[TABLE] == theirs[TABLE]
    lines = [map(json.loads, tables[LINES].splitlines()) for tables in (ours, theirs)]
    for number, (one, other) in enumerate(zip(*lines, strict=True)):
        assert one == other | {"size": number, "mtime_ns": 10}


def test_cut_at_any_byte_all_is_as_after_the_last_whole_line(tmp_path):
    whole = three(tmp_path)
    ends = [at + 1 for at, byte in enumerate(whole[LINES]) if byte == 10]
    for at in range(len(whole[LINES]) + 1):
        (tmp_path / LINES).write_bytes(whole[LINES][:at])
        (tmp_path / TABLE).write_bytes(whole[TABLE][: at % len(whole[TABLE])])
        known = Journal(tmp_path).known
        count = sum(end <= at for end in ends)
        names = ["a.png", ODD, 'c,".png'][:count]
        assert known == {name: (number, 10) for number, name in enumerate(names)}
        assert (tmp_path / LINES).read_bytes() == whole[LINES][: [0, *ends][count]]
        with open(tmp_path / TABLE, newline="", encoding="utf-8") as table:
            assert len(list(csv.DictReader(table))) == count
    journal = Journal(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in whole} == whole
    time = (tmp_path / TABLE).stat().st_mtime_ns
    journal.add(row("a.png"), (0, 10))  # is there
    Journal(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in whole} == whole
    assert (tmp_path / TABLE).stat().st_mtime_ns == time  # not written anew where it is right


def test_lines_that_are_none_of_ours_are_passed_over(tmp_path, caplog):
    whole = three(tmp_path)
    with (tmp_path / LINES).open("ab") as file:
        for line in (b"\0\0\0", b"5", b"[]", b'{"error": null}', b'{"picture": 3, "boxes": []}'):
            file.write(line + b"\n")
        file.write(json.dumps(row("d.png")).encode() + b"\n")  # of a prediction: without a stamp
    with caplog.at_level(logging.WARNING):
        known = Journal(tmp_path).known
    assert len(caplog.records) == 5 and "line 4 is none of ours" in caplog.text
    assert list(known) == ["a.png", ODD, 'c,".png', "d.png"] and known["d.png"] == (None, None)
    assert (tmp_path / TABLE).read_bytes().startswith(whole[TABLE])


@pytest.mark.parametrize("name", [LINES, TABLE])
def test_a_full_disk_loses_and_doubles_nothing(tmp_path, monkeypatch, name):
    whole = three(tmp_path)
    append = files.append

    def full(path, line):
        if path.name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(path, line)

    journal = Journal(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(files, "append", full)
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                journal.add(row("d.png"), (4, 4))
    journal.add(row("d.png"), (4, 4))
    journal.add(writing.unreadable("e.png", "why"), (5, 5))
    again = {name: (tmp_path / name).read_bytes() for name in whole}
    assert all(again[name].startswith(whole[name]) for name in whole)
    assert again[LINES].count(b'"d.png"') == again[TABLE].count(b"d.png,") == 1
    Journal(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in whole} == again
