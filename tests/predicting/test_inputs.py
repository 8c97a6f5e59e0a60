"""What --input means: lists, records, and what falls to a share."""

import csv
import io
import itertools
import pathlib

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow as tf
from array_record.python import array_record_module
from PIL import Image

from configs.errors import UserError
from diffad_jax.predicting import inputs


def png(level):
    file = io.BytesIO()
    Image.new("RGB", (4, 3), (level, 0, 0)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def pictures(tmp_path):
    """Five, of levels 0 to 4, in two folders."""
    for level in range(5):
        place = tmp_path / f"{'ab'[level % 2]}/{level}.png"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(png(level))
    return tmp_path


def levels(sources):
    return [int(source.decode()[0, 0, 0]) for source in sources]


def write_list(place, names, column):
    if place.suffix == ".txt":
        place.write_text("\n".join(names) + "\n\n")
    elif place.suffix.lower() == ".csv":
        with place.open("w", newline="") as file:
            csv.writer(file).writerows([("camera", column), *(("left", name) for name in names)])
    else:
        table = pyarrow.table({"camera": ["left"] * len(names), column: names})
        pyarrow.parquet.write_table(table, place)


@pytest.mark.parametrize(
    ("name", "column"),
    [("l.txt", ""), ("l.csv", "path"), ("l.CSV", "Filename"), ("l.parquet", "picture")],
)
def test_a_list_is_read_in_its_own_order(pictures, name, column):
    names = ["b/3.png", "a/0.png", str(pictures / "b/1.png"), "a/0.png", "../no.png"]
    write_list(pictures / name, names, column)
    found = list(inputs.stream(pictures / name))
    assert [source.name for source in found] == names
    assert [source.order for source in found] == [0, 1, 2, 3, 4]
    assert levels(found[:4]) == [3, 0, 1, 0]
    with pytest.raises(UserError, match=r"no\.png cannot be read as a picture"):
        found[4].decode()
    # Nobody's result lies outside of the output folder, or takes another one's place.
    outputs = [source.output(".png") for source in found]
    assert outputs[:2] == ["b/3.png.png", "a/0.png.png"]
    assert not any(".." in pathlib.PurePath(path).parts or path[0] == "/" for path in outputs)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("no.txt", None, "there is no list .*no.txt"),
        ("empty.txt", b"\n\n", "no pictures: .*empty.txt"),
        (
            "l.csv",
            b"a,b\n1,2\n",
            r"l.csv has the columns \['a', 'b'\]: call that of",
        ),
        ("no.tfrecord", None, "there are no records .*no.tfrecord"),
        ("*.tfrecord", None, r"there are no records .*\*.tfrecord"),
        ("none", None, "no such file or folder: .*none"),
    ],
)
def test_no_input_is_one_line(tmp_path, name, content, told):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=told):
        list(inputs.stream(tmp_path / name))


def example(level):
    features = {
        "a": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"left"])),
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[png(level)])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write_records(path, records):
    if ".tfrecord" in path.name:
        options = "GZIP" if path.suffix == ".gz" else None
        with tf.io.TFRecordWriter(str(path), options) as writer:
            for record in records:
                writer.write(record)
    else:
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()


@pytest.mark.parametrize("ending", ["tfrecord", "tfrecord.gz", "array_record"])
def test_records_hold_files_or_examples(tmp_path, ending):
    paths = [tmp_path / f"p-0000{number}-of-00003.{ending}" for number in range(3)]
    for number, path in enumerate(paths):
        write_records(path, [png(10 * number), example(10 * number + 1), b"neither"])
    pattern = tmp_path / f"p-*.{ending}"
    found = list(inputs.stream(pattern))
    assert [s.name for s in found] == [f"{p.name}/{row:08d}" for p in paths for row in range(3)]
    assert levels(s for s in found if not s.name.endswith("2")) == [0, 1, 10, 11, 20, 21]
    with pytest.raises(UserError, match="holds a record that is no picture"):
        found[2].decode()
    # Shares have whole files.
    split = [[s.name for s in inputs.stream(pattern, index, 2)] for index in range(2)]
    assert [name[6] for name in split[0]] == ["0"] * 3 + ["2"] * 3
    assert sorted(itertools.chain(*split)) == [s.name for s in found]
    orders = [s.order for s in found]
    assert orders == sorted(set(orders))


@pytest.mark.parametrize("ending", ["tfrecord", "array_record"])
def test_damaged_records_have_a_row_that_says_so(tmp_path, ending):
    path = tmp_path / f"p.{ending}"
    write_records(path, [png(level) for level in range(4)])
    data = bytearray(path.read_bytes())
    path.write_bytes(data[: len(data) // 2 + 15])
    *_, last = inputs.stream(path)
    with pytest.raises(UserError, match="is damaged from this record on"):
        last.decode()


@pytest.mark.parametrize("ending", ["tfrecord", "tfrecord.gz"])
def test_records_that_end_in_a_header_are_damaged(tmp_path, ending):
    """There, and anywhere in a compressed file, TensorFlow sees the end of a whole file."""
    path = tmp_path / f"p.{ending}"
    write_records(path, [b"a" * 30, png(0)])
    data, plain = path.read_bytes(), not ending.endswith("gz")
    cuts = (5, 46 + 1, 46 + 11) if plain else (5, 12, len(data) - 1)
    for cut in cuts:
        path.write_bytes(data[:cut])
        *_, last = inputs.stream(path)
        with pytest.raises(UserError, match=f"{path} is damaged from this record on"):
            last.decode()
    path.write_bytes(data)
    assert len(list(inputs.stream(path))) == 2


def test_shares_are_the_whole_and_what_is_added_moves_none(pictures):
    whole = [source.name for source in inputs.stream(pictures)]
    assert whole == ["a/0.png", "a/2.png", "a/4.png", "b/1.png", "b/3.png"]
    before = [{source.name for source in inputs.stream(pictures, index, 3)} for index in range(3)]
    assert sorted(itertools.chain(*before)) == whole
    (pictures / "a/1.png").write_bytes(png(9))
    after = [{source.name for source in inputs.stream(pictures, index, 3)} for index in range(3)]
    assert all(one <= other for one, other in zip(before, after, strict=True))


def test_shares_are_about_alike():
    counts = np.bincount([inputs.share_of(f"line/{n:07}.png", 64) for n in range(64_000)])
    assert len(counts) == 64 and counts.min() > 850 and counts.max() < 1150
