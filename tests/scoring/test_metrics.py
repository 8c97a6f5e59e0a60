import collections
import itertools
import logging

import jaxtyping
import numpy as np
import pytest
import sklearn.metrics

from configs.errors import UserError
from configs.schema import MEASURES
from diffad_jax.scoring import metrics, ranking
from tests.support import goldens_io

CASES = ("smooth", "saturated", "ties")
ENDS = {f"image_{name}_{end}" for name in ("auroc", "ap", "f1_max") for end in ("low", "high")}
IMAGE = {"image_auroc", "image_ap", "image_f1_max", "image_f1_threshold"} | ENDS
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
    assert set(MEASURES) <= {k.split("/")[1] for k in golden}
    for key, value in got.items():
        if f"{case}/{key}" in golden:
            assert value == pytest.approx(float(golden[f"{case}/{key}"]), abs=1e-6), key


@pytest.mark.parametrize("seed", range(80))
def test_against_sklearn_and_the_definition(seed):
    masks, maps = random_case(seed)
    labels, scores = masks.ravel(), maps.ravel()
    got = metrics.of_pixels(ranking.rank_pixels(masks, maps))
    area = sklearn.metrics.roc_auc_score(labels, scores)
    assert got["pixel_auroc"] == pytest.approx(area, abs=1e-12)
    assert metrics.auroc(labels, scores) == pytest.approx(area, abs=1e-12)
    area = sklearn.metrics.average_precision_score(labels, scores)
    assert got["pixel_ap"] == pytest.approx(area, abs=1e-12)
    assert metrics.average_precision(labels.astype(np.int32), scores) == pytest.approx(
        area, abs=1e-12
    )
    f1, threshold = metrics.f1_max(labels, scores)
    assert (got["pixel_f1_max"], got["pixel_f1_threshold"]) == (f1, threshold)
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
    """scikit-learn refuses them."""
    scores = np.array([-np.inf, 0.0, np.inf, np.inf])
    assert metrics.auroc(np.array([0, 0, 1, 1]), scores) == 1
    assert metrics.auroc(np.array([1, 0, 1, 0]), scores) == pytest.approx(0.375)


def test_without_masks_there_are_only_image_measures():
    got = metrics.evaluate(np.array([0, 1]), np.array([0.1, 0.7]), None, np.zeros((2, 4, 4)))
    assert got.pop("image_f1_threshold") == pytest.approx(0.4)  # between the two
    assert got == dict.fromkeys(IMAGE - {"image_f1_threshold"}, 1)


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
    with pytest.raises(UserError, match="1 of 2 scores of items are NaN"):
        metrics.auroc(labels, np.array([np.nan, 0.0]))
    maps = np.zeros((2, 2, 2))
    maps[0, 0] = np.nan
    with pytest.raises(UserError, match="2 of 8 scores of pixels are NaN"):
        metrics.evaluate(labels, np.zeros(2), masks, maps)
    with pytest.raises(UserError, match=r"labels must be 0 .* got 2"):
        metrics.f1_max(np.array([0, 2]), np.zeros(2))
    with pytest.raises(UserError, match=r"limit must be in .* got 1\.5"):
        metrics.aupro(masks, np.zeros((2, 2, 2)), 1.5)


def test_shapes_that_differ():
    # Run-time shape checks, where they are on, speak first.
    either = (ValueError, jaxtyping.TypeCheckError)
    with pytest.raises(either):
        metrics.auroc(np.array([0, 1]), np.zeros(3))
    with pytest.raises(either):
        metrics.aupro(np.zeros((1, 2, 2), bool), np.zeros((1, 2, 3)))


def slow_threshold(labels, scores):
    """Midway between the highest score with the best F1 and the next lower one, or a hair below."""
    distinct = np.unique(scores)
    best = max((round(sklearn.metrics.f1_score(labels, scores >= t), 12), t) for t in distinct)[1]
    lower = distinct[distinct < best]
    return (best + lower[-1]) / 2 if lower.size else best - min(1e-6, best / 2)


@pytest.mark.parametrize("seed", range(12))
def test_the_threshold_lies_between_two_scores(seed):
    masks, maps = random_case(seed)
    labels, scores = masks.ravel(), maps.ravel().astype(np.float64)
    threshold = metrics.f1_max(labels, scores)[1]
    assert threshold == pytest.approx(slow_threshold(labels, scores), rel=1e-12)


@pytest.mark.parametrize("good", [0.5, 0.9])
def test_the_next_lower_score_is_of_either_class(good):
    """Also where no good item lies below; minus infinity where none at all does."""
    table = ranking.rank_items(np.array([1, 0, 1]), np.array([0.2, good, 0.7]), "items")
    assert table.scores.tolist() == [0.7, 0.2]
    assert table.below.tolist() == [0.5 if good < 0.7 else 0.2, -np.inf]


def test_a_threshold_between_neighbouring_floats_still_parts_them():
    low = np.float32(0.5)
    high = np.nextafter(low, np.float32(1))
    threshold = metrics.f1_max(np.array([0, 1]), np.array([low, high]))[1]
    assert (np.array([low, high]) >= threshold).tolist() == [False, True]


def slow_bootstrap(labels, scores, rounds):
    """Test sets drawn picture by picture; the measures themselves are proved above."""
    rng, results = np.random.default_rng(1), []
    groups = [np.flatnonzero(labels == label) for label in (0, 1)]
    for _ in range(rounds):
        chosen = np.concatenate([rng.choice(group, group.size) for group in groups])
        table = ranking.rank_items(labels[chosen], scores[chosen], "pictures")
        found = metrics.of_pixels(table)  # the same measures, of any items
        results.append([found[f"pixel_{name}"] for name in ("auroc", "ap", "f1_max")])
    return np.percentile(results, (2.5, 97.5), axis=0).T


def test_intervals_are_those_of_resampled_test_sets():
    rng = np.random.default_rng(3)
    labels = np.arange(30) % 3 // 2
    scores = np.round(rng.standard_normal(30) + labels, 1)  # with ties
    got = metrics.bootstrap(labels, scores)
    # 2000 resamples on our side, 1000 on the other: the ends of both scatter by about 0.01.
    assert np.array(list(got.values())) == pytest.approx(
        slow_bootstrap(labels, scores, 1000), abs=0.03
    )
    assert metrics.bootstrap(labels, scores) == got
    assert metrics.bootstrap(labels, scores, seed=1) != got
    order = rng.permutation(30)
    assert metrics.bootstrap(labels[order], scores[order]) == got


def test_a_tie_counts_one_half_in_every_resample():
    got = metrics.bootstrap(np.arange(20) % 2, np.full(20, 0.3))
    assert got == {"auroc": (0.5, 0.5), "ap": (0.5, 0.5), "f1_max": (2 / 3, 2 / 3)}


def test_intervals_cover():
    """95 % of the intervals of small test sets hold the value of the whole population (0.760)."""
    rng, hold = np.random.default_rng(0), 0
    labels = np.arange(100) % 2
    for _ in range(60):
        low, high = metrics.bootstrap(labels, rng.standard_normal(100) + labels)["auroc"]
        hold += low <= 0.7602 <= high
    assert 51 <= hold < 60  # 57 expected; a sound interval falls outside once in 10^3 and 20 times


def test_the_mean_over_categories(caplog):
    a = dict.fromkeys(MEASURES, 0.5)
    b = {name: 0.75 for name in metrics.IMAGE_MEASURES} | {"pixel_ap": float("nan")}
    b["image_f1_threshold"] = 0.1  # means of thresholds mean nothing
    got = metrics.mean({"bottle": a, "screw": b})
    assert got == dict.fromkeys(metrics.IMAGE_MEASURES, 0.625) | dict.fromkeys(
        metrics.PIXEL_MEASURES, 0.5
    )
    assert "the mean pixel_ap leaves out screw: not defined" in caplog.text
    assert "image_ap" not in caplog.text
    nothing = metrics.mean({"bottle": {"image_ap": None}})
    assert set(nothing) == set(a) and all(np.isnan(value) for value in nothing.values())
