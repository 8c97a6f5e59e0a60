import csv
import dataclasses
import io
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from diffad_jax.reporting import drawing, grid, tables
from diffad_jax.scoring import results

SIZE = 32
NAMES = [
    "good/000.png",
    "good/001.png",
    'a,"b".png',
    "螺丝 ü.png",
    "<script>alert($1)$.png",
    "a_name_so_long_that_it_cannot_stand_beside_the_pictures_of_its_row\n.png",
]
DEFECTS = ["good", "good", "hole", "hole", "scratch", "metal_contamination"]


def evaluation(**changes):
    rng = np.random.default_rng(0)
    count = len(NAMES)
    labels = np.array([0, 0, 1, 1, 1, 1], np.int32)
    masks = np.zeros((count, SIZE, SIZE, 1), np.uint8)
    masks[2:, :8, 4:12] = 255  # touches the picture's edge
    fields = {
        "names": NAMES,
        "defects": DEFECTS,
        "labels": labels,
        "scores": np.array([0.1, 0.6, 0.7, 1 / 3, 0.9, 0.8]),
        "maps": (masks[..., 0] / 255 * 0.5 + 0.1 * rng.random(masks.shape[:3])).astype(np.float32),
        "images": rng.integers(0, 255, (count, SIZE, SIZE, 3), dtype=np.uint8),
        "reconstructions": rng.integers(0, 255, (count, SIZE, SIZE, 3), dtype=np.uint8),
        "masks": masks,
        "has_mask": np.array([False, False, True, False, True, True]),
    }
    return results.Evaluation(**{**fields, **changes})


def numbered(defects):
    """An evaluation where only the order and the type of defect matter."""
    count = len(defects)
    return results.Evaluation(
        names=[str(i) for i in range(count)],
        defects=defects,
        labels=np.array([defect != "good" for defect in defects], np.int32),
        scores=np.zeros(count),
        maps=np.zeros((count, 1, 1), np.float32),
        images=np.zeros((count, 1, 1, 3), np.uint8),
        reconstructions=np.zeros((count, 1, 1, 3), np.uint8),
        masks=None,
        has_mask=np.zeros(count, bool),
    )


def cell(picture, row, column):
    """The pixels of one cell of the grid, without its frame."""
    x = grid.LEFT + column * (grid.CELL + grid.GAP)
    y = grid.HEADER + row * (grid.CELL + grid.GAP)
    box = [round(v * grid.DPI) for v in (x, y, x + grid.CELL, y + grid.CELL)]
    return np.asarray(picture.crop(box))[4:-4, 4:-4, :3].astype(int)


def test_grid_is_whole_and_the_same_twice(tmp_path):
    tests, rows = evaluation(), range(6)
    for name in ("one.png", "two.png"):
        grid.write_grid(tmp_path / "deep" / name, tests, rows, "a title with $ and 螺", 0.5)
    first, second = ((tmp_path / "deep" / f"{n}.png").read_bytes() for n in ("one", "two"))
    assert first == second
    picture = Image.open(io.BytesIO(first))
    assert picture.width == 1200
    assert picture.height == pytest.approx(
        grid.DPI * (grid.HEADER + 6 * (grid.CELL + grid.GAP) + grid.FOOTER), abs=1
    )
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["one.png", "two.png"]


def test_grid_shows_truth_map_and_missing_mask(tmp_path):
    tests = evaluation()
    grid.write_grid(tmp_path / "grid.png", tests, [0, 2, 3], "title", float("nan"))
    picture = Image.open(tmp_path / "grid.png")
    outline = np.array([int(drawing.OUTLINE[i : i + 2], 16) for i in (1, 3, 5)])
    outlined = [
        (abs(cell(picture, row, 4) - outline).max(axis=-1) < 40).sum() > 50 for row in range(3)
    ]
    assert outlined == [False, True, False]
    # A good picture needs no mask: its truth is empty. A quarter by a quarter of the next one's
    # is defective. The third lacks its mask: neither black nor white.
    assert cell(picture, 0, 1).max() == 0
    assert (cell(picture, 1, 1) > 128).mean() == pytest.approx(1 / 16, abs=0.01)
    assert np.median(cell(picture, 2, 1)) == 240
    # The map is bright where it is high, on the whole set's scale.
    heat = cell(picture, 1, 3).sum(axis=-1)
    assert heat[10:35, 30:60].mean() > 350
    assert heat[80:, 80:].mean() < 100


def test_grid_uses_one_scale_for_the_whole_set(tmp_path):
    tests = evaluation()
    hot = tests.maps.copy()
    hot[5] = 10.0  # a picture that is not shown
    brightness = []
    for maps in (tests.maps, hot):
        grid.write_grid(
            tmp_path / "grid.png", dataclasses.replace(tests, maps=maps), [2], "title", 0.5
        )
        brightness.append(cell(Image.open(tmp_path / "grid.png"), 0, 3).max())
    assert brightness[0] > 200
    assert brightness[1] < 60


def test_grid_of_a_set_without_masks_and_with_a_silent_model(tmp_path):
    tests = evaluation(masks=None, maps=np.zeros((6, SIZE, SIZE), np.float32))
    grid.write_grid(tmp_path / "grid.png", tests, [0, 2], "title", 0.5)
    picture = Image.open(tmp_path / "grid.png")
    assert np.median(cell(picture, 1, 1)) == 240
    assert cell(picture, 1, 3).max() < 8
    with pytest.raises(ValueError, match="at least 1 row"):
        grid.write_grid(tmp_path / "none.png", tests, [], "title", 0.5)


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    tables.write_metrics(path, {"a": 1.0})
    tables.write_metrics(path, {"a": 2.0})
    assert json.loads(path.read_text()) == {"a": 2.0}

    def fail(self, target):
        raise OSError("killed")

    monkeypatch.setattr(pathlib.Path, "replace", fail)
    monkeypatch.setattr(type(grid.epath.Path(path)), "replace", fail)
    with pytest.raises(OSError, match="killed"):
        tables.write_metrics(path, {"a": 3.0})
    assert json.loads(path.read_text()) == {"a": 2.0}


def test_rows_cover_every_type_evenly():
    tests = numbered(["good"] * 20 + ["hole"] * 30 + ["dent"] * 2)
    assert grid.choose_rows(tests, 8) == [3, 10, 16, 50, 51, 25, 35, 45]
    assert grid.choose_rows(tests, 2) == [10, 51]
    assert sorted(grid.choose_rows(tests, 99)) == list(range(52))
    assert grid.choose_rows(numbered(["good"] * 3), 2) == [0, 2]
    with pytest.raises(ValueError, match="at least 1 row, got 0"):
        grid.choose_rows(tests, 0)


def test_scores_csv_reads_back_exactly(tmp_path):
    tests = evaluation()
    tables.write_scores(tmp_path / "scores.csv", tests, 0.6)
    data = (tmp_path / "scores.csv").read_bytes()
    rows = list(csv.DictReader(io.StringIO(data.decode("utf-8"), newline="")))
    assert [row["name"] for row in rows] == NAMES
    assert [row["defect"] for row in rows] == DEFECTS
    assert [int(row["label"]) for row in rows] == tests.labels.tolist()
    assert [float(row["score"]) for row in rows] == tests.scores.tolist()
    verdicts = ["good", "defective", "defective", "good", "defective", "defective"]
    assert [row["verdict"] for row in rows] == verdicts
    tables.write_scores(tmp_path / "again.csv", tests, 0.6)
    assert (tmp_path / "again.csv").read_bytes() == data


def test_scores_csv_without_threshold_and_with_undecodable_name(tmp_path):
    names = [b"odd\xff.png".decode("utf-8", "surrogateescape"), *NAMES[1:]]
    tables.write_scores(tmp_path / "scores.csv", evaluation(names=names), float("nan"))
    lines = (tmp_path / "scores.csv").read_text("utf-8").splitlines()
    assert lines[1] == "odd\\udcff.png,good,0,0.1,"


def test_metrics_json_is_sorted_and_has_no_nan(tmp_path):
    values = {"b": float("nan"), "a": np.float32(0.5), "c": {"inf": np.inf, "n": np.int64(3)}}
    tables.write_metrics(tmp_path / "metrics.json", values)
    text = (tmp_path / "metrics.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": 0.5,
        "b": None,
        "c": {"inf": None, "n": 3},
    }
    assert text.index('"a"') < text.index('"b"')


def test_table():
    lines = tables.summary({"image_auroc": 0.98765, "image_ap": float("nan")}).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0][:4] == ["", "AUROC", "AP", "F1-max"]
    assert cells[2] == ["image", "0.9877", "n/a", "-", "-", "-", "-"]
    assert cells[3] == ["pixel", *["-"] * 6]
    assert len({len(line) for line in lines}) == 1


def test_training_panel():
    image = np.zeros((2, 4, 4, 3), np.float32)
    image[1] = [2.0, 0.5, -1.0]  # cut to [0, 1]
    heat = np.zeros((2, 4, 4, 1), np.float32)
    heat[1] = 1.0
    panel = grid.training_panel(image, 1 - image, heat, heat / 2)
    assert panel.shape == (4 * 2 + 2, 4 * 4 + 3 * 2, 3)
    assert panel.dtype == np.uint8
    assert (panel[6:, :4] == [255, 128, 0]).all()
    assert (panel[6:, 6:10] == [0, 128, 255]).all()
    assert panel[:4, 12:16].max() < 8 and panel[6:, 12:16].min() > 150  # inferno's ends
    assert (panel[6:, 18:] == 128).all() and (panel[:4, 18:] == 0).all()
    assert (panel[4:6] == 255).all() and (panel[:, 4:6] == 255).all()


def test_an_evaluation_must_be_of_one_length():
    with pytest.raises(ValueError, match="6 names but 1 defects"):
        evaluation(defects=["good"])
