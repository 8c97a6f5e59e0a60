"""PSNR, against its definition on pictures in [0, 1]."""

import numpy as np
import pytest

from diffad_jax.scoring import reconstruction
from input_pipeline.pipeline import Painted
from tests.support import helpers
from tests.support.judged import toy_scorer


def pictures(seed: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), np.uint8)


def test_definition():
    a, b = pictures(0), pictures(1)
    errors = [((x / 255 - y / 255) ** 2).mean() for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(reconstruction.psnr(a, b), -10 * np.log10(errors), rtol=1e-12)


def test_a_constant_difference_and_none():
    a = np.full((1, 8, 8, 3), 100, np.uint8)
    assert reconstruction.psnr(a, a + 25)[0] == pytest.approx(20 * np.log10(255 / 25))
    assert reconstruction.psnr(a + 25, a)[0] == reconstruction.psnr(a, a + 25)[0]
    assert np.isposinf(reconstruction.psnr(a, a)[0])


def test_only_where_asked():
    a, b = pictures(0), pictures(0)
    where = np.zeros(a.shape[:3], bool)
    where[0, 2:4, 2:4] = where[1, 5, 5] = True
    b[0, 2:4, 2:4] += 10
    b[0, 0, 0] += 99  # outside
    values = reconstruction.psnr(np.zeros_like(a), b - a, where)
    assert values[0] == pytest.approx(20 * np.log10(25.5))
    assert np.isposinf(values[1]) and np.isnan(values[2])


def test_good_pictures_alone_count():
    images = pictures(0)
    changed = images.copy()
    changed[:2] = images[:2] ^ 16  # every value differs by 16
    changed[2] = 255 - images[2]
    labels = np.array([0, 0, 1], np.int32)
    mean = reconstruction.of_good(labels, images, changed)
    assert mean == pytest.approx(20 * np.log10(255 / 16))
    assert np.isnan(reconstruction.of_good(np.ones(3, np.int32), images, changed))


def test_synthetic_anomalies_count_where_they_lie():
    """The toy reconstructs a tenth darker. More examples than a batch of it holds."""
    before = np.full((5, 32, 32, 3), 90, np.uint8)
    after, where = before.copy(), np.zeros((5, 32, 32), bool)
    where[:4, 3:7, 4:9] = True  # the last has none, and does not count
    after[where] = 200
    model = toy_scorer(helpers.parsed(evaluate__batch_size=2))
    found = reconstruction.of_painted(model, Painted(before, after, where))
    assert found == pytest.approx(20 * np.log10(255 / (180 - 90)))
    assert np.isnan(reconstruction.of_painted(model, Painted(before, after, where & False)))
