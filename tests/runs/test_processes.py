"""One device, eight, and two processes with four each over jax.distributed: the same run."""

import dataclasses
import pickle
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from configs.errors import UserError
from diffad_jax.method import steps
from diffad_jax.runs import processes, stopping
from tests import test_train
from tests.runs import test_sharding
from tests.support import cluster_worker, folders

pytestmark = pytest.mark.usefixtures("fast_compiles")
NOISES = ("noise_less_noisy", "noise_noisier")


def start(place, *arguments, signals=()):
    """Both processes of `cluster_worker`; `signals` are for the second. Messages go to files."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = []
    for index in (0, 1):
        options = [f"--cluster=localhost:{port},2,{index}", *(signals if index else ())]
        with open(place / f"log{index}", "w") as log:
            worker = [sys.executable, "-m", "tests.support.cluster_worker"]
            command = [*worker, *map(str, arguments), *options]
            environment = folders.environment(place / "compiled")
            processes.append(
                subprocess.Popen(command, cwd=folders.REPOSITORY, env=environment, stderr=log)
            )
    return processes


def finish(place, *arguments, signals=()):
    """Both processes' return codes and messages, and the seconds between the two ends."""
    processes = start(place, *arguments, signals=signals)
    try:
        processes[1].wait(timeout=300)
        ended = time.monotonic()
        processes[0].wait(timeout=120)
        apart = time.monotonic() - ended
    finally:
        for process in processes:
            process.kill()
    logs = [(place / f"log{index}").read_text() for index in (0, 1)]
    return [process.returncode for process in processes], logs, apart


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("cluster")
    folders.category(place / "data")
    return place


@pytest.mark.long
def test_two_processes_make_the_steps_of_one(place, float64):
    """The real networks, their BatchNorms over the whole batch; float64."""
    processes = start(place, "steps", place / "steps")
    states, losses = test_sharding.float64_steps(8)
    assert [process.wait(timeout=400) for process in processes] == [0, 0]
    for index in (0, 1):
        other = pickle.loads((place / f"steps.{index}").read_bytes())
        for a, b in zip(losses, other[1], strict=True):
            assert test_sharding.gap(a, b, 1e-3) < 1e-9
        for a, b in zip(states, other[0], strict=True):
            assert test_sharding.gap(a.variables, b.variables, 1.0) < 1e-9
            assert test_sharding.gap(a.ema, b.ema, 1.0) < 1e-9


@pytest.mark.long
def test_eight_devices_make_the_steps_of_one_in_float64(float64):
    (one, one_losses), (eight, eight_losses) = (
        test_sharding.float64_steps(1),
        test_sharding.float64_steps(8),
    )
    assert one[-1].step == 3
    for a, b in zip(one_losses, eight_losses, strict=True):
        assert test_sharding.gap(a, b, 1e-3) < 1e-9
    for a, b in zip(one, eight, strict=True):
        assert test_sharding.gap(a.variables, b.variables, 1.0) < 1e-9
        assert test_sharding.gap(a.ema, b.ema, 1.0) < 1e-9
    # They learn: the comparison is not of steps that do nothing.
    assert test_sharding.gap(one[0].variables.params, one[-1].variables.params, 1.0) > 1e-5

    # The average of step n forgets with min(0.99, n / (9 + n)), running statistics included.
    for n in range(3):
        decay = min(0.99, (1 + n) / (10 + n))
        expected = jax.tree.map(
            lambda old, new, decay=decay: decay * old + (1 - decay) * new,
            one[n].ema,
            one[n + 1].variables,
        )
        assert test_sharding.gap(expected, one[n + 1].ema, 1.0) < 1e-7


@pytest.mark.long
def test_eight_devices_make_the_first_step_in_float32(float64, monkeypatch):
    """With the draws of the float64 step, so that only what float32 can hold is different."""
    exact, drawn = test_sharding.float64_steps(8)[1][0], steps.draw_training

    def rounded_draws(key, image, config):
        draws = drawn(key, image.astype(np.float64), config)
        narrow = {name: getattr(draws, name).astype(image.dtype) for name in NOISES}
        return dataclasses.replace(draws, **narrow)

    monkeypatch.setattr(steps, "draw_training", rounded_draws)
    config = test_sharding.configured()
    _, (rounded,) = test_sharding.train(jax.devices(), config, np.float32, 1)
    for name, value in exact.items():
        assert rounded[name].dtype == np.float32
        tolerance = 1e-3 if name.endswith("norm") else 1e-5
        np.testing.assert_allclose(rounded[name], value, rtol=tolerance, err_msg=name)


@pytest.mark.long
def test_killed_and_stopped_clusters_end_alike(place):
    whole, broken, data = place / "whole", place / "broken", place / "data"
    codes, logs, _ = finish(place, "train", whole, data)
    assert codes == [0, 0], logs

    # One process is killed between two checkpoints: the other ends, with a word.
    codes, logs, apart = finish(place, "train", broken, data, signals=["--SIGKILL=13"])
    assert codes[1] == -signal.SIGKILL and codes[0] not in (0, None)
    assert "another task died" in logs[0] or "another process has ended" in logs[0]
    assert apart < 60
    assert 5 in saved(broken) and max(saved(broken)) < 13

    # One process is told to stop: both save the same step, and say that work is left.
    codes, logs, _ = finish(place, "train", broken, data, signals=["--SIGTERM=24"])
    assert codes == [stopping.STATUS] * 2, logs
    assert 24 <= max(saved(broken)) < 40

    codes, logs, _ = finish(place, "train", broken, data)
    assert codes == [0, 0], logs
    assert test_train.outcome(broken) == test_train.outcome(whole)
    np.testing.assert_array_equal(weights(broken), weights(whole))

    # One process with eight devices sees the same pictures in the same order.
    cluster_worker.run(place / "one", data)
    one, two = test_train.lines(place / "one"), test_train.lines(whole)
    assert [(row["kind"], row["step"]) for row in one] == [
        (row["kind"], row["step"]) for row in two
    ]
    for a, b in zip(one, two, strict=True):
        assert (a["kind"], a["step"]) == (b["kind"], b["step"])
        numbers = [key for key, value in a.items() if isinstance(value, float)]
        np.testing.assert_allclose([a[k] for k in numbers], [b[k] for k in numbers], rtol=1e-5)
    np.testing.assert_allclose(weights(place / "one"), weights(whole), rtol=1e-5)


def saved(workdir):
    """Steps of the complete checkpoints."""
    return [int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()]


def weights(workdir):
    """Both networks' numbers, in the newest checkpoint of a run of one number each."""
    with pytest.MonkeyPatch.context() as patch:
        test_train.make_toy(patch)
        return test_train.restored(workdir)


MANAGED = {
    "nothing": ({}, False),
    "Slurm": (
        {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_PROCID": "0"}
        | {"SLURM_LOCALID": "0", "SLURM_NTASKS": "2"},
        True,
    ),
    "one task of Slurm": (
        {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n1", "SLURM_PROCID": "0"}
        | {"SLURM_LOCALID": "0", "SLURM_NTASKS": "1"},
        False,
    ),
    "a shell in a Slurm job": ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}, False),
    "Open MPI": ({"OMPI_MCA_orte_hnp_uri": "1.0;tcp://h:1", "OMPI_COMM_WORLD_SIZE": "4"}, True),
    "Open MPI 5": ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"}, True),
    "one process of Open MPI": ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
    "an indexed job of Kubernetes": (
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"},
        True,
    ),
    "any pod of Kubernetes": ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),
    "a TPU pod on GKE": ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
    "one TPU host on GKE": ({"TPU_WORKER_HOSTNAMES": "a"}, False),
}


@pytest.mark.parametrize("name", MANAGED)
def test_clusters_are_joined_where_there_are_some(name):
    environment, expected = MANAGED[name]
    assert processes.managed(environment) is expected


def test_joining_by_half_is_refused(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: pytest.fail("joined"))
    for given in (("host:1", None, None), (None, 2, 0), ("host:1", 2, None), (None, None, 0)):
        with pytest.raises(UserError, match=r"^--coordinator=.* give all three, or none$"):
            with processes.joined(*given):
                pass
    for given in ((None, None, None), (None, 1, None)):
        with processes.joined(*given):
            pass


def test_open_mpi_5_needs_a_coordinator(monkeypatch):
    """JAX finds process 0 by a variable that mpirun has set up to 4."""
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given, **_: joined.append(given))
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: None)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    told = r"give --coordinator=HOST:PORT --num_processes=2 --process_id=\$OMPI_COMM_WORLD_RANK"
    with pytest.raises(UserError, match=told):
        with processes.joined():
            pass
    with processes.joined("host:1", 2, 0):
        pass
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", "1.0;tcp://h:1")
    with processes.joined():
        pass
    assert joined == [("host:1", 2, 0), (None, None, None)]


def test_a_problem_of_the_first_process_is_everybodys():
    with pytest.raises(UserError, match="no way"):
        processes.agree("no way")
    processes.agree(None)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The user's cache folder; JAX keeps nothing that is compiled yet."""
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path / "diffad_jax"
    jax.config.update("jax_compilation_cache_dir", before)


def test_what_is_compiled_is_kept_in_the_user_s_cache_folder(cache, monkeypatch):
    for _ in range(2):
        jax.config.update("jax_compilation_cache_dir", None)
        processes.cache_compilations()
        assert jax.config.jax_compilation_cache_dir == str(cache / "compiled")
        assert (cache / "compiled").stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(cache.parent / "home"))
    jax.config.update("jax_compilation_cache_dir", None)
    processes.cache_compilations()
    expected = cache.parent / "home/.cache/diffad_jax/compiled"
    assert jax.config.jax_compilation_cache_dir == str(expected)
    jax.config.update("jax_compilation_cache_dir", "elsewhere")
    processes.cache_compilations()
    assert jax.config.jax_compilation_cache_dir == "elsewhere"


def writable(folder):
    folder.mkdir(parents=True)
    folder.chmod(0o777)


def linked(folder):
    folder.parent.mkdir(exist_ok=True)
    folder.symlink_to("/")


@pytest.mark.parametrize("name", [".", "compiled"])
@pytest.mark.parametrize("spoil", [writable, linked, None], ids=["writable", "a link", "another's"])
def test_what_others_may_have_compiled_is_not_loaded(cache, monkeypatch, caplog, spoil, name):
    if spoil is None:
        monkeypatch.setattr(processes.os, "getuid", lambda: 12345)
    else:
        spoil(cache / name)
    processes.cache_compilations()
    assert jax.config.jax_compilation_cache_dir is None
    assert "what is compiled is not kept: " in caplog.text and str(cache) in caplog.text


def test_processes_that_see_other_pictures_are_refused(monkeypatch):
    """As from a process whose pictures are others than those of process 0."""
    there = np.frombuffer(b"aaa 111".ljust(256), np.uint8)
    monkeypatch.setattr(processes.jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes.multihost_utils, "broadcast_one_to_all", lambda _: there)
    monkeypatch.setattr(processes, "anywhere", lambda flag: flag)
    processes.check_same("pictures", "aaa 111")
    told = r"^all processes must see the same pictures: process 0 sees bbb 111, process 0 aaa 111$"
    with pytest.raises(UserError, match=told):
        processes.check_same("pictures", "bbb 111")
