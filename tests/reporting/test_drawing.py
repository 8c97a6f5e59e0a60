"""Colours and outlines against matplotlib and against counting."""

import subprocess
import sys

import matplotlib
import numpy as np
import pytest

from diffad_jax.reporting import drawing


def test_colours_are_those_of_matplotlib():
    values = np.linspace(-0.5, 2.5, 20_001, dtype=np.float32).reshape(3, -1)
    expected = matplotlib.colormaps[drawing.COLOURS](np.clip(values / 2, 0, 1), bytes=True)
    np.testing.assert_array_equal(drawing.colours(values, 2.0), expected[..., :3])


def test_the_scale_ends_at_twice_the_threshold_of_pixels():
    maps = np.array([[[0.0, 0.7]], [[0.1, 0.2]]])
    assert drawing.full_scale(0.004, maps) == drawing.full_scale(0.004) == 0.008
    for missing in (None, np.nan, 0.0):
        assert drawing.full_scale(missing, maps) == 0.7
        assert drawing.full_scale(missing, 0 * maps) == drawing.full_scale(missing) == 1.0
    # The threshold has the colour in the middle, and what is called defective one from there on.
    middle = matplotlib.colormaps[drawing.COLOURS](0.5, bytes=True)[:3]
    scale = drawing.full_scale(0.004)
    np.testing.assert_array_equal(drawing.colours(np.array([0.004]), scale)[0], middle)


def area(line):
    x, y = line.T
    return abs(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2


def test_outlines_surround_each_region_and_each_hole():
    region = np.zeros((20, 30), bool)
    region[2:9, 3:13] = True
    region[4:6, 5:8] = False
    region[15:, 25:] = True  # up to the picture's corner
    lines = drawing.outlines(region)
    assert all((line[0] == line[-1]).all() for line in lines)
    # Corners are cut by an eighth of a pixel each.
    assert sorted(map(area, lines)) == pytest.approx([6 - 0.5, 25 - 0.5, 70 - 0.5], abs=0.1)
    corner = max(lines, key=lambda line: line.max())
    assert corner.max(0).tolist() == [30, 20] and corner.min(0).tolist() == [25, 15]
    assert drawing.outlines(np.zeros((4, 4), bool)) == []


def test_importing_it_is_light():
    heavy = "('jax', 'matplotlib', 'tensorflow')"
    code = f"import sys; from diffad_jax.reporting import drawing; print([m for m in {heavy} "
    code += "if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.strip() == "[]"
