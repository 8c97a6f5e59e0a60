"""VisA's table as downloaded, and as spreadsheets and other systems leave it."""

import logging
import re

import pytest

from configs.errors import UserError
from input_pipeline.folders import layouts, scan
from tests.input_pipeline.folders.trees import found, good, refusal, touch

COLUMNS = ["object", "split", "label", "image", "mask"]
ROWS = [
    ["pcb", "train", "normal", "pcb/Data/Images/Normal/0.JPG", ""],
    ["pcb", "test", "normal", "pcb/Data/Images/Normal/1.JPG", ""],
    ["pcb", "test", "anomaly", "pcb/Data/Images/Anomaly/2.JPG", "pcb/Data/Masks/Anomaly/2.png"],
    ["nut", "train", "normal", "nut/Data/Images/Normal/0.JPG", ""],
]
EXPECTED = (
    "visa_csv",
    good("Data/Images/Normal/0.JPG"),
    [
        ("Data/Images/Anomaly/2.JPG", "Data/Masks/Anomaly/2.png", "anomaly"),
        *good("Data/Images/Normal/1.JPG"),
    ],
)


def lines(delimiter=",", columns=COLUMNS, rows=ROWS, end="\n", after=""):
    return end.join(delimiter.join(cells) + after for cells in [columns, *rows]) + end


def capital(rows, *places):
    return [[c.upper() if i in places else c for i, c in enumerate(row)] for row in rows]


SAVED = {
    "as downloaded": lines().encode(),
    "semicolons": lines(";").encode(),
    "tabs": lines("\t").encode(),
    "a mark of the separator": b"sep=;\r\n" + lines(";", end="\r\n").encode(),
    "a byte order mark": b"\xef\xbb\xbf" + lines().encode(),
    "semicolons and a byte order mark": b"\xef\xbb\xbf" + lines(";", end="\r\n").encode(),
    "UTF-16": lines("\t").encode("utf-16"),
    "Windows-1252": lines(after=",stück").encode("cp1252"),
    "capital column names": lines(columns=["Object", "SPLIT", "Label", "Image", "Mask"]).encode(),
    "capital splits, labels and categories": lines(rows=capital(ROWS, 0, 1)).encode(),
    "spaces": lines(columns=[f" {c} " for c in COLUMNS]).encode(),
    "backslashes": lines().replace("/", "\\").encode(),
    "a dot before each path": lines().replace(",pcb/", ",./pcb/").encode(),
    "trailing empty columns": lines(after=",,,").encode(),
    "semicolons and trailing empty columns": lines(";", after=";;").encode(),
    "rows without their empty cells": lines().replace(",\n", "\n").encode(),
    "quotes": re.sub(r"([^,\n]+)", r'"\1"', lines()).encode(),
    "empty lines": lines(end="\n\n").encode(),
    "empty rows": (lines() + ",,,,\n,,,,\n").encode(),
    "another order": lines(
        columns=[*COLUMNS[::-1], "note"], rows=[[*row[::-1], "x"] for row in ROWS]
    ).encode(),
    "paths in other capital letters": lines(rows=capital(ROWS, 3, 4)).encode(),
}


@pytest.fixture
def root(tmp_path):
    touch(tmp_path, *(f"pcb/Data/Images/Normal/{i}.JPG" for i in (0, 1)))
    touch(tmp_path, "pcb/Data/Images/Anomaly/2.JPG", "pcb/Data/Masks/Anomaly/2.png")
    touch(tmp_path, "nut/Data/Images/Normal/0.JPG", "own/1.png", "split_csv/1cls.csv")
    return tmp_path


@pytest.mark.parametrize("saved", SAVED)
def test_a_table_however_it_was_saved(root, saved):
    (root / "split_csv/1cls.csv").write_bytes(SAVED[saved])
    assert found(root / "pcb") == found(root / "pcb", "visa_csv") == EXPECTED
    assert layouts.categories(root, "auto") == ["nut", "own", "pcb"]


def test_a_table_in_other_capital_letters(root):
    (root / "split_csv").rename(root / "Split_CSV")
    (root / "Split_CSV/1cls.csv").rename(root / "Split_CSV/1CLS.CSV")
    (root / "Split_CSV/1CLS.CSV").write_text(lines())
    assert found(root / "pcb") == EXPECTED


BROKEN = {
    "empty": (b"", "has no column image, label, mask, object, split"),
    "a column is missing": (
        lines(";", columns=["Objekt", *COLUMNS[1:]]).encode(),
        "has no column object; its first line is 'Objekt;split;label;image;mask'",
    ),
    "a workbook": (b"PK\x03\x04" + bytes(range(256)), "no column|cannot be read as CSV"),
    "another word for the split": (
        lines().replace("test", "validation").encode(),
        r"1cls.csv, line 3: split='validation' label='normal'",
    ),
    "a row without picture": (
        lines().replace("pcb/Data/Images/Normal/1.JPG", "").encode(),
        r"1cls.csv, line 3: split='test' label='normal' image=''",
    ),
    "no training picture": (
        lines(rows=ROWS[1:]).encode(),
        "1cls.csv lists no good training picture of pcb",
    ),
}


@pytest.mark.parametrize("layout", ["auto", "visa_csv"])
@pytest.mark.parametrize("broken", BROKEN)
def test_a_table_that_is_not_understood_is_never_another_layout(root, broken, layout):
    content, words = BROKEN[broken]
    touch(root, "pcb/train/good/9.png")  # which another layout would take
    (root / "split_csv/1cls.csv").write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        found(root / "pcb", layout)
    assert "\n" not in str(error.value) and "\x00" not in str(error.value)
    with pytest.raises(UserError, match=words):
        layouts.categories(root, layout)


def test_why_a_table_was_not_taken_is_told(root, caplog):
    (root / "split_csv/1cls.csv").write_text(lines())
    with caplog.at_level(logging.INFO):
        assert found(root / "own")[0] == "folder"
    assert "1cls.csv lists no picture of own" in caplog.text
    with pytest.raises(scan.NoGoodPictures, match=r"1cls\.csv lists no picture of own"):
        found(root / "own", "visa_csv")
    assert layouts.categories(root, "visa_csv") == ["nut", "pcb"]


def test_no_table(root):
    (root / "split_csv/1cls.csv").unlink()
    assert "1cls.csv cannot be read: No such file" in refusal(root / "pcb", "visa_csv")
