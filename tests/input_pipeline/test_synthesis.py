"""Noise against the reference's, and the statistics and rules of the synthesis."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from scipy import ndimage

from configs.errors import UserError
from input_pipeline import augment, synthesis
from tests.support import goldens_io

SIZE = 64
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
TEXTURE = RNG.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
FULL = np.ones((SIZE, SIZE, 1), np.float32)
MADE = {"own_share": 0.5, "matched_share": 0.0, "blend_min": 0.2, "blend_max": 0.8}
PAPER = MADE | {"normal_share": 0.5}
NOISE = goldens_io.load("perlin")


def seed(index: int) -> tf.Tensor:
    return tf.constant([11, index], tf.int64)


def over_seeds(function, count: int, **options):
    """`function(seed)` in the graph for seeds 0..count-1, stacked."""
    # Without autograph, which has nothing to convert and takes long.
    numbered = tf.autograph.experimental.do_not_convert(
        lambda i: function(tf.stack([tf.constant(11, tf.int64), i]))
    )
    data = tf.data.Dataset.range(count).map(numbered, **options)
    return next(iter(data.batch(count).as_numpy_iterator()))


def synthesized(count, foreground=FULL, image=IMAGE, texture=TEXTURE, **changed):
    return over_seeds(
        lambda example_seed: synthesis.synthesize(
            tf.constant(image),
            lambda: tf.constant(foreground),
            lambda: tf.constant(texture),
            example_seed,
            **{**PAPER, **changed},
        ),
        count,
    )


@pytest.fixture(scope="module")
def paper():
    """400 examples with the paper's settings and a full foreground."""
    return synthesized(400)


@pytest.fixture
def fixed_source(monkeypatch):
    """The anomaly source is TEXTURE as it is."""
    monkeypatch.setattr(synthesis, "draw_source", lambda *_: tf.constant(TEXTURE))


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("case", list(NOISE))
def test_noise_matches_the_reference(case, padding):
    size, rows, columns = map(int, case.split("_"))
    angles = 2 * np.pi * goldens_io.draw(f"perlin/{case}", (rows + 1, columns + 1), "uniform")
    # Grid points past the periods must not matter.
    angles = np.pad(angles, ((0, padding), (0, padding)), constant_values=1.0)
    noise = synthesis.perlin_noise(
        tf.constant(angles, tf.float32), tf.constant([rows, columns]), size
    )
    np.testing.assert_allclose(noise.numpy(), NOISE[case], atol=1e-5)


def test_periods_are_independent_powers_of_two():
    count = 3600
    periods = over_seeds(lambda s: synthesis.draw_periods(s, 256), count)
    exponents = np.log2(periods)
    assert set(exponents.ravel()) == set(range(6))
    cells = np.histogram2d(exponents[:, 0], exponents[:, 1], bins=6)[0]
    assert np.abs(cells - count / 36).max() < 5 * np.sqrt(count / 36)


def test_periods_never_exceed_the_picture():
    periods = over_seeds(lambda s: synthesis.draw_periods(s, 8), 200)
    assert set(periods.ravel()) == {1, 2, 4, 8}


def test_shape_is_the_turned_noise_above_the_threshold(monkeypatch):
    turned = []
    original = augment.rotate
    monkeypatch.setattr(
        augment, "rotate", lambda image, d: turned.append((float(d), image)) or original(image, d)
    )
    for index in range(60):
        shape = synthesis.draw_shape(seed(index), tf.constant([4, 2]), SIZE).numpy()
        degrees, noise = turned[-1]
        np.testing.assert_array_equal(shape, original(noise, degrees).numpy() > 0.5)
    degrees = np.array([d for d, _ in turned])
    assert -90 <= degrees.min() < -75 and 75 < degrees.max() <= 90


def test_share_of_normal_pictures(paper):
    assert abs(paper["label"].mean() - 0.5) < 0.12
    assert synthesized(20, normal_share=1.0)["label"].sum() == 0
    # With both periods 32 at 64 px, all 50 draws may stay empty.
    assert synthesized(40, normal_share=0.0)["label"].mean() > 0.9


def test_label_mask_and_picture_agree(paper):
    image, mask, label = paper["image"], paper["mask"], paper["label"]
    assert image.dtype == mask.dtype == label.dtype == np.float32
    assert image.shape[1:] == (SIZE, SIZE, 3) and mask.shape[1:] == (SIZE, SIZE, 1)
    assert image.min() >= 0 and image.max() <= 1
    assert set(np.unique(mask)) == {0.0, 1.0}
    np.testing.assert_array_equal(label, mask.max((1, 2, 3)) > 0)
    clean = np.broadcast_to(IMAGE / np.float32(255), image.shape)
    untouched = np.broadcast_to(mask == 0, image.shape)
    np.testing.assert_array_equal(image[untouched], clean[untouched])
    share = mask[label > 0].mean()
    assert 0.02 < share < 0.3  # of the pixels


def test_blend_by_its_definition(fixed_source):
    foreground = FULL * np.linspace(0, 1, SIZE, dtype=np.float32)[None, :, None]  # soft
    result = synthesized(300, foreground)
    x, source = IMAGE / 255.0, TEXTURE / 255.0
    blends = []
    for image, mask in zip(result["image"], result["mask"], strict=True):
        if mask.max() == 0:
            continue
        np.testing.assert_array_equal(mask[mask > 0], foreground[mask > 0])
        change = mask * (source - x)  # image - x = (1 - b) change
        b = 1 - ((image - x) * change).sum() / (change**2).sum()
        blends.append(b)
        expected = (1 - mask) * x + mask * ((1 - b) * source + b * x)
        np.testing.assert_allclose(image, expected, atol=1e-6)
    assert 0.2 <= min(blends) < 0.24 and 0.76 < max(blends) <= 0.8
    assert abs(np.mean(blends) - 0.5) < 0.06


def test_empty_foreground_leaves_the_picture():
    result = synthesized(10, 0 * FULL, normal_share=0.0)
    assert result["label"].sum() == 0 and result["mask"].max() == 0
    np.testing.assert_array_equal(result["image"], np.stack([IMAGE / np.float32(255)] * 10))


def test_mask_is_drawn_up_to_fifty_times_with_the_same_periods(monkeypatch):
    calls = []

    def empty(draw_seed, periods, size):
        calls.append((tuple(draw_seed.numpy()), tuple(periods.numpy())))
        return tf.zeros([size, size, 1])

    monkeypatch.setattr(synthesis, "draw_shape", empty)
    mask = synthesis.draw_mask(seed(0), tf.constant(FULL))
    assert mask.numpy().max() == 0
    assert len(calls) == 50
    assert len({draw_seed for draw_seed, _ in calls}) == 50
    assert len({periods for _, periods in calls}) == 1


def test_mask_is_drawn_until_it_meets_a_small_foreground():
    spot = 0 * FULL
    spot[30:32, 30:32] = 0.7
    masks = over_seeds(lambda s: synthesis.draw_mask(s, tf.constant(spot)), 80)
    assert (masks.max((1, 2, 3)) > 0).mean() > 0.7
    assert set(np.unique(masks)) <= {np.float32(0), np.float32(0.7)}

    def once(s):
        return synthesis.draw_shape(s, synthesis.draw_periods(s, SIZE), SIZE) * spot

    assert (over_seeds(once, 80).max((1, 2, 3)) > 0).mean() < 0.3


@pytest.mark.parametrize("own_share", [0.0, 0.5, 1.0])
def test_share_of_own_pieces(own_share, monkeypatch):
    # No op, so that a source shows where it comes from: the texture is flat, the image is not.
    monkeypatch.setattr(augment, "random_ops", lambda image, _: image)
    flat = tf.fill([SIZE, SIZE, 3], tf.constant(9, tf.uint8))

    def source_and_origin(s):
        source = synthesis.draw_source(tf.constant(IMAGE), lambda: flat, s, own_share)
        return source, synthesis.origin(s, **MADE | {"own_share": own_share})["own"]

    sources, said = over_seeds(source_and_origin, 200)
    own = (sources != 9).any((1, 2, 3))
    np.testing.assert_array_equal(own, said)
    assert abs(own.mean() - own_share) < (0.17 if 0 < own_share < 1 else 1e-9)
    for source in sources[own]:  # nothing lost, everything moved by whole strips
        np.testing.assert_array_equal(np.sort(source, axis=None), np.sort(IMAGE, axis=None))


@pytest.mark.parametrize("own_share", [0.0, 1.0])
def test_source_passes_the_ops_before_its_strips_move(own_share, monkeypatch):
    monkeypatch.setattr(augment, "random_ops", lambda image, _: image // 2)
    source = synthesis.draw_source(
        tf.constant(IMAGE), lambda: tf.constant(TEXTURE), seed(1), own_share
    )
    if own_share:
        moved = synthesis.rearrange_strips(tf.constant(IMAGE // 2), seed(1))
        np.testing.assert_array_equal(source, moved)
    else:
        np.testing.assert_array_equal(source, TEXTURE // 2)


def test_origin_says_what_the_example_is_made_of(fixed_source, monkeypatch):
    result = synthesized(60, normal_share=0.0)
    said = over_seeds(lambda s: synthesis.origin(s, **MADE), 60)
    x, source = IMAGE / 255.0, TEXTURE / 255.0
    for image, mask, blend in zip(result["image"], result["mask"], said["blend"], strict=True):
        expected = (1 - mask) * x + mask * ((1 - blend) * source + blend * x)
        np.testing.assert_allclose(image, expected, atol=1e-6)
    assert np.ptp(said["blend"]) > 0.4
    # The ops: those that `random_ops` calls.
    monkeypatch.undo()
    called = []
    recorders = tuple(
        lambda image, seed, index=index: called.append(index) or image for index in range(10)
    )
    monkeypatch.setattr(augment, "RANDOM_OPS", recorders)
    monkeypatch.setattr(augment, "_apply", augment._apply.python_function)
    for index in range(5):
        called.clear()
        synthesis.draw_source(tf.constant(IMAGE), lambda: tf.constant(TEXTURE), seed(index), 0.5)
        assert called == said["ops"][index].tolist()


def test_a_normal_example_reads_neither_foreground_nor_texture():
    def never():
        return tf.numpy_function(lambda: 1 / 0, [], tf.uint8)

    example = tf.function(
        lambda: synthesis.synthesize(
            tf.constant(IMAGE),
            lambda: tf.ensure_shape(tf.cast(never(), tf.float32), FULL.shape),
            lambda: tf.ensure_shape(never(), TEXTURE.shape),
            seed(0),
            **{**PAPER, "normal_share": 1.0},
        ),
        autograph=False,
    )
    assert example()["label"] == 0


def test_anomaly_areas_are_those_of_the_definition(paper):
    """The distribution of the anomalous share, against a slow implementation in NumPy."""
    rng = np.random.default_rng(1)
    expected = [slow_area(rng) for _ in range(300)]
    areas = paper["mask"][paper["label"] > 0].mean((1, 2, 3))
    assert scipy.stats.ks_2samp(areas, expected).pvalue > 1e-3


def slow_area(rng):
    """Share of anomalous pixels of one mask by the definition; drawn again while it is empty."""
    periods = 2 ** rng.integers(0, 6, 2)
    for _ in range(50):
        angles = 2 * np.pi * rng.random(periods + 1)
        row, column = np.meshgrid(*[np.arange(SIZE) * p / SIZE for p in periods], indexing="ij")
        i, j = row.astype(int), column.astype(int)
        v, u = row - i, column - j
        noise = 0
        for di in (0, 1):
            for dj in (0, 1):
                a = angles[i + di, j + dj]
                dot = np.cos(a) * (v - di) + np.sin(a) * (u - dj)
                noise += dot * fade(1 - abs(v - di)) * fade(1 - abs(u - dj))
        turned = ndimage.rotate(noise * np.sqrt(2), rng.uniform(-90, 90), reshape=False, order=1)
        if (turned > 0.5).any():
            return (turned > 0.5).mean()
    return 0.0


def fade(t):
    return 6 * t**5 - 15 * t**4 + 10 * t**3


def test_strips_are_permuted():
    side = np.arange(32)
    # Channels: column strip, row strip, place within both strips.
    image = np.stack(
        [
            np.broadcast_to(side // 4, (32, 32)),
            np.broadcast_to(side[:, None] // 4, (32, 32)),
            side[:, None] % 4 * 4 + side % 4,
        ],
        axis=-1,
    )
    results = over_seeds(lambda s: synthesis.rearrange_strips(tf.constant(image), s), 300)
    first_columns, first_rows, orders = set(), set(), set()
    for result in results:
        columns, rows = result[0, ::4, 0], result[::4, 0, 1]
        np.testing.assert_array_equal(result[..., 0], np.tile(np.repeat(columns, 4), (32, 1)))
        np.testing.assert_array_equal(result[..., 1], np.tile(np.repeat(rows, 4), (32, 1)).T)
        np.testing.assert_array_equal(result[..., 2], image[..., 2])
        assert sorted(columns[:4]) == [0, 2, 4, 6] and sorted(columns[4:]) == [1, 3, 5, 7]
        assert sorted(rows) == list(range(8))
        first_columns.add(columns[0])
        first_rows.add(rows[0])
        orders.add((*columns, *rows))
    assert first_columns == {0, 2, 4, 6} and first_rows == set(range(8))
    assert len(orders) == 300


def test_strips_need_a_divisible_size():
    with pytest.raises(UserError, match="36x36 px does not divide into 8"):
        synthesis.rearrange_strips(tf.zeros([36, 36, 3]), seed(0))


def test_equal_seeds_give_equal_bits_whatever_the_threads():
    pictures = tf.constant(np.stack([IMAGE, TEXTURE]))

    def example(i):
        return synthesis.synthesize(
            pictures[i % 2],
            lambda: tf.constant(FULL),
            lambda: pictures[(i + 1) % 2],
            tf.stack([tf.constant(11, tf.int64), i]),
            **PAPER,
        )

    example = tf.autograph.experimental.do_not_convert(example)

    def examples(threads):
        options = tf.data.Options()
        options.threading.private_threadpool_size = threads
        options.threading.max_intra_op_parallelism = threads
        data = tf.data.Dataset.range(60).map(example, num_parallel_calls=threads)
        return list(data.with_options(options).as_numpy_iterator())

    alone, threaded = examples(1), examples(4)
    for a, b in zip(alone, threaded, strict=True):
        for key in ("image", "mask", "label"):
            np.testing.assert_array_equal(a[key], b[key])
    anomalous = [a["image"].tobytes() for a in alone if a["label"]]
    assert len(set(anomalous)) == len(anomalous) > 15


def test_the_clean_picture_changes_nothing_else():
    plain, both = synthesized(8), synthesized(8, with_clean=True)
    assert "clean" not in plain
    np.testing.assert_array_equal(both.pop("clean"), np.stack([IMAGE] * 8).astype("f4") / 255)
    for name, values in plain.items():
        np.testing.assert_array_equal(both[name], values)
