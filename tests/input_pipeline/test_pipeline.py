"""Order of the pictures and batches: permutations, resume, hosts, functions of (seed, step)."""

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

from configs import default, schema
from configs.errors import UserError
from input_pipeline import pipeline
from input_pipeline.datasets import Category, Textures
from input_pipeline.on_disk import Pictures, Stored
from input_pipeline.textures import procedural_names, procedural_textures

SIZE, N, BATCH = 32, 7, 4


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory):
    """All tests share one cache of foregrounds, outside of the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.getbasetemp()))


def options(**changes):
    return schema.DataConfig(**default.get_config().data.to_dict() | changes)


def category(kind="object", n=N):
    """Picture i is flat, with the grey level 10 + 30 i."""
    images = np.stack([np.full((SIZE, SIZE, 3), 10 + 30 * i, np.uint8) for i in range(n)])
    train = Pictures(
        images=images,
        masks=None,
        has_mask=np.zeros(n, bool),
        labels=np.zeros(n, np.int32),
        defects=["good"] * n,
        names=[f"{i}.png" for i in range(n)],
        stamps=[""] * n,
        foregrounds=None,
        has_foreground=np.zeros(n, bool),
    )
    return Category(train, train, train, kind, "data/nut")


TEXTURES = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)


def given(images=TEXTURES):
    """Texture pictures of a person's own."""
    return Textures(images, [f"{i}.jpg" for i in range(len(images))], "", procedural=False)


def procedural():
    return Textures(procedural_textures(SIZE), procedural_names(), "", procedural=True)


def take(
    count, start=0, data=None, kind="object", textures=None, some=None, seed=0, batch=BATCH, **hosts
):
    batches = pipeline.numpy_batches(
        some or category(kind),
        textures or given(),
        data or options(),
        seed=seed,
        batch_size=batch,
        start_step=start,
        **hosts,
    )
    return list(itertools.islice(batches, count))


@pytest.fixture
def light(monkeypatch):
    """A synthesis that only shows its arguments: its graph takes no time to build."""

    def show(image, foreground, texture, seed, **_):
        noise = tf.random.stateless_uniform([], seed)
        image = tf.cast(image, tf.float32) / 255.0
        source = tf.reduce_mean(tf.cast(texture(), tf.float32))
        return {"image": image, "mask": foreground() * noise, "label": noise + source}

    monkeypatch.setattr(pipeline, "synthesize", show)


def assert_same(a, b):
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_every_epoch_is_a_permutation_of_its_own(n):
    epochs = 60
    order = tf.data.Dataset.range(n * epochs).map(lambda p: pipeline.picture_index(p, n, 5))
    orders = np.fromiter(order.as_numpy_iterator(), np.int64).reshape(epochs, n)
    np.testing.assert_array_equal(np.sort(orders), np.tile(np.arange(n), (epochs, 1)))
    if n >= 7:
        assert len(np.unique(orders, axis=0)) > 0.9 * epochs
        first = np.bincount(orders[:, 0], minlength=n)
        assert first.max() < 6 * epochs / n + 6  # no picture has a fixed place


def test_orders_do_not_repeat_over_a_long_run():
    n, epochs = 16, 1000
    at = tf.function(
        lambda e: tf.map_fn(
            lambda i: pipeline.picture_index(e * n + i, n, 0), tf.range(n, dtype=tf.int64)
        )
    )
    orders = {tuple(at(tf.constant(e, tf.int64)).numpy()) for e in range(0, epochs, 2)}
    assert len(orders) > 450  # the bare op has 256


def test_batches_show_the_pictures_of_that_order(light):
    shown = np.concatenate([b["image"][:, 0, 0, 0] for b in take(5)]) * 255
    index = [int(pipeline.picture_index(tf.constant(p, tf.int64), N, 0)) for p in range(20)]
    np.testing.assert_allclose(shown, 10 + 30 * np.array(index), rtol=1e-6)


def test_every_texture_is_used_and_every_draw_is_new(light):
    batches = take(30, kind="texture")
    noise = np.concatenate([b["mask"].max((1, 2, 3)) for b in batches])
    assert len(np.unique(noise)) == len(noise) == 120
    source = np.concatenate([b["label"] for b in batches]) - noise
    used = np.bincount(np.abs(source[:, None] - TEXTURES.mean((1, 2, 3))).argmin(1), minlength=3)
    assert used.min() > 20  # of 120, 40 expected


@pytest.mark.parametrize(("kind", "textures"), [("texture", given()), ("object", procedural())])
def test_shapes_ranges_and_labels(kind, textures):
    labels = []
    for batch in take(12, kind=kind, textures=textures):
        assert batch["image"].shape == (BATCH, SIZE, SIZE, 3)
        assert batch["mask"].shape == (BATCH, SIZE, SIZE, 1)
        assert batch["label"].shape == (BATCH,)
        for value in batch.values():
            assert value.dtype == np.float32 and value.min() >= 0 and value.max() <= 1
        np.testing.assert_array_equal(batch["mask"].any((1, 2, 3)), batch["label"] == 1)
        labels.append(batch["label"])
    # About half of 48; ten or fewer, or 38 or more, has a probability of 7e-5 each.
    assert 10 < np.sum(labels) < 38


def test_outside_the_mask_the_picture_is_as_it_was():
    for batch in take(4, data=options(normal_share=0.0)):
        assert batch["label"].all()
        levels = batch["image"] * 255
        clean = np.broadcast_to(batch["mask"] == 0, levels.shape)
        for one, keep in zip(levels, clean, strict=True):
            assert np.ptp(one[keep]) == 0  # one flat grey level


def test_resuming_anywhere_gives_the_same_batches(light):
    whole = take(6)
    assert_same(take(3, start=3), whole[3:])
    assert_same(take(1, start=5), whole[5:])


def test_a_position_gives_its_example_whatever_the_batch_size(light):
    whole = {key: np.concatenate([b[key] for b in take(3)]) for key in ("image", "mask", "label")}
    for size in (1, 2, 6):
        batches = take(12 // size, batch=size)
        for key, values in whole.items():
            np.testing.assert_array_equal(np.concatenate([b[key] for b in batches]), values)


def test_a_far_step_costs_nothing_and_does_not_overflow(light):
    (late,) = take(1, start=2**40)
    (next_one,) = take(2, start=2**40 - 1)[1:]
    assert_same([late], [next_one])


def test_hosts_together_make_the_batches_of_one(light):
    whole = take(4)
    hosts = [take(4, process_index=h, process_count=2) for h in range(2)]
    joined = [
        {key: np.concatenate([host[k][key] for host in hosts]) for key in whole[0]}
        for k in range(4)
    ]
    assert_same(joined, whole)
    one_of_four = take(2, start=2, process_index=3, process_count=4)
    assert_same(one_of_four, [{k: v[3:] for k, v in batch.items()} for batch in whole[2:4]])


def test_a_resumed_host_makes_its_slice_of_the_real_batches():
    whole = take(4)
    host = take(2, start=2, process_index=1, process_count=2)
    assert_same(host, [{k: v[2:] for k, v in batch.items()} for batch in whole[2:]])


def test_nothing_sleeps_where_the_end_of_a_run_would_wait_for_it(light):
    """The thread of tf.data's autotuning does, for as long as it has been running."""
    dataset = pipeline.train_batches(
        category(), given(), options(), seed=0, batch_size=BATCH, start_step=0
    )
    assert dataset.options().autotune.enabled is False and dataset.options().deterministic


def test_thread_count_does_not_matter():
    def with_threads(count):
        dataset = pipeline.train_batches(
            category(), given(), options(), seed=0, batch_size=BATCH, start_step=0
        )
        threads = tf.data.Options()
        threads.threading.private_threadpool_size = count
        threads.threading.max_intra_op_parallelism = count
        return list(dataset.with_options(threads).take(8).as_numpy_iterator())

    assert_same(with_threads(1), with_threads(7))


def on_disk(pictures):
    """The same pictures as `Stored`, read one by one."""
    rows = [{"plane": picture} for picture in pictures]
    return Stored(rows, "plane", pictures.shape[1:], np.arange(len(pictures)))


def test_pictures_on_disk_give_the_batches_of_those_in_memory():
    files = np.random.default_rng(0).integers(0, 256, (N, SIZE, SIZE, 1), np.uint8)
    some = category()
    train = dataclasses.replace(some.train, foregrounds=files, has_foreground=np.arange(N) % 2 == 0)
    some = dataclasses.replace(some, train=train)
    there = dataclasses.replace(train, images=on_disk(train.images), foregrounds=on_disk(files))
    stored = dataclasses.replace(some, train=there)
    data = options(normal_share=0.2)
    in_memory = take(6, data=data, some=some)
    textures = given(on_disk(TEXTURES))
    assert_same(take(6, data=data, some=stored, textures=textures), in_memory)


def test_parts_are_drawn_at_random(monkeypatch):
    def show(image, foreground, texture, seed, **_):
        return {"image": tf.zeros([1]), "mask": foreground(), "label": tf.zeros([])}

    monkeypatch.setattr(pipeline, "synthesize", show)
    parts = np.stack([np.full((SIZE, SIZE, 1), 50 * i, np.uint8) for i in range(1, 6)])
    some = dataclasses.replace(category("texture"), parts=parts)
    masks = np.concatenate([batch["mask"] for batch in take(50, some=some)])
    np.testing.assert_array_equal(masks, masks[:, :1, :1] * np.ones_like(masks))
    levels = np.round(masks[:, 0, 0, 0] * 255).astype(int)
    assert set(levels) == {50, 100, 150, 200, 250}
    assert np.bincount(levels // 50)[1:].min() > 20  # of 200, 40 expected


@pytest.mark.parametrize("kind", ["object", "texture"])
def test_with_procedural_textures_half_the_anomalies_are_the_picture_s_own(
    kind, light, monkeypatch
):
    shares = []
    original = pipeline.synthesize
    monkeypatch.setattr(
        pipeline, "synthesize", lambda *a, **k: shares.append(k["own_share"]) or original(*a, **k)
    )
    labels = np.concatenate([batch["label"] for batch in take(3, kind=kind, textures=procedural())])
    bank = procedural_textures(SIZE).mean((1, 2, 3))
    assert set(shares) == {0.5}
    assert all((np.abs(label - bank - 0.5) < 0.51).any() for label in labels)


@pytest.mark.parametrize(("kind", "share"), [("object", 0.5), ("texture", 0.0)])
def test_with_textures_only_objects_are_their_own_source(kind, share, light, monkeypatch):
    shares = []
    original = pipeline.synthesize
    monkeypatch.setattr(
        pipeline, "synthesize", lambda *a, **k: shares.append(k["own_share"]) or original(*a, **k)
    )
    take(1, kind=kind)
    assert set(shares) == {share}


def test_origins_name_the_picture_and_the_texture(light):
    examples = pipeline.Examples(category(), given(), options(), 0)
    for position in range(12):
        at = tf.constant(position, tf.int64)
        example, origin = examples.example(at), examples.origin(at)
        assert abs(example["image"][0, 0, 0] * 255 - (10 + 30 * int(origin["picture"]))) < 1e-3
        noise = float(example["mask"].numpy().max())
        source = TEXTURES[int(origin["texture"])].mean()
        assert abs(float(example["label"]) - noise - source) < 1e-3


def test_the_seed_decides(light):
    a, b = take(4), take(4, seed=1)
    assert any(not np.array_equal(x["image"], y["image"]) for x, y in zip(a, b, strict=True))


def test_a_picture_gets_a_new_anomaly_each_time():
    masks = [
        mask.tobytes()
        for batch in take(14, data=options(normal_share=0.0))
        for mask in batch["mask"]
    ]
    assert len(set(masks)) > 0.9 * len(masks)


def test_anomalies_stay_in_the_foreground():
    some = category()
    files = np.zeros((N, SIZE, SIZE, 1), np.uint8)
    files[:, :, SIZE // 2 :] = 255
    train = dataclasses.replace(some.train, foregrounds=files, has_foreground=np.ones(N, bool))
    some = dataclasses.replace(some, train=train)
    masks = np.concatenate(
        [batch["mask"] for batch in take(8, some=some, data=options(normal_share=0.0))]
    )
    assert not masks[:, :, : SIZE // 2].any() and masks[:, :, SIZE // 2 :].any()


def test_tensorflow_is_kept_off_accelerators_when_batches_are_made(light, monkeypatch):
    hidden = []
    monkeypatch.setattr(
        tf.config, "set_visible_devices", lambda devices, kind: hidden.append((devices, kind))
    )
    take(1)
    assert hidden == [([], "GPU"), ([], "TPU")]


def test_accelerators_that_tensorflow_already_uses_are_said_not_fatal(monkeypatch, caplog):
    def in_use(devices, kind):
        raise RuntimeError("Visible devices cannot be modified after being initialized")

    monkeypatch.setattr(tf.config, "set_visible_devices", in_use)
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [0] * (kind == "GPU"))
    pipeline.keep_tensorflow_off_accelerators()
    (record,) = caplog.records
    assert record.getMessage().startswith("TensorFlow keeps its GPU: Visible devices cannot")


def test_pictures_before_and_after_an_anomaly_was_painted():
    shown = pipeline.painted(category(), given(), options(normal_share=1.0))
    assert len(shown.before) == len(shown.after) == pipeline.PAINTED
    changed = (shown.before != shown.after).any(-1)
    assert shown.where.any((1, 2)).mean() > 0.8 and not (changed & ~shown.where).any()
    assert changed[shown.where].mean() > 0.9
    assert np.ptp(shown.before, axis=(1, 2, 3)).max() == 0  # pictures of one grey level, as given


def test_fewer_pictures_than_a_batch():
    with pytest.raises(UserError, match=r"data/nut has 7 .* train\.batch_size=8"):
        take(1, batch=8)


def test_hosts_that_cannot_share_a_batch():
    with pytest.raises(UserError, match=r"batch_size=4 .* 3"):
        take(1, process_index=0, process_count=3)
