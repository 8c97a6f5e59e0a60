"""The command line as a person meets it: quick help, and one clear line for each mistake."""

import csv
import sys
import time

import jax
import numpy as np
import pytest

from diffad_jax import flags
from diffad_jax.method import optim, train_state
from diffad_jax.runs import checkpoint, folder
from tests.support import folders, helpers


@pytest.fixture
def run(tmp_path):
    """Call the program with changes to the configuration."""

    def run(*changes, **options):
        command = folders.command(tmp_path / "data", tmp_path / "run", *changes, **options)
        return folders.call(command, tmp_path / "compiled")

    return run


def test_help_answers_at_once(tmp_path):
    began = time.monotonic()
    result = folders.call([sys.executable, "-m", "diffad_jax.main", "--help"], tmp_path)
    assert "--workdir" in result.stdout and "--mode" in result.stdout
    assert time.monotonic() - began < 10  # 0.2 s where nothing else runs


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("train.stepz=3", "ValueError: unknown config key train.stepz: did you mean train.steps?"),
        ("trian.steps=3", "ValueError: unknown config key trian: did you mean train?"),
        (
            "model.image_size=40",
            "ValueError: model.image_size=40 is not divisible by the networks' total stride 32",
        ),
        (
            "loss.focal_weight=high",
            "FATAL Flags parsing error: flag --config.loss.focal_weight=high: could not convert "
            "string to float: 'high'",
        ),
    ],
)
def test_a_wrong_configuration_is_one_line(run, tmp_path, change, line):
    result = run(change)
    assert result.returncode != 0 and "Traceback" not in result.stderr
    assert result.stderr.splitlines()[0] == line
    assert not (tmp_path / "run").exists()


def test_a_configuration_file_that_is_not_there(tmp_path):
    command = folders.command(tmp_path, tmp_path / "run")
    command[command.index("configs/test.py")] = "configs/nope.py"
    result = folders.call(command, tmp_path)
    assert result.returncode != 0
    assert result.stderr.startswith("ValueError: ") and "configs/nope.py" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_unusable_pictures_are_one_line(tmp_path):
    command = folders.command(tmp_path / "data", tmp_path / "run")
    at = command.index("--config")
    command += [command.pop(at), command.pop(at)]  # the overrides may come first
    result = folders.call(command, tmp_path / "compiled")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1] == f"ValueError: no such folder: {tmp_path}/data/disc"


WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = None  # as where it is not installed
import functools, jax, numpy as np
from configs import test
from diffad_jax import config as configs, optim, steps, train_state
config = test.get_config()
config.model.unet_multipliers, config.model.attention_widths = (1,), ()
config = configs.parse(config)
networks, optimizer = train_state.define(config.model), optim.optimizer(config, 3)
shapes = jax.eval_shape(lambda: train_state.init(config, optimizer, jax.random.key(0)))
state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
batch = {"image": np.zeros((2, 32, 32, 3), np.float32), "label": np.zeros(2, np.float32)}
batch["mask"] = batch["image"][..., :1]
step = functools.partial(steps.train_step, networks=networks, optimizer=optimizer, config=config)
state, metrics = jax.jit(step)(state, batch, jax.random.key(1))
print(int(state.step), float(metrics["loss"]) > 0, "input_pipeline" in sys.modules)
"""


def test_a_training_step_needs_no_tensorflow(tmp_path):
    result = folders.call([sys.executable, "-c", WITHOUT_TENSORFLOW], tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["1", "True", "False"]


def finished_run(root):
    """A workdir with random weights and a test split, made without compiling anything."""
    folders.category(root, good=5, test=4, size=40)
    config = helpers.parsed(
        data__root=str(root),
        data__category="disc",
        data__cache_dir=f"{root}/cache",
        model__unet_multipliers=(1,),
        model__attention_widths=(),
    )
    optimizer = optim.optimizer(config, total_steps=1)
    shapes = jax.eval_shape(lambda: train_state.init(config, optimizer, jax.random.key(0)))
    rng = np.random.default_rng(0)
    # Positive, because the running variances are among them.
    state = jax.tree.map(lambda x: rng.uniform(0, 0.1, x.shape).astype(x.dtype), shapes)
    folder.claim(root / "run", config)
    with checkpoint.Checkpoints(root / "run") as checkpoints:
        checkpoints.save(0, state)
    return root / "run"


def test_a_finished_run_needs_no_configuration(tmp_path):
    """evaluate and predict give a picture the same score; what cannot be read shows at the end."""
    run = finished_run(tmp_path)
    program = [sys.executable, "-m", "diffad_jax.main", "--workdir", str(run)]
    evaluated = folders.call([*program, "--mode=evaluate"], tmp_path / "compiled")
    assert evaluated.returncode == 0, evaluated.stderr
    (tmp_path / "disc/test/good/broken.png").write_text("no picture")
    files = ["--input", str(tmp_path / "disc/test/*"), "--output", str(tmp_path / "out")]
    changes = ["--threshold=0.1", "--config.predict.maps=npy"]
    predicted = folders.call([*program, "--mode=predict", *files, *changes], tmp_path / "compiled")
    assert predicted.returncode == 3, predicted.stderr
    assert "5 pictures: 4 defective, 1 unreadable" in predicted.stderr.splitlines()[-1]

    def scores(path, name):
        return {
            row[name]: row["score"]
            for row in csv.DictReader(path.read_text().splitlines())
            if row["score"]
        }

    expected = scores(run / "eval/0/scores.csv", "name")
    found = scores(tmp_path / "out/predictions.csv", "picture")
    assert {f"test/{name}": score for name, score in found.items()} == expected
    assert len(set(found.values())) == 4
    assert len(list((tmp_path / "out/maps").rglob("*.npy"))) == 4


NO_RUN = "no holds no run: no/config.json does not exist"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--mode=predict", "--workdir=no"], "no holds no run: no/config.json does not exist"),
        (
            ["--mode", "evaluate", "--workdir", "no"],
            "no holds no run: no/config.json does not exist",
        ),
        (["--workdir=no"], "--config is missing: give a file of configs/"),
        (
            ["--mode=predict", "--workdir=no", "--config=configs/test.py", "--input=a"],
            "--mode predict needs --input (pictures) and --output (a folder)",
        ),
    ],
)
def test_what_a_mode_needs_is_one_line(tmp_path, arguments, line):
    result = folders.call([sys.executable, "-m", "diffad_jax.main", *arguments], tmp_path)
    assert result.returncode == 1
    assert result.stderr.splitlines() == [f"ValueError: {line}"]


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["--mode", "predict"], "predict"),
        (["--workdir=a", "-mode=predict"], "predict"),
        (["--model=x", "--config.mode=y", "mode"], None),
        (["--mode"], None),
    ],
)
def test_arguments_are_found_before_they_are_parsed(argv, value):
    assert flags.given(["main.py", *argv], "mode") == value


@pytest.mark.parametrize("config", [["--config", "FILE"], ["--config=FILE"]])
def test_overrides_may_stand_before_the_configuration(config):
    argv = ["main", "--config.seed=1", "--workdir", "w", *config, "--config.data.root=r", "--mode"]
    expected = ["main", *config, "--config.seed=1", "--workdir", "w", "--config.data.root=r"]
    assert flags.config_first(argv) == [*expected, "--mode"]
    assert flags.config_first(["main", "--config"]) == ["main", "--config"]
