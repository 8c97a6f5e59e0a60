"""A prediction in shares: every picture once, whatever ends a process; the merge is one's own."""

import functools
import json
import subprocess
import sys

import pyarrow.parquet
import pytest
from PIL import Image

from configs.errors import UserError
from diffad_jax import predict
from diffad_jax.predicting import inputs, shares
from diffad_jax.predicting.parts import Parts
from tests.predicting import kills
from tests.predicting.store import stand_in

COUNT = 5000


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    for number in range(COUNT):
        place = folder / f"{number % 7}{'-' * (number % 3)}"  # so that the order of paths matters
        place.mkdir(exist_ok=True)
        colour = (number % 251, 0, 0)
        Image.new("RGB", (4, 4), colour).save(place / f"{number}.bmp")
    (folder / "3/broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def killed(pictures, tmp_path_factory):
    """The folder of all results, and {place: pictures judged}."""
    output = tmp_path_factory.mktemp("output")
    command = [sys.executable, "-m", "tests.predicting.kills", str(pictures), str(output)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = {}
    for line in done.stdout.splitlines():
        told |= json.loads(line)
    return output, told


def names(folder):
    rows = (folder / "predictions.jsonl").read_text().splitlines()
    return [json.loads(row)["picture"] for row in rows]


@pytest.mark.parametrize("place", kills.PLACES)
def test_killed_and_started_again_every_picture_has_one_row(killed, place):
    output, told = killed
    number = list(kills.PLACES).index(place)
    first, second, other, again = told[place]
    assert first == -1 and again == 0  # what is done is not done again
    done = {
        "before the first part": 0,
        "while a part is written": 1000,
        "before a part has its name": 2000,
        "between two parts": 1000,
    }
    share = sum(inputs.share_of(name, 2) for name in names(output / "plain"))
    assert second == share - done.get(place, share)
    assert other == COUNT + 1 - share
    for table in ("predictions.csv", "predictions.jsonl"):
        merged, plain = ((output / name / table).read_bytes() for name in (str(number), "plain"))
        assert merged == plain
    left = {path.name for path in (output / f"{number}").iterdir()}
    assert left == {
        *(
            f"predictions-{share}-of-2{ending}"
            for share in (0, 1)
            for ending in (".json", ".parquet")
        ),
        *("predictions.csv", "predictions.jsonl", "predictions.parquet"),
    }


@pytest.fixture
def three(tmp_path, monkeypatch):
    """A folder of pictures, and what predicts one share of three into another folder."""
    folder, output = tmp_path / "in", tmp_path / "out"
    for number in range(20):
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / f"{number}.png")
    model = kills.Model(-1)
    monkeypatch.setattr(predict, "load", lambda *_: model)

    def judge(index, given=folder, **more):
        return predict.run("run", given, output, shard=(index, 3), **more)

    return model, output, judge


def test_what_cannot_be_merged_is_one_line(three, tmp_path):
    model, output, judge = three
    with pytest.raises(UserError, match="holds no share that is done"):
        shares.merge(output)
    judge(0)
    with pytest.raises(UserError, match="of 3 shares these are not done: 1, 2"):
        shares.merge(output)
    judge(1)
    model.threshold = 0.02
    with pytest.raises(UserError, match=r"of threshold 0\.5, this is 0\.02: give another --output"):
        judge(1)
    judge(2)
    with pytest.raises(UserError, match=r"0-of-3\.parquet and .*2-of-3\.parquet are of"):
        shares.merge(output)
    model.threshold = 0.5
    (output / "predictions-2-of-3.json").unlink()
    judge(2)
    (output / "predictions-2-of-3.parquet").rename(tmp_path / "kept")
    with pytest.raises(UserError, match=r"2-of-3.parquet is missing: remove its \.json"):
        shares.merge(output)
    (tmp_path / "kept").rename(output / "predictions-2-of-3.parquet")
    (output / "predictions-2-of-4.json").write_text("{}")
    with pytest.raises(UserError, match="holds shares of 3 and of 4"):
        shares.merge(output)
    (output / "predictions-2-of-4.json").unlink()
    shares.merge(output)
    assert names(output) == sorted(f"{number}.png" for number in range(20))


def test_shares_on_a_store_are_merged_there(three, tmp_path, monkeypatch):
    _, output, judge = three
    stand_in(monkeypatch, tmp_path)
    for index in range(3):
        judge(index)
    judge_there = functools.partial(predict.run, "run", tmp_path / "in", "gs://bucket/out")
    for index in range(3):
        judge_there(shard=(index, 3))
    for place in (output, "gs://bucket/out"):
        shares.merge(place)
    there = tmp_path / "bucket/out"
    assert {p.name for p in there.iterdir()} == {p.name for p in output.iterdir()}
    for name in ("predictions.csv", "predictions.jsonl", "predictions.parquet"):
        assert (there / name).read_bytes() == (output / name).read_bytes()


def test_without_pyarrow_the_tables_are_lines(three, monkeypatch):
    _, output, judge = three
    monkeypatch.setattr(shares.importlib.util, "find_spec", lambda _: None)
    for index in range(3):
        judge(index)
    shares.merge(output)
    assert len(names(output)) == 20
    assert {path.suffix for path in output.iterdir() if path.is_file()} == {
        *(".json", ".jsonl", ".csv")
    }


def test_parquet_holds_what_the_lines_hold(three):
    _, output, judge = three
    for index in range(3):
        judge(index)
    shares.merge(output)
    rows = pyarrow.parquet.read_table(output / "predictions.parquet").to_pylist()
    lines = (output / "predictions.jsonl").read_text().splitlines()
    assert rows == [json.loads(line) | {"order": None} for line in lines]


def test_a_picture_that_changed_and_what_follows_are_judged_again(three, tmp_path, monkeypatch):
    model, output, judge = three
    whole = Parts.rows
    monkeypatch.setattr(Parts, "rows", lambda _: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(OSError, match="No space"):
        judge(0)
    mine = [f"{n}.png" for n in range(20) if inputs.share_of(f"{n}.png", 3) == 0]
    assert model.judged == len(mine) == 3
    mine.sort()
    assert model.count == 3  # few pictures go in a small batch
    Image.new("RGB", (4, 4), (99, 0, 0)).save(tmp_path / "in" / mine[2])
    monkeypatch.setattr(Parts, "rows", whole)
    judge(0)
    assert model.judged == 2 * len(mine) - 2
    rows = pyarrow.parquet.read_table(output / "predictions-0-of-3.parquet").to_pylist()
    assert [row["picture"] for row in rows] == mine
    assert rows[2]["score"] == pytest.approx(99 / 255)
