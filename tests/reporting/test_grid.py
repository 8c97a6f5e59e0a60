"""The grid of test pictures, looked at pixel by pixel."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from diffad_jax.reporting import drawing, grid
from tests.support.evaluations import FOUND, IDENTITY, SIZE, evaluated, judged


def cell(picture, row, column):
    """The pixels of one cell of the grid, without its frame."""
    x = grid.LEFT + column * (grid.CELL + grid.GAP)
    y = grid.HEADER + row * (grid.CELL + grid.GAP)
    box = [round(v * grid.DPI) for v in (x, y, x + grid.CELL, y + grid.CELL)]
    return np.asarray(picture.crop(box))[4:-4, 4:-4, :3].astype(int)


def subset(tests, rows):
    """Some pictures of a judged set."""
    fields = {field.name: getattr(tests, field.name) for field in dataclasses.fields(tests)}
    return dataclasses.replace(
        tests,
        **{
            name: [value[row] for row in rows] if isinstance(value, list) else value[list(rows)]
            for name, value in fields.items()
            if value is not None
        },
    )


def test_grid_is_whole_and_the_same_twice(tmp_path):
    titled = dataclasses.replace(IDENTITY, category="a title with $ and 螺")
    for name in ("one.png", "two.png"):
        grid.write(tmp_path / "deep" / name, evaluated(identity=titled), 99)
    first, second = ((tmp_path / "deep" / f"{n}.png").read_bytes() for n in ("one", "two"))
    assert first == second
    picture = Image.open(io.BytesIO(first))
    assert picture.width == 1200
    assert picture.height == pytest.approx(
        grid.DPI * (grid.HEADER + 6 * (grid.CELL + grid.GAP) + grid.FOOTER), abs=1
    )
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["one.png", "two.png"]


def test_grid_shows_truth_map_and_missing_mask(tmp_path):
    tests = subset(judged(), [0, 2, 3])
    grid.write(tmp_path / "grid.png", evaluated(tests, threshold=None), 3)
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
    tests = subset(judged(), [2, 5])
    hot = tests.maps.copy()
    hot[1] = 10.0  # a picture that is not shown
    brightness = []
    for maps in (tests.maps, hot):
        shown = dataclasses.replace(tests, maps=maps)
        for found in (None, FOUND):
            grid.write(tmp_path / "grid.png", evaluated(shown, threshold=found), 1)
            brightness.append(cell(Image.open(tmp_path / "grid.png"), 0, 3).max())
    assert brightness[0] > 200
    assert brightness[2] < 60
    assert brightness[1] == brightness[3] > 200  # a threshold says where the scale ends


def test_the_threshold_has_the_middle_colour_and_is_marked(tmp_path):
    tests = subset(judged(), [0, 2])
    tests.maps[:] = 0.01
    found = dataclasses.replace(FOUND, pixel=0.01)
    for threshold in (found, None):
        grid.write(tmp_path / "grid.png", evaluated(tests, threshold=threshold), 1)
        picture = Image.open(tmp_path / "grid.png")
        seen = cell(picture, 0, 3).reshape(-1, 3)
        middle, brightest = drawing.colours(np.array([0.5, 1.0]), 1.0)
        expected = brightest if threshold is None else middle
        assert abs(seen - expected.astype(int)).max() < 8
        x = grid.LEFT + 3 * (grid.CELL + grid.GAP) + grid.CELL / 2
        bar = np.asarray(picture)[round(0.5 * grid.DPI), :, :3].astype(int)
        near = bar[round(x * grid.DPI) - 2 : round(x * grid.DPI) + 3]
        assert (near.min(axis=-1).max() > 180) == (threshold is not None)


def test_grid_of_a_set_without_masks_and_with_a_silent_model(tmp_path):
    tests = judged(masks=None, maps=np.zeros((6, SIZE, SIZE), np.float32))
    grid.write(tmp_path / "grid.png", evaluated(subset(tests, [0, 2])), 2)
    picture = Image.open(tmp_path / "grid.png")
    assert np.median(cell(picture, 1, 1)) == 240
    assert cell(picture, 1, 3).max() < 8
    with pytest.raises(ValueError, match="at least 1 row, got 0"):
        grid.write(tmp_path / "none.png", evaluated(tests), 0)


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
