"""Real processes, really killed: the end is that of a run that was left alone, bit for bit."""

import re
import signal
import subprocess
import time

import jax
import numpy as np
import pytest

from diffad_jax.runs import checkpoint, sharding
from diffad_jax.scoring import scorer
from tests.support import folders, helpers
from tests.test_train import lines

pytestmark = pytest.mark.long
# Checkpoints, log lines and evaluations fall on different steps, so that an interruption cuts
# through all of them; evaluation batches have another size than training batches.
CHANGES = (
    *("train.steps=16", "train.checkpoint_every=4", "train.log_every=3", "train.image_every=5"),
    *("train.evaluate_every=7", "evaluate.batch_size=3", "train.keep_checkpoints=1"),
    *("model.unet_multipliers=(1,)", "model.attention_widths=()", "unet_optim.warmup_steps=5"),
    # The recipe of `fast`: the mean picture is a part of what has to come back.
    *("model.image_range=signed", "model.prediction=preconditioned", "model.difference=4"),
    *("loss.target=clean", "evaluate.residual=0.5", "evaluate.smoothing=1"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("resume")
    folders.category(place / "data")
    return place


def start(place, name, **options):
    """The process of a run; its messages go to a file."""
    with open(place / f"{name}.log", "w") as log:
        return subprocess.Popen(
            folders.command(place / "data", place / name, *CHANGES),
            cwd=folders.REPOSITORY,
            env=folders.environment(place / "compiled") | options,
            stderr=log,
        )


def finish(process, place, name):
    """Wait for a run that ends by itself; its messages."""
    assert process.wait(timeout=300) == 0, (place / f"{name}.log").read_text()
    return (place / f"{name}.log").read_text()


@pytest.fixture(scope="module")
def whole(place):
    """Folder and messages of the run that was left alone."""
    process = start(place, "whole", JAX_LOG_COMPILES="1")
    return place / "whole", finish(process, place, "whole")


def until(process, condition):
    """Wait for a condition on the run's folder while the process lives."""
    while process.poll() is None and not condition():
        time.sleep(0.005)
    assert process.poll() is None, f"ended too early: {process.returncode}"


def state(workdir):
    """Every array of the newest checkpoint."""
    config = helpers.parsed(
        model__unet_multipliers=(1,),
        model__attention_widths=(),
        model__prediction="preconditioned",
    )
    target = scorer.restore_target(config, sharding.data_mesh())
    with checkpoint.Checkpoints(workdir, writer=False) as checkpoints:
        return checkpoints.latest, jax.device_get(checkpoints.restore(target))


def test_one_compilation_for_a_whole_run(whole):
    for name in ("init", "train_step", "evaluate_step"):
        assert whole[1].count(f"Compiling jit({name}) ") == 1, name


def test_killed_and_stopped_runs_end_alike(place, whole):
    work = place / "killed"

    def logged(step):
        path = work / "metrics.jsonl"
        return path.exists() and lines(work)[-1]["step"] >= step

    # SIGKILL; then, after what that lost was made up for, Ctrl-C.
    process = start(place, "killed")
    until(process, lambda: logged(6))
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process = start(place, "killed")
    until(process, lambda: logged(9))
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=300) == 130
    messages = (place / "killed.log").read_text()
    assert messages.endswith("\nstopped: by Ctrl-C; the same command continues\n")
    assert "Traceback" not in messages
    stopped = int(re.search(r"told to stop: saving step (\d+)", messages)[1])
    assert 9 <= stopped < 16 and (work / f"checkpoints/{stopped}").is_dir()
    messages = finish(start(place, "killed"), place, "killed")
    assert f"steps {stopped} to 16" in messages

    (steps_a, a), (steps_b, b) = state(whole[0]), state(work)
    assert steps_a == steps_b == 16
    leaves_a, leaves_b = jax.tree.leaves(a), jax.tree.leaves(b)
    assert len(leaves_a) > 300
    for left, right in zip(leaves_a, leaves_b, strict=True):
        np.testing.assert_array_equal(left, right)
    assert lines(work) == lines(whole[0])
    for step in (7, 14, 16):
        for name in ("metrics.json", "scores.csv", "reference.json", "grid.png", "report.html"):
            file = f"eval/{step}/{name}"
            assert (work / file).read_bytes() == (whole[0] / file).read_bytes(), file


def test_evaluation_by_the_command_line_is_the_training_s(place, whole):
    folder = whole[0] / "eval/16"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for path in folder.iterdir():
        path.unlink()
    arguments = folders.command(place / "data", whole[0], *CHANGES, mode="evaluate")
    result = folders.call(arguments, place / "compiled")
    assert result.returncode == 0, result.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
