"""Every draw of the input: its range, its distribution, and that no two have to do with each other.

Examples are made eagerly, with spies in the places where numbers are drawn or used.
"""

import collections
import itertools

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from configs import default, schema
from input_pipeline import augment, pipeline, synthesis
from input_pipeline.datasets import Category, Textures
from input_pipeline.on_disk import Pictures

SIZE, N, COUNT = 16, 5, 160
OPTIONS = default.get_config().data.to_dict()


def examples(seed=0, kind="object", parts=3, **changes):
    """The examples of a category of flat pictures, with textures and parts of a person's own."""
    images = np.stack([np.full((SIZE, SIZE, 3), 250 - i, np.uint8) for i in range(N)])
    train = Pictures(
        images=images,
        masks=None,
        has_mask=np.zeros(N, bool),
        labels=np.zeros(N, np.int32),
        defects=["good"] * N,
        names=[f"{i}.png" for i in range(N)],
        stamps=[""] * N,
        foregrounds=None,
        has_foreground=np.zeros(N, bool),
    )
    found = None
    if parts:
        found = np.stack([np.full((SIZE, SIZE, 1), 255 - 80 * i, np.uint8) for i in range(parts)])
    category = Category(train, train, train, kind, "data/nut", parts=found)
    textures = np.stack([np.full((SIZE, SIZE, 3), i, np.uint8) for i in range(7)])
    options = schema.DataConfig(**OPTIONS | {"foreground": "random"} | changes)
    bank = Textures(textures, [str(i) for i in range(7)], "", procedural=False)
    return pipeline.Examples(category, bank, options, seed)


@pytest.fixture
def eager(monkeypatch):
    """`switch_case` in the plain, so that the drawn ops may be replaced."""
    monkeypatch.setattr(augment, "_apply", augment._apply.python_function)


def at(position):
    return tf.constant(position, tf.int64)


@pytest.mark.parametrize("parts", [0, 3])
def test_no_two_draws_share_a_seed(eager, monkeypatch, parts):
    """Whatever is drawn: equal seeds would make equal or related numbers of two draws."""
    seeds = collections.Counter()
    for owner, name in ((tf.random, "stateless_uniform"), (tf.random, "stateless_normal")):
        original = getattr(owner, name)

        def spy(shape, seed, *args, original=original, **options):
            seeds[tuple(np.asarray(seed).tolist())] += 1
            return original(shape, seed, *args, **options)

        monkeypatch.setattr(owner, name, spy)
    # The picture's own order is the epoch's, drawn alike for all its positions.
    monkeypatch.setattr(pipeline, "picture_index", lambda position, n, seed: position % n)
    made = examples(parts=parts, normal_share=0.1)
    for position in range(30):
        made.example(at(position))
    made = examples(parts=parts, seed=1, normal_share=0.1)
    for position in range(5):
        made.example(at(position))
    assert len(seeds) > 35 * 8
    assert set(seeds.values()) == {1}


def test_the_order_s_draws_share_no_seed(monkeypatch):
    used = []
    shuffle, uniform = tf.random.experimental.index_shuffle, tf.random.stateless_uniform
    monkeypatch.setattr(
        tf.random.experimental,
        "index_shuffle",
        lambda index, seed, top: used.append(seed) or shuffle(index, seed, top),
    )
    monkeypatch.setattr(
        tf.random,
        "stateless_uniform",
        lambda shape, seed, *args: used.append(seed) or uniform(shape, seed, *args),
    )
    for seed, position in itertools.product((0, 1), (0, N, 2 * N)):
        pipeline.picture_index(at(position), N, seed)
    seeds = [tuple(np.asarray(s).tolist()) for s in used]
    assert len(seeds) == len(set(seeds)) == 6 * 3
    count = len(used)
    pipeline.picture_index(at(1), N, 0)  # the same epoch
    assert [tuple(np.asarray(s).tolist()) for s in used[count:]] == seeds[:3]


@pytest.fixture
def watched(eager, monkeypatch):
    """A function of examples and a position: all that the example is made with, by name."""
    seen = {}

    def noise(angles, periods, size):
        seen.update(zip(("period y", "period x"), np.log2(periods), strict=True))
        corner, other = angles[0, 0], angles[-1, 3]
        seen["angle"], seen["other angle"] = float(corner), float(other)
        return tf.ones([size, size])

    def turn(image, degrees):
        seen["degrees"] = float(degrees)
        return image

    def record(image, seed, index):
        place = sum(name.startswith("op ") for name in seen)
        seen[f"op {place}"] = index
        seen[f"parameter {place}"] = float(tf.random.stateless_uniform([], seed))
        return image

    blend, strips = synthesis.blend, synthesis.rearrange_strips
    levels = synthesis.match_levels

    def mix(clean, mask, source, b):
        seen["blend"], seen["part"] = float(b), round(float(tf.reduce_max(mask)) * 255)
        return blend(clean, mask, source, b)

    def match(source, image):
        seen["matched"] = 1
        return levels(source, image)

    side = np.arange(SIZE) * 8 // SIZE
    places = np.stack(np.broadcast_arrays(side[None], side[:, None]), -1)

    def moved(image, seed):
        order = strips(tf.constant(places), seed).numpy()
        seen["first column"], seen["last column"] = order[0, 0, 0], order[0, -1, 0]
        seen["first row"], seen["last row"] = order[0, 0, 1], order[-1, 0, 1]
        return strips(image, seed)

    monkeypatch.setattr(synthesis, "perlin_noise", noise)
    monkeypatch.setattr(augment, "rotate", turn)
    ops = tuple(lambda image, seed, i=i: record(image, seed, i) for i in range(10))
    monkeypatch.setattr(augment, "RANDOM_OPS", ops)
    monkeypatch.setattr(synthesis, "blend", mix)
    monkeypatch.setattr(synthesis, "rearrange_strips", moved)
    monkeypatch.setattr(synthesis, "match_levels", match)

    def watch(made, position):
        seen.clear()
        seen["matched"] = 0
        made.example(at(position))
        origin = made.origin(at(position))
        seen["own"], seen["texture"] = float(origin["own"]), int(origin["texture"])
        assert float(origin["blend"]) == seen["blend"]
        assert int(origin["matched"]) == seen["matched"]
        if not seen["own"]:  # the strips of a picture that is not its own source stay
            moved(made.image(at(0)), pipeline.Examples._example_seed(made, at(position)))
        return dict(seen)

    return watch


def test_what_an_anomaly_is_made_of(watched, monkeypatch):
    """Ranges, distributions, and the correlation of every draw with every other."""
    settings = {"normal_share": 0.0, "matched_share": 0.5}
    made = examples(**settings)
    rows = [watched(made, position) for position in range(COUNT)]
    names = sorted(rows[0])
    assert len(names) == 20 and all(sorted(row) == names for row in rows)
    # The same again for (seed, position), whatever was made before; another for another seed.
    assert watched(made, 7) == rows[7]
    assert watched(examples(**settings), 11) == rows[11]
    assert watched(examples(seed=1, **settings), 7) != rows[7]
    table = {name: np.array([float(row[name]) for row in rows]) for name in names}
    # The draw of `normal` shows with a share of it only.
    monkeypatch.setattr(synthesis, "draw_mask", lambda seed, foreground: tf.ones([SIZE, SIZE, 1]))
    halves = examples(normal_share=0.5)
    table["normal"] = np.array([1 - float(halves.example(at(p))["label"]) for p in range(COUNT)])

    for name, (low, high) in {
        "angle": (0, 2 * np.pi),
        "other angle": (0, 2 * np.pi),
        "degrees": (-90, 90),
        "blend": (0.2, 0.8),
        **{f"parameter {i}": (0, 1) for i in range(3)},
    }.items():
        values, span = table[name], high - low
        assert low <= values.min() < low + 0.04 * span, name
        assert high - 0.04 * span < values.max() <= high, name
        assert scipy.stats.kstest((values - low) / span, "uniform").pvalue > 1e-4, name
    for name, expected in {
        "period y": range(5),
        "period x": range(5),
        "part": (255, 175, 95),
        "texture": range(7),
        "own": range(2),
        "matched": range(2),
        "normal": range(2),
        "first column": (0, 2, 4, 6),
        "last column": (1, 3, 5, 7),
        "first row": range(8),
        "last row": range(8),
        **{f"op {i}": range(10) for i in range(3)},
    }.items():
        values, counts = np.unique(table[name], return_counts=True)
        assert values.tolist() == sorted(expected), name
        assert scipy.stats.chisquare(counts).pvalue > 1e-4, name

    names = sorted(table)
    numbers = np.stack([table[name] for name in names], axis=1)
    # Of the ops no two are alike, and of the rows neither.
    related = {("op 0", "op 1"), ("op 0", "op 2"), ("op 1", "op 2"), ("first row", "last row")}
    assert_unrelated(names, np.corrcoef(numbers.T) - np.eye(len(names)), related)
    both = np.corrcoef(numbers[1:].T, numbers[:-1].T)[: len(names), len(names) :]
    assert_unrelated(names, both, set())  # from one example to the next


def assert_unrelated(names, correlations, related):
    """5.5 standard deviations of a chance correlation."""
    for i, j in zip(*np.nonzero(np.abs(correlations) > 5.5 / np.sqrt(COUNT)), strict=True):
        pair = tuple(sorted((names[i], names[j])))
        assert pair in related, (pair, correlations[i, j])


@pytest.mark.parametrize("share", [0.0, 0.2, 0.9, 1.0])
def test_the_share_of_normal_pictures(monkeypatch, share):
    monkeypatch.setattr(synthesis, "draw_mask", lambda seed, foreground: tf.ones([SIZE, SIZE, 1]))
    monkeypatch.setattr(synthesis, "draw_source", lambda *_: tf.zeros([SIZE, SIZE, 3], tf.uint8))
    made = examples(normal_share=share)
    labels = tf.data.Dataset.range(1000).map(lambda p: made.example(p)["label"])
    normal = 1 - np.mean(list(labels.as_numpy_iterator()))
    assert abs(normal - share) <= 5 * np.sqrt(share * (1 - share) / 1000)


@pytest.mark.parametrize("ends", [(0.0, 0.0), (0.3, 0.5), (1.0, 1.0), (0.0, 1.0)])
def test_the_blend_s_range(monkeypatch, ends):
    """A black source over a white picture leaves the blend's share of it."""
    monkeypatch.setattr(synthesis, "draw_mask", lambda seed, foreground: tf.ones([SIZE, SIZE, 1]))
    monkeypatch.setattr(synthesis, "draw_source", lambda *_: tf.zeros([SIZE, SIZE, 3], tf.uint8))
    white = tf.fill([SIZE, SIZE, 3], tf.constant(255, tf.uint8))
    shown = tf.data.Dataset.range(400).map(
        lambda p: synthesis.synthesize(
            white,
            lambda: tf.ones([SIZE, SIZE, 1]),
            lambda: white,
            tf.stack([at(0), p]),
            own_share=0.5,
            matched_share=0.0,
            normal_share=0.0,
            blend_min=ends[0],
            blend_max=ends[1],
        )["image"][0, 0, 0]
    )
    values, span = np.array(list(shown.as_numpy_iterator())), ends[1] - ends[0]
    assert abs(values.min() - ends[0]) <= 0.02 * span + 1e-6
    assert abs(values.max() - ends[1]) <= 0.02 * span + 1e-6
    assert abs(values.mean() - np.mean(ends)) <= 0.1 * span + 1e-6


def test_a_mask_is_the_first_that_is_not_empty(monkeypatch):
    """Drawn anew with other seeds, in order: the third try's where two are empty."""
    tries = []

    def shape(seed, periods, size):
        tries.append(tuple(seed.numpy().tolist()))
        return tf.fill([size, size, 1], float(len(tries) >= 3))

    monkeypatch.setattr(synthesis, "draw_shape", shape)
    mask = synthesis.draw_mask(tf.stack([at(0), at(1)]), tf.fill([SIZE, SIZE, 1], 0.25))
    assert len(set(tries)) == len(tries) == 3
    np.testing.assert_array_equal(mask, np.full((SIZE, SIZE, 1), 0.25))


@pytest.mark.parametrize("ends", [(0.0, 0.0), (0.3, 0.5), (0.9, 1.0)])
def test_the_blend_of_the_options(ends):
    made = examples(blend_min=ends[0], blend_max=ends[1])
    blends = [float(made.origin(at(position))["blend"]) for position in range(8)]
    assert all(ends[0] <= b <= ends[1] for b in blends)
    assert len(set(blends)) == (1 if ends[0] == ends[1] else 8)


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_the_share_of_matched_levels(share):
    made = examples(matched_share=share)
    drawn = tf.data.Dataset.range(1000).map(lambda p: made.origin(p)["matched"])
    matched = np.mean(list(drawn.as_numpy_iterator()))
    assert abs(matched - share) <= 5 * np.sqrt(share * (1 - share) / 1000)


@pytest.mark.parametrize("source", ["bright", "flat", "nearly flat"])
def test_levels_of_the_picture(source):
    """Against NumPy in float64: mean and spread of each channel, clipped and rounded."""
    rng = np.random.default_rng(3)
    low, high = {"bright": (100, 256), "flat": (90, 91), "nearly flat": (90, 92)}[source]
    image = rng.integers(low, high, (24, 16, 3), np.uint8)
    dark = np.clip(rng.normal([20, 9, 250], [9, 1, 4], (24, 16, 3)), 0, 255).astype(np.uint8)
    spread = np.maximum(image.std((0, 1)), 2.55)
    moved = (image - image.mean((0, 1))) / spread * dark.std((0, 1)) + dark.mean((0, 1))
    expected = np.clip(moved, 0, 255)
    made = synthesis.match_levels(tf.constant(image), tf.constant(dark)).numpy()
    assert np.abs(made - expected).max() <= 0.5 + 1e-3
    assert np.abs(made.mean((0, 1)) - dark.mean((0, 1))).max() < 1
    if source == "bright":
        assert np.abs(made.std((0, 1)) - dark.std((0, 1))).max() < 0.5
    else:
        assert (made.std((0, 1)) <= dark.std((0, 1))).all()
