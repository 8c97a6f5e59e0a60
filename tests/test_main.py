"""The command line as a person meets it: quick help, and one clear line for each mistake."""

import csv
import json
import pathlib
import sys

import jax
import numpy as np
import pytest

import configs
from configs.errors import UserError
from diffad_jax.command_line import arguments, flags
from diffad_jax.method import optim, train_state
from diffad_jax.runs import checkpoint, folder
from tests.support import folders, helpers

PROGRAM = (sys.executable, "-m", "diffad_jax.main")
PACKAGED = pathlib.Path(configs.__file__).parent


@pytest.fixture
def run(tmp_path):
    """Call the program with changes to the configuration."""

    def run(*changes, **options):
        command = folders.command(tmp_path / "data", tmp_path / "run", *changes, **options)
        return folders.call(command, tmp_path / "compiled")

    return run


# Whatever takes a second to import is not there; help and mistakes do without.
LIGHT = """
import runpy, sys
for name in ("jax", "tensorflow", "matplotlib", "sklearn"):
    sys.modules[name] = None
sys.argv = ["main.py", *sys.argv[1:]]
runpy.run_module("diffad_jax.main", run_name="__main__")
"""


def light(*words):
    return folders.call([sys.executable, "-c", LIGHT, *words], pathlib.Path("/nowhere"))


class TestHelp:
    def test_of_all_modes(self):
        result = light("--help")
        assert result.returncode == 0, result.stderr
        for name, mode in flags.MODES.items():
            assert f"  {name:<12} {mode.summary}\n" in result.stdout
        assert "--help MODE" in result.stdout and "--threshold" not in result.stdout

    @pytest.mark.parametrize(
        "words",
        [
            ("--help", "preview"),
            ("--help=preview",),
            ("--mode", "preview", "--help"),
            ("-help", "--mode=preview"),
            ("--mode=preview", "--config", "nonsense", "-h"),
        ],
    )
    def test_of_one_mode(self, words):
        text = arguments.asked_help(["main.py", *words])
        assert text is not None and "--first_step N" in text and "--workdir" not in text
        assert "main --mode preview --config default" in text

    @pytest.mark.parametrize("name", flags.MODES)
    def test_shows_the_flags_of_the_mode_and_no_other(self, name):
        text = flags.help_of(name, "diffad")
        for flag in flags.TABLE:
            assert (f"  --{flag} " in text) == (flag in flags.MODES[name].flags), flag
        assert f"usage: diffad --mode {name} " in text
        assert max(map(len, text.replace(str(PACKAGED), "configs").split("\n"))) <= 105

    def test_is_not_what_a_value_asks_for(self):
        assert arguments.asked_help(["main.py", "--input", "--help"]) is None

    @pytest.mark.parametrize("name", flags.MODES)
    def test_examples_are_accepted(self, name, monkeypatch):
        monkeypatch.setattr(arguments, "own_config", lambda workdir: f"own:{workdir}")
        monkeypatch.setattr(arguments, "check_config", lambda *_: None)
        for example in flags.MODES[name].examples:
            words = example.replace("'", "").split()
            arguments.arguments(["main.py", "--mode", name, *words])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("train.stepz=3", "unknown config key train.stepz: did you mean train.steps?"),
        (
            "loss.focal_weight=high",
            "flag --config.loss.focal_weight=high: could not convert string to float: 'high'",
        ),
    ],
)
def test_a_wrong_configuration_is_one_line(run, tmp_path, change, line):
    result = run(change)
    assert result.returncode == 1
    assert result.stderr.splitlines() == [f"error: {line}"]
    assert not (tmp_path / "run").exists()


def test_an_impossible_value_is_one_line(run, tmp_path):
    result = run("model.image_size=40")
    assert result.returncode == 1
    assert result.stderr.startswith("error: model.image_size=40 ")
    assert len(result.stderr.splitlines()) == 1 and not (tmp_path / "run").exists()


def test_unusable_pictures_are_one_line(tmp_path):
    command = folders.command(tmp_path / "data", tmp_path / "run")
    at = command.index("--config")
    command += [command.pop(at), command.pop(at)]  # the overrides may come first
    result = folders.call(command, tmp_path / "compiled")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1] == f"error: no such folder: {tmp_path}/data/disc"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--workdir=no", "--mode train needs --config FILE (see --help train)"),
        (
            "--mode=predict --workdir=no --input=a",
            "--mode predict needs --output PATH (see --help predict)",
        ),
        (
            "--mode check --workdir=a",
            "--mode check does not use --workdir, which belongs to train, evaluate, adapt, "
            "predict, export, compare, import",
        ),
        (
            "--config=test --workdir=a --threshold=1",
            "--mode train does not use --threshold, which belongs to predict, serve",
        ),
        (
            "--mode compare --workdir=a --config.seed=1",
            "--mode compare does not use --config, which belongs to train, evaluate, adapt, "
            "predict, export, check, preview, foregrounds, prepare, import",
        ),
        ("--wrokdir=a", "unknown flag --wrokdir: did you mean --workdir?"),
        ("--mode evalute", "unknown mode evalute: did you mean evaluate?"),
        ("predict", "unexpected argument predict: did you mean --mode predict?"),
        ("--mode train x", "unexpected argument x"),
        ("--mode=evaluate --workdir=no", "no holds no run: no/config.json does not exist"),
        (
            "--mode predict --workdir no --input config.jpg --output config.x",
            "no holds no run: no/config.json does not exist",
        ),
        (
            "--config=test --config.sead=1 --workdir=a",
            "unknown config key sead: did you mean seed?",
        ),
        (
            "--config=configs/nope.py --workdir=a",
            "no configuration file configs/nope.py; packaged ones are default, fast, quickstart, "
            "small, test",
        ),
        (
            "--config=configs/schema.py --workdir=a",
            "configs/schema.py is no configuration: it has no get_config()",
        ),
        ("--config=test --workdir=", "--workdir is empty: give --workdir DIR"),
        ("--mode compare --workdir a --output= ", "--output is empty: give --output PATH"),
        ("--config= --workdir=a", "--config is empty: give --config FILE"),
        (
            "--config=test --workdir=a --config.seed",
            "--config.seed needs a value: --config.seed=VALUE",
        ),
        (
            "--config=configs/small.py:bottle --workdir=a",
            "the get_config() of configs/small.py takes no argument: give "
            "--config=configs/small.py without :bottle",
        ),
        (
            "--config=configs/stored.py --workdir=a",
            "the get_config() of configs/stored.py needs an argument: give "
            "--config=configs/stored.py:ARGUMENT",
        ),
    ],
)
def test_what_is_wrong_with_the_arguments(words, line, monkeypatch):
    monkeypatch.chdir(folders.REPOSITORY)
    with pytest.raises(UserError) as raised:
        arguments.arguments(["main.py", *words.split()])
    assert str(raised.value) == line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--mode predict --workdir no", "--mode predict needs --input PICTURES and --output PATH"),
        ("--mode predict --model=a --workdir=b", "--workdir and --model exclude each other: give"),
        ("--mode predict --model=no --input=a --output=b", "no holds no exported model: it has"),
        ("--mode export --workdir=a", "--mode export needs --output PATH (see --help export)"),
        ("--config=test --workdir", "--workdir is empty: give --workdir DIR"),
        ("--config=test --workdir=a --workers=-1", "flag --workers=-1: -1 is not a non-negative"),
        ("--config=stored:no --workdir=a", "no holds no run: no/config.json does not exist"),
        ("--mode=predict --workdir=no --input=a --output=b", "no holds no run: no/config.json"),
        ("--flagfile=no", "ERROR:: Unable to open flagfile"),
    ],
)
def test_mistakes_answer_at_once_and_in_a_line(words, line):
    result = light(*words.split())
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(f"error: {line}")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no such\n  folder"), "no such folder"),
        (
            FileNotFoundError(2, "No such file or directory", "a/b"),
            "a/b: No such file or directory",
        ),
        (OSError("the disk is full"), "the disk is full"),
    ],
)
def test_an_error_is_one_line(error, line):
    assert arguments.line(error) == line
    with pytest.raises(SystemExit, match=f"^error: {line}$"):
        arguments.fail(error)


# Prints what predict.run is called with, and says that two pictures were unreadable.
STAND_IN = """
import runpy, sys, types
import diffad_jax
def run(workdir, pattern, output, config=None, threshold=None, overrides=None, **more):
    print(workdir, pattern, output, config and config.seed, threshold, overrides, *more.values())
    return 2
stand_in = types.SimpleNamespace(run=run, UNREADABLE=3)
diffad_jax.predict = sys.modules["diffad_jax.predict"] = stand_in
sys.argv = ["main.py", "--mode=predict", "--input=a", "--output=b", *sys.argv[1:]]
runpy.run_module("diffad_jax.main", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--threshold=0.5", "--maps=npy", "--shard=2/5"), "None 0.5 {} npy (2, 5)"),
        (("--config=test", "--config.seed=7"), "7 None {'seed': 7} png None"),
    ],
)
def test_predict_gets_what_was_asked_for_and_no_more(words, told, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(helpers.parsed().to_dict()))
    command = [sys.executable, "-c", STAND_IN, f"--workdir={tmp_path}", *words]
    result = folders.call(command, tmp_path / "compiled")
    assert result.returncode == 3, result.stderr
    assert result.stdout == f"{tmp_path} a b {told}\n"


@pytest.mark.parametrize("said", ["", "by Ctrl-C, 3 pictures are done: the same command"])
def test_ctrl_c_is_one_line(said, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(helpers.parsed().to_dict()))
    stopped = STAND_IN.replace("    return 2", f"    raise KeyboardInterrupt({said!r})")
    result = folders.call(
        [sys.executable, "-c", stopped, f"--workdir={tmp_path}"], tmp_path / "compiled"
    )
    assert (result.returncode, result.stderr) == (130, f"stopped: {said or 'by Ctrl-C'}\n")


def test_after_an_error_no_thread_is_waited_for(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(helpers.parsed().to_dict()))
    waits = "import threading as t, time; t.Thread(target=time.sleep, args=[999]).start(); raise "
    broken = STAND_IN.replace("    return 2", f"    {waits}OSError('gs://b is gone')")
    command = [sys.executable, "-c", broken, f"--workdir={tmp_path}"]
    result = folders.call(command, tmp_path / "compiled")
    assert (result.returncode, result.stderr) == (1, "error: gs://b is gone\n")


def test_mistakes_of_ours_keep_their_traceback(tmp_path):
    """Those of NumPy and of our own checks alike; only a UserError is a line."""
    (tmp_path / "config.json").write_text(json.dumps(helpers.parsed().to_dict()))
    broken = STAND_IN.replace("    return 2", "    raise ValueError('shapes (2,) (3,)')")
    result = folders.call(
        [sys.executable, "-c", broken, f"--workdir={tmp_path}"], tmp_path / "compiled"
    )
    assert result.returncode == 1
    assert "Traceback" in result.stderr and result.stderr.endswith("ValueError: shapes (2,) (3,)\n")


def test_in_the_arguments_too(monkeypatch):
    """A ValueError that is none of the user's is not told as one."""

    def broken(argv):
        raise ValueError("ours")

    monkeypatch.setattr(flags, "define", lambda: None)
    monkeypatch.setattr(arguments, "arguments", broken)
    monkeypatch.setattr(sys, "argv", [])
    with pytest.raises(ValueError, match=r"^ours$"):
        arguments.parse(["main.py"])


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
    program = [*PROGRAM, "--workdir", str(run)]
    evaluated = folders.call([*program, "--mode=evaluate"], tmp_path / "compiled")
    assert evaluated.returncode == 0, evaluated.stderr
    (tmp_path / "disc/test/good/broken.png").write_text("no picture")
    files = ["--input", str(tmp_path / "disc/test/*"), "--output", str(tmp_path / "out")]
    changes = ["--threshold=0.1", "--maps=npy"]
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
