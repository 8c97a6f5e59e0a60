import collections
import itertools
import logging

import jaxtyping
import numpy as np
import pytest
import sklearn.metrics

from diffad_jax import metrics
from tests import goldens_io

CASES = ("smooth", "saturated", "ties")
IMAGE = {"image_auroc", "image_ap", "image_f1_max", "image_f1_threshold"}
PIXEL = {"pixel_auroc", "pixel_ap", "pixel_f1_max", "pixel_f1_threshold", "aupro_30", "aupro_05"}


def regions_by_flooding(mask):
    """Pixel lists of the 8-connected regions of one mask."""
    left, regions = set(zip(*np.nonzero(mask), strict=True)), []
    while left:
        queue, region = collections.deque([left.pop()]), []
        while queue:
            y, x = queue.popleft()
            region.append((y, x))
            near = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            queue.extend(near)
        regions.append(region)
    return regions


def slow_aupro(masks, maps, limit):
    """The definition, threshold by threshold, with the curve integrated piece by piece."""
    regions = [
        [maps[n][pixel] for pixel in region]
        for n, mask in enumerate(masks)
        for region in regions_by_flooding(mask)
    ]
    points = [(0.0, 0.0)]
    for threshold in sorted(set(maps.ravel().tolist()), reverse=True):
        overlap = np.mean([np.mean([v >= threshold for v in region]) for region in regions])
        points.append((np.mean(maps[~masks] >= threshold), overlap))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 >= limit or x1 == x0:
            continue
        end = min(x1, limit)
        area += (end - x0) * (y0 + y0 + (y1 - y0) * (end - x0) / (x1 - x0)) / 2
    return area / limit


def slow_f1_max(labels, scores):
    return max(sklearn.metrics.f1_score(labels, scores >= t) for t in np.unique(scores))


def random_case(seed):
    """Small masks of any density and maps of one of four kinds, both classes present."""
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 4)), int(rng.integers(2, 9)), int(rng.integers(2, 9)))
    masks = rng.random(shape) < rng.choice([0.1, 0.4, 0.8])
    masks.ravel()[:2] = True, False
    maps = rng.standard_normal(shape) + rng.choice([0.0, 1.0]) * masks
    kind = seed % 4
    if kind == 1:
        maps = np.round(maps)  # few distinct values
    elif kind == 2:
        maps = np.clip(maps, 0, 0.4)  # saturated at both ends
    elif kind == 3:
        maps = np.full(shape, 0.5)  # says nothing
    return masks, maps.astype(np.float32)


@pytest.mark.parametrize("case", CASES)
def test_goldens(case):
    golden = goldens_io.load("metrics")
    masks = golden[f"{case}/masks"]
    got = metrics.evaluate(
        masks.any((1, 2)), golden[f"{case}/image_scores"], masks, golden[f"{case}/scores"]
    )
    assert set(got) == IMAGE | PIXEL
    for key, value in got.items():
        if not key.endswith("threshold"):
            assert value == pytest.approx(float(golden[f"{case}/{key}"]), abs=1e-6), key


@pytest.mark.parametrize("seed", range(80))
def test_against_sklearn_and_the_definition(seed):
    masks, maps = random_case(seed)
    labels, scores = masks.ravel(), maps.ravel()
    assert metrics.auroc(labels, scores) == pytest.approx(
        sklearn.metrics.roc_auc_score(labels, scores), abs=1e-12
    )
    assert metrics.average_precision(labels.astype(np.int32), scores) == pytest.approx(
        sklearn.metrics.average_precision_score(labels, scores), abs=1e-12
    )
    f1, threshold = metrics.f1_max(labels, scores)
    assert f1 == pytest.approx(slow_f1_max(labels, scores), abs=1e-12)
    assert sklearn.metrics.f1_score(labels, scores >= threshold) == pytest.approx(f1, abs=1e-12)
    for limit in (0.05, 0.3, 1.0):
        expected = slow_aupro(masks, maps, limit)
        assert metrics.aupro(masks, maps, limit) == pytest.approx(expected, abs=1e-12)


def test_diagonal_pixels_are_one_region_and_pictures_do_not_touch():
    # Two regions: a diagonal pair, and a pixel of the next picture that lies under one of the pair.
    masks = np.array([[[1, 0], [0, 1]], [[1, 0], [0, 0]]], bool)
    maps = np.zeros((2, 2, 2), np.float32)
    maps[1, 0, 0] = 1
    # Overlap (0 + 1) / 2 before the first false alarm, then straight to 1 at rate 1.
    assert metrics.aupro(masks, maps, 1.0) == pytest.approx(0.75)
    assert metrics.aupro(masks, maps, 0.5) == pytest.approx(0.625)


def test_aupro_over_lone_pixels_is_auroc():
    rng = np.random.default_rng(0)
    masks = np.zeros((3, 16, 16), bool)
    masks[:, ::2, ::2] = True
    maps = np.round(rng.standard_normal(masks.shape) + masks, 1)
    expected = metrics.auroc(masks.ravel(), maps.ravel())
    assert metrics.aupro(masks, maps, 1.0) == pytest.approx(expected, abs=1e-12)


def test_only_the_order_of_scores_matters():
    masks, maps = random_case(8)
    labels = np.arange(len(maps)) % 2
    labels[0], scores = 1, maps.max((1, 2))
    before = metrics.evaluate(labels, scores, masks, maps)
    after = metrics.evaluate(labels, 7 * scores - 3, masks, np.exp(maps.astype(np.float64)))
    for key in (IMAGE | PIXEL) - {"image_f1_threshold", "pixel_f1_threshold"}:
        assert after[key] == pytest.approx(before[key], abs=1e-12)


def test_infinite_scores_rank_last_and_first():
    scores = np.array([-np.inf, 0.0, np.inf, np.inf])
    assert metrics.auroc(np.array([0, 0, 1, 1]), scores) == 1
    assert metrics.auroc(np.array([1, 0, 1, 0]), scores) == pytest.approx(0.375)


def test_without_masks_there_are_only_image_measures():
    got = metrics.evaluate(np.array([0, 1]), np.array([0.1, 0.7]), None, np.zeros((2, 4, 4)))
    assert got == {"image_auroc": 1, "image_ap": 1, "image_f1_max": 1, "image_f1_threshold": 0.7}


@pytest.mark.parametrize(("label", "empty"), [(0, "no defective"), (1, "no good")])
def test_an_empty_class_gives_nan_and_a_word(label, empty, caplog):
    masks = np.full((3, 4, 4), bool(label))
    with caplog.at_level(logging.WARNING):
        got = metrics.evaluate(np.full(3, label), np.arange(3.0), masks, np.zeros((3, 4, 4)))
    assert set(got) == IMAGE | PIXEL
    assert all(np.isnan(value) for value in got.values())
    assert [r.getMessage().split(":")[0] for r in caplog.records] == [
        f"{empty} pictures",
        f"{empty} pixels",
    ]


def test_nothing_at_all_is_nan(caplog):
    nothing = np.zeros(0)
    assert np.isnan(metrics.auroc(nothing.astype(bool), nothing))
    assert np.isnan(metrics.aupro(np.zeros((0, 4, 4), bool), np.zeros((0, 4, 4))))
    assert "no defective and good" in caplog.text


def test_bad_input_is_one_line():
    labels, masks = np.array([0, 1]), np.zeros((2, 2, 2), bool)
    with pytest.raises(ValueError, match="1 of 2 scores of items are NaN"):
        metrics.auroc(labels, np.array([np.nan, 0.0]))
    maps = np.zeros((2, 2, 2))
    maps[0, 0] = np.nan
    with pytest.raises(ValueError, match="2 of 8 scores of pixels are NaN"):
        metrics.evaluate(labels, np.zeros(2), masks, maps)
    with pytest.raises(ValueError, match=r"labels must be 0 .* got 2"):
        metrics.f1_max(np.array([0, 2]), np.zeros(2))
    with pytest.raises(ValueError, match=r"limit must be in .* got 1\.5"):
        metrics.aupro(masks, np.zeros((2, 2, 2)), 1.5)


def test_shapes_that_differ():
    # Run-time shape checks, where they are on, speak first.
    either = (ValueError, jaxtyping.TypeCheckError)
    with pytest.raises(either):
        metrics.auroc(np.array([0, 1]), np.zeros(3))
    with pytest.raises(either):
        metrics.aupro(np.zeros((1, 2, 2), bool), np.zeros((1, 2, 3)))
