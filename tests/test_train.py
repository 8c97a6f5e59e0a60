"""The loop: logs, evaluation, resume, stops and refusals, with networks of one number each."""

import itertools
import json
import signal
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tensorboardX.proto import event_pb2

from configs.errors import UserError
from diffad_jax import evaluate, train
from diffad_jax.method import judging, steps, train_state
from diffad_jax.runs import checkpoint, logs, sharding, stopping
from diffad_jax.scoring import scorer, threshold
from input_pipeline import pipeline
from tests.support import folders, helpers

# Defining the real ones takes seconds.
UNUSED = (nnx.graphdef(nnx.Module()),) * 2


def toy_init(config, optimizer, key, pictures=None):
    variables = train_state.Variables(
        {name: {"w": jnp.zeros(())} for name in ("unet", "segmentation")}, {}
    )
    return train_state.start(variables, optimizer)


def toy_step(state, batch, key, networks, optimizer, config):
    """Moves by the batch and the key, so that a wrong batch, step or key shows in the result."""
    draw = jax.random.normal(jax.random.fold_in(key, state.step), ())
    move = jnp.mean(batch["image"]) + 0.1 * draw
    variables = jax.tree.map(lambda w: 0.9 * w + move, state.variables)
    new = train_state.TrainState(state.step + 1, variables, state.opt_state, variables)
    return new, {"loss": move, "noise_loss": 2 * move}


def toy_evaluate(variables, image, noises, networks, config):
    w = variables.params["unet"]["w"]
    anomaly_map = jax.nn.sigmoid(w * image[..., :1] - image[..., 1:2])
    return judging.Judgement(anomaly_map.max((1, 2, 3)), anomaly_map, 0.9 * image)


def toy_batches(category, textures, data, *, seed, batch_size, start_step, **_):
    """Noise that depends on the step; the real pipeline is proved by its own tests."""
    for step in itertools.count(start_step):
        image = np.random.default_rng(step).random((batch_size, 32, 32, 3), np.float32)
        yield {"image": image, "mask": image[..., :1], "label": image[:, 0, 0, 0]}


@pytest.fixture
def toy(monkeypatch):
    """Networks that need no time to compile, and batches that need none to make."""
    monkeypatch.setattr(pipeline, "numpy_batches", toy_batches)
    make_toy(monkeypatch)


def make_toy(monkeypatch):
    """Networks of one number each, and one picture that a square was painted into."""
    grey = np.full((1, 32, 32, 3), 100, np.uint8)
    painted = pipeline.Painted(grey, grey + 50, np.ones((1, 32, 32), bool))
    monkeypatch.setattr(pipeline, "painted", lambda *_: painted)
    for module in (train_state, scorer):
        monkeypatch.setattr(module, "init", toy_init)
        monkeypatch.setattr(module, "define", lambda model: train_state.Networks(*UNUSED))
    monkeypatch.setattr(steps, "train_step", toy_step)
    monkeypatch.setattr(judging, "evaluate_step", toy_evaluate)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    folders.category(root)
    return root


def configured(root, **changes):
    """Batches of 8 for training and of 3 (8, on eight devices) for evaluation."""
    defaults = {
        "data__root": str(root),
        "data__category": "disc",
        "data__cache_dir": str(root / "cache"),
        "train__batch_size": 8,
        "train__steps": 7,
        "train__log_every": 2,
        "train__checkpoint_every": 3,
        "train__evaluate_every": 3,
        "train__image_every": 3,
        "evaluate__batch_size": 3,
    }
    return helpers.parsed(**defaults | changes)


def lines(workdir):
    """metrics.jsonl without what depends on the machine."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in logs.MACHINE} for row in rows]


def outcome(workdir):
    """All that must not depend on interruptions."""
    files = sorted(
        p for p in workdir.glob("eval/*/*") if p.suffix in (".json", ".csv", ".png", ".html")
    )
    with checkpoint.Checkpoints(workdir, writer=False) as checkpoints:
        latest = checkpoints.latest
    return lines(workdir), {str(f.relative_to(workdir)): f.read_bytes() for f in files}, latest


def restored(workdir):
    """The newest checkpoint's numbers."""
    with checkpoint.Checkpoints(workdir, writer=False) as checkpoints:
        target = scorer.restore_target(helpers.parsed(), sharding.data_mesh())
        return jax.tree.leaves(jax.device_get(checkpoints.restore(target)))


def scalars_and_pictures(workdir):
    """Tags in the TensorBoard files: {tag: [steps]} of scalars and of pictures."""
    found = {}
    for path in workdir.glob("tensorboard/*"):
        content, at = path.read_bytes(), 0
        while at < len(content):  # u64 length, u32 checksum, record, u32 checksum
            (size,) = struct.unpack_from("<Q", content, at)
            event = event_pb2.Event.FromString(content[at + 12 : at + 12 + size])
            for value in event.summary.value:
                assert value.HasField("simple_value") or value.image.width > 0
                found.setdefault(value.tag, []).append(event.step)
            at += size + 16
    return found


def test_a_whole_run(toy, data, tmp_path, monkeypatch, caplog):
    moves = []
    original = train.read
    monkeypatch.setattr(train, "read", lambda p: moves.append(original(p)) or moves[-1])
    with jax.log_compiles(), caplog.at_level("INFO", "diffad_jax.runs.logs"):
        final = train.run(configured(data), tmp_path)

    # One compilation for the whole run, though the batches of training and evaluation differ.
    for name in ("toy_init", "toy_step", "toy_evaluate"):
        assert caplog.text.count(f"Compiling jit({name})") == 1, name

    rows = lines(tmp_path)
    assert [(row["kind"], row["step"]) for row in rows] == [
        *(("train", 2), ("eval", 3), ("train", 4), ("train", 6), ("eval", 6)),
        *(("train", 7), ("eval", 7)),
    ]
    losses = {step: metrics["loss"] for window in moves for step, metrics in window}
    assert sorted(losses) == list(range(1, 8))
    for row in rows:
        if row["kind"] == "train":
            window = [step for step in losses if row["step"] - 2 < step <= row["step"]]
            window = [7] if row["step"] == 7 else window
            assert row["loss"] == pytest.approx(np.mean([losses[s] for s in window]), rel=1e-12)
            assert row["noise_loss"] == pytest.approx(2 * row["loss"], rel=1e-6)

    written = json.loads((tmp_path / "eval/7/metrics.json").read_text())
    assert {key: rows[-1][key] for key in final} == pytest.approx(final)
    assert written["image_auroc"] == final["image_auroc"]
    assert {p.name for p in (tmp_path / "eval/7").iterdir()} == {
        *("metrics.json", "scores.csv", "reference.json", "grid.png", "report.html")
    }
    assert json.loads((tmp_path / "config.json").read_text())["train"]["batch_size"] == 8
    board = scalars_and_pictures(tmp_path)
    assert board["train/loss"] == board["train/images_per_second"] == [2, 4, 6, 7]
    assert board["train/unet_rate"] == board["train/segmentation_rate"] == [2, 4, 6, 7]
    for name in ("image_auroc", "aupro_30", "reconstruction_psnr", "repaint_psnr"):
        assert board[f"eval/{name}"] == [3, 6, 7], name
    assert "5 steps to go, 40 pictures: " in caplog.text
    assert board["train/batch"] == [3, 6]


def test_stops_and_kills_leave_no_trace(toy, data, tmp_path, monkeypatch):
    config = configured(data)
    whole = train.run(config, tmp_path / "whole")
    work = tmp_path / "broken"

    # Told to stop at step 5, between two log lines, two checkpoints and two evaluations.
    batches = pipeline.numpy_batches

    def told_at_5(*args, **kwargs):
        for count, batch in enumerate(batches(*args, **kwargs), 1):
            if count == 5:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(pipeline, "numpy_batches", told_at_5)
    with pytest.raises(stopping.Stopped):
        train.run(config, work)
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.setattr(pipeline, "numpy_batches", batches)
    with checkpoint.Checkpoints(work, writer=False) as checkpoints:
        assert checkpoints.latest == 5

    # Ends after the last checkpoint, before its evaluation is written.
    def dies(workdir, evaluation, config):
        if evaluation.identity.step == 7:
            raise KeyboardInterrupt
        return write(workdir, evaluation, config)

    write = evaluate.write
    monkeypatch.setattr(evaluate, "write", dies)
    with pytest.raises(KeyboardInterrupt):
        train.run(config, work)
    monkeypatch.setattr(evaluate, "write", write)
    assert not (work / "eval/7").exists()

    assert train.run(config, work) == whole
    assert outcome(work) == outcome(tmp_path / "whole")
    assert train.run(config, work) == whole
    assert outcome(work) == outcome(tmp_path / "whole")


def test_evaluation_from_a_checkpoint_alone(toy, data, tmp_path):
    config = configured(data)
    final = train.run(config, tmp_path)
    files = outcome(tmp_path)[1]
    for _ in range(2):
        for path in (tmp_path / "eval/7").iterdir():
            path.unlink()
        assert evaluate.run(config, tmp_path) == final
        assert outcome(tmp_path)[1] == files

    # A checkpoint that another process is just writing stays.
    half = tmp_path / "checkpoints/9.orbax-checkpoint-tmp"
    half.mkdir()
    evaluate.run(config, tmp_path)
    assert half.is_dir()

    with pytest.raises(UserError, match=r"config\.json does not exist"):
        evaluate.run(config, tmp_path / "elsewhere")
    with pytest.raises(UserError, match=rf"; there are runs in it: .*{tmp_path.name}"):
        evaluate.run(config, tmp_path.parent)
    with pytest.raises(UserError, match=r"model\.heads was 4, is now 2"):
        evaluate.run(configured(data, model__heads=2), tmp_path)
    with pytest.raises(UserError, match=r"data\.fit was 'stretch', is now 'pad'"):
        evaluate.run(configured(data, data__fit="pad"), tmp_path)


@pytest.mark.parametrize("bad_step", [4, 6])
def test_a_loss_that_is_not_finite_stops_the_run(toy, data, tmp_path, monkeypatch, bad_step):
    batches = pipeline.numpy_batches

    def spoilt(*args, **kwargs):
        for step, batch in enumerate(batches(*args, **kwargs), 1):
            if step == bad_step:
                batch["image"] = np.full_like(batch["image"], np.nan)
            yield batch

    monkeypatch.setattr(pipeline, "numpy_batches", spoilt)
    with pytest.raises(FloatingPointError, match=rf"^step {bad_step}: loss, noise_loss not finite"):
        train.run(configured(data), tmp_path)
    with checkpoint.Checkpoints(tmp_path, writer=False) as checkpoints:
        assert checkpoints.latest == 3
    assert all(row["step"] < bad_step for row in lines(tmp_path))


def test_implicit_transfers_are_refused(toy, data, tmp_path, monkeypatch):
    monkeypatch.setattr(sharding, "to_devices", lambda batch, mesh: batch)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        train.run(configured(data), tmp_path)


def test_a_run_without_test_pictures(toy, tmp_path):
    folders.category(tmp_path, test=0)
    final = train.run(configured(tmp_path), tmp_path / "run")
    assert lines(tmp_path / "run")[-1]["kind"] == "eval"
    found = threshold.read(tmp_path / "run")
    assert (found.source, found.pictures, found.identity.step) == (
        "false_alarms:0.005",
        1,
        7,
    )  # of 9, one held out
    assert final["threshold_image"] == found.image

    without = configured(tmp_path, data__holdout=0.0)
    assert train.run(without, tmp_path / "all") is None
    assert {row["kind"] for row in lines(tmp_path / "all")} == {"train"}
    with pytest.raises(UserError, match=f"no test pictures in {tmp_path}/disc, .* held none"):
        evaluate.run(without, tmp_path / "all")


def test_missing_masks_by_configuration(toy, tmp_path):
    folder = folders.category(tmp_path)
    (folder / "ground_truth/stain/001_mask.png").unlink()
    final = train.run(configured(tmp_path, data__missing_masks="ignore"), tmp_path / "run")
    written = json.loads((tmp_path / "run/eval/7/metrics.json").read_text())
    for values in (final, written):
        assert "image_auroc" in values
        assert (values["pixel_pictures"], len(list(folder.glob("test/*/*")))) == (4, 5)


@pytest.fixture
def nothing_compiled(monkeypatch):
    """Fails the test that compiles anything."""

    def refuse(*_, **__):
        raise AssertionError("compiled before the input was checked")

    monkeypatch.setattr(jax, "jit", refuse)
    monkeypatch.setattr(jax._src.compiler, "compile_or_get_cached", refuse)


def truncate(path):
    path.write_bytes(path.read_bytes()[:200])


SPOILT = {
    "no such folder: {root}/disc": lambda f: f.rename(f.parent / "else"),
    "no good pictures in {root}/disc: looked into train/good": lambda f: [
        p.unlink() for p in (f / "train/good").iterdir()
    ],
    "{root}/disc has 7 good training pictures, fewer than train.batch_size=8": lambda f: [
        (f / f"train/good/00{i}.png").unlink() for i in (0, 1)
    ],
    "{root}/disc/train/good/003.png cannot be read": lambda f: truncate(f / "train/good/003.png"),
    "{root}/disc/test/stain/001.png cannot be read": lambda f: (
        f / "test/stain/001.png"
    ).write_text("not a picture"),
    "{root}/disc/test/stain/003.png has no mask": lambda f: (
        f / "ground_truth/stain/003_mask.png"
    ).unlink(),
    "001_mask.png is 16x32 px but its picture {root}/disc/test/stain/001.png is 32x32": lambda f: (
        folders.save(f / "ground_truth/stain/001_mask.png", np.zeros((32, 16), np.uint8))
    ),
}


@pytest.mark.parametrize("words", SPOILT)
def test_bad_pictures_are_one_line_before_any_compilation(words, tmp_path, nothing_compiled):
    SPOILT[words](folders.category(tmp_path))
    with pytest.raises(UserError) as raised:
        train.run(configured(tmp_path), tmp_path / "run")
    assert words.format(root=tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_batches_that_the_devices_cannot_share(data, tmp_path, nothing_compiled):
    with pytest.raises(UserError, match=r"train\.batch_size=4 is not divisible by the 8 devices"):
        train.run(configured(data, train__batch_size=4), tmp_path)
    with pytest.raises(UserError, match=r"accumulation_steps=4 is not divisible by the 8"):
        train.run(configured(data, train__accumulation_steps=2), tmp_path)
