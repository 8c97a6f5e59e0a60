"""Told to stop: the first time saves, the second ends; in an evaluation it is noticed at once."""

import os
import signal
import subprocess
import sys
import time

import pytest

from diffad_jax import evaluate, train
from diffad_jax.runs import stopping
from input_pipeline import pipeline
from tests import test_train
from tests.support import folders
from tests.test_train import configured, outcome

data, toy = test_train.data, test_train.toy  # fixtures
SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)


def run(config, work, number):
    """A run that is told to stop by a signal, to its end."""
    if number == signal.SIGTERM:
        with pytest.raises(stopping.Stopped, match=r"^by SIGTERM; the same command continues"):
            train.run(config, work)
        return
    with pytest.raises(KeyboardInterrupt, match="the same command continues"):
        train.run(config, work)


@SIGNALS
def test_the_first_signal_saves_and_stops(toy, data, tmp_path, monkeypatch, capfd, number):
    batches = pipeline.numpy_batches

    def stopping_at_5(*args, **kwargs):
        for count, batch in enumerate(batches(*args, **kwargs), 1):
            if count == 5:
                os.kill(os.getpid(), number)
            yield batch

    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "numpy_batches", stopping_at_5)
        run(configured(data), tmp_path / "run", number)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    assert outcome(tmp_path / "run")[-1] == 5
    assert ("once more ends at once" in capfd.readouterr().err) == (number == signal.SIGINT)


# 6 is saved before its evaluation, 4 is not.
@pytest.mark.parametrize(
    ("step", "number"), [(4, signal.SIGTERM), (6, signal.SIGINT)], ids=["unsaved", "saved"]
)
def test_a_signal_in_an_evaluation_ends_it(toy, data, tmp_path, monkeypatch, step, number):
    config = configured(data, train__evaluate_every=2)
    whole = train.run(config, tmp_path / "whole")
    original = evaluate.evaluate

    def slow(model, *rest):
        if model.step == step:
            os.kill(os.getpid(), number)
            time.sleep(30)
        return original(model, *rest)

    began = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "evaluate", slow)
        run(config, tmp_path / "run", number)
    assert time.monotonic() - began < 20
    assert outcome(tmp_path / "run")[-1] == step
    assert not (tmp_path / f"run/eval/{step}").exists()
    assert train.run(config, tmp_path / "run") == whole
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_a_signal_before_an_evaluation_is_not_forgotten():
    with stopping.Stop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(stopping.Stopped):
            with stop.interrupting():
                pytest.fail("began")


def test_the_second_ctrl_c_ends_at_once(monkeypatch):
    monkeypatch.setattr(stopping, "DOUBLE_SECONDS", 0.0)
    with pytest.raises(stopping.AtOnce):
        with stopping.Stop() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.reached(1)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
            pytest.fail("went on")


def test_one_ctrl_c_that_comes_twice_counts_once():
    """As from a terminal, and from a wrapper that passes it on."""
    with pytest.raises(KeyboardInterrupt) as raised:
        with stopping.Stop() as stop:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
            assert stop.reached(1)
    assert raised.type is KeyboardInterrupt


STOPPED = """
import sys
from diffad_jax import main, train
from diffad_jax.runs import stopping

def run(*_):
    raise stopping.Stopped("by SIGTERM; the same command continues")

train.run = run
main.run()
"""


def test_after_sigterm_the_exit_status_says_that_work_is_left(data, tmp_path):
    flags = ["--config", "configs/test.py", "--workdir", tmp_path / "run"]
    result = subprocess.run(
        [sys.executable, "-c", STOPPED, *map(str, flags), f"--config.data.root={data}"],
        cwd=folders.REPOSITORY,
        env=folders.environment(tmp_path / "compiled"),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 143, result.stderr
    assert result.stderr.splitlines()[-1] == "stopped: by SIGTERM; the same command continues"


INTERRUPTED = """
import os, signal, sys, time
from diffad_jax import evaluate, main, predict

def called(*_, **__):
    print("called", flush=True)
    time.sleep(60)

evaluate.run = predict.run = called
main.run()
"""


@pytest.mark.parametrize("mode", ["evaluate", "predict"])
def test_ctrl_c_elsewhere_is_one_line(toy, data, tmp_path, mode):
    train.run(configured(data, train__steps=1), tmp_path / "run")
    command = [sys.executable, "-c", INTERRUPTED, "--mode", mode, "--workdir", tmp_path / "run"]
    more = ["--input", data, "--output", tmp_path / "out"] if mode == "predict" else []
    process = subprocess.Popen(
        [*map(str, [*command, *more])],
        cwd=folders.REPOSITORY,
        env=folders.environment(tmp_path / "compiled"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "called\n", process.communicate()[1]
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 130
    assert messages.splitlines()[-1] == "stopped: by Ctrl-C" and "Traceback" not in messages
