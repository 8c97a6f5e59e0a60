"""The program: it starts without JAX, says in a line what it cannot do, and ends as it should."""

import concurrent.futures
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest

from configs.errors import UserError
from diffad_jax import serve
from diffad_jax.runs import lock
from tests.exporting import test_infer
from tests.serving.by_http import stations
from tests.support import folders

PNG = {"content-type": "image/png"}
# What a machine at the line has not; and judging takes a while.
LIGHT = """
import runpy, sys, time
for name in "jax jaxlib flax optax orbax tensorflow tensorflow_datasets matplotlib sklearn".split():
    sys.modules[name] = None
from diffad_jax.exporting import infer
judge = infer.Model.judge
def slow(self, images):
    time.sleep(float({slow}))
    return judge(self, images)
infer.Model.judge = slow
runpy.run_module("diffad_jax.main", run_name="__main__")
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return test_infer.bundle(tmp_path_factory.mktemp("exported") / "bundle")


@contextlib.contextmanager
def running(made, *words, slow=0.0):
    """The program on a free port: its process, its address with the token, its log's lines."""
    command = [sys.executable, "-c", LIGHT.format(slow=slow), "--mode=serve", f"--model={made}"]
    process = subprocess.Popen(
        [*command, "--port=0", *words],
        **{"cwd": folders.REPOSITORY, "stderr": subprocess.PIPE, "text": True},
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        told = []
        for text in process.stderr:
            told.append(text)
            if found := re.search(r"(http://\S+)/\?token=(\S+)", text):
                break
        else:
            raise AssertionError("".join(told))
        yield process, *found.groups()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_a_bundle_needs_no_jax_and_sigterm_finishes_what_was_taken(made, tmp_path):
    """Twelve requests are under way, most of them wait; each has its answer."""
    output = f"--output={tmp_path / 'kept'}"
    with running(made, output, slow=1.0) as (process, address, token):
        assert address.startswith("http://127.0.0.1:")

        def ask(level):
            return httpx.post(
                f"{address}/judge", content=stations.picture(level), headers=PNG, timeout=20
            )

        with (
            httpx.Client(base_url=address, timeout=20) as client,
            concurrent.futures.ThreadPoolExecutor(12) as pool,
        ):
            assert client.get("/readyz").json() == {"ready": True, "problems": {}}
            bearer = {"authorization": f"Bearer {token}"}
            changed = client.post("/threshold", json={"threshold": 0.25}, headers=bearer)
            assert changed.status_code == 200
            asked = [pool.submit(ask, 20 * n) for n in range(1, 13)]
            waiting = re.compile(r"diffad_waiting ([4-9]|1\d)\.")
            stations.until(lambda: waiting.search(client.get("/metrics").text))
            time.sleep(0.2)  # the last of them may be on their way
            process.send_signal(signal.SIGTERM)
            answers = [each.result() for each in asked]
        assert [answer.status_code for answer in answers] == [200] * 12
        parts = [answer.json()["parts"][0] for answer in answers]
        assert len({part["score"] for part in parts}) == 12
        assert {part["threshold"] for part in parts} == {0.25}
        assert process.wait(20) == 0
        with pytest.raises(httpx.ConnectError):
            ask(5)
    kept = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert kept == ["station.json"]  # and no lock


def test_the_model_gone_and_ctrl_c(made, tmp_path):
    place = test_infer.bundle(tmp_path / "bundle")
    with running(place, "--token=of my own") as (process, address, token):
        assert token == "of"  # the log has all of it
        bearer = {"authorization": "Bearer of my own"}
        with httpx.Client(base_url=address, headers=bearer, timeout=20) as client:
            assert client.get("/model", headers={"authorization": ""}).status_code == 401
            (place / "model.onnx").unlink()
            answer = client.get("/readyz")
            problems = {"model": "model.onnx is gone; judging goes on with what is in memory"}
            assert (answer.status_code, answer.json()["problems"]) == (503, problems)
            judged = client.post("/judge", content=stations.picture(), headers=PNG)
            assert judged.status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read().splitlines()[-1].startswith("stopped: ")
    assert (tmp_path / "bundle-station").is_dir()  # beside the model


def test_sigterm_does_not_wait_for_a_page(made, tmp_path):
    with running(made, f"--output={tmp_path}") as (process, address, _):
        with httpx.stream("GET", f"{address}/events", timeout=20) as stream:
            lines = stream.iter_lines()
            next(lines)
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0 and time.monotonic() - began < 10
            lines.close()


def test_what_it_cannot_begin_with(made, tmp_path):
    """Each in a line, and nothing is left behind that was not there."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"cannot listen on 127\.0\.0\.1, port {port}: Addr"):
            serve.run(str(made), port=port, output=str(tmp_path / "a"))
    with pytest.raises(UserError, match="no port 70000"):
        serve.run(str(made), port=70_000, output=str(tmp_path / "a"))
    with pytest.raises(UserError, match=r"cannot listen on no\.such\.host"):
        serve.run(str(made), host="no.such.host", output=str(tmp_path / "a"))
    with lock.Hold(tmp_path / "b"):
        with pytest.raises(UserError, match="is in use by another process"):
            serve.run(str(made), port=0, output=str(tmp_path / "b"))
    with pytest.raises(UserError, match=r"gs://a/b is not local: give a local --output"):
        serve.run("gs://a/b")
    with pytest.raises(UserError, match="holds no run"):
        serve.run(str(tmp_path / "nothing"), port=0)
    with pytest.raises(UserError, match=r"threshold is 2"):
        serve.run(str(made), port=0, threshold=2.0, output=str(tmp_path / "c"))
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        serve.run(str(made), port=0, output=str(tmp_path / "file"))


@pytest.mark.parametrize(
    "name", ["starlette", "uvicorn", "python_multipart", "prometheus_client", "watchdog"]
)
def test_missing_packages_are_named(name, made):
    program = f"""
import runpy, sys
sys.modules["{name}"] = None
sys.argv = ["main.py", "--mode=serve", "--model={made}"]
runpy.run_module("diffad_jax.main", run_name="__main__")
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        **{"cwd": folders.REPOSITORY, "capture_output": True, "text": True, "timeout": 60},
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        f"error: {name} is not installed: pip install 'diffad_jax[serve]'"
    ]


def test_what_the_command_line_gives(made, monkeypatch):
    """Every flag of the mode arrives, by its name."""
    program = """
import json, runpy, sys, types
import diffad_jax
stand_in = types.SimpleNamespace(run=lambda model, **given: print(json.dumps([model, given])))
diffad_jax.serve = sys.modules["diffad_jax.serve"] = stand_in
runpy.run_module("diffad_jax.main", run_name="__main__")
"""
    given = {
        **{"host": "0.0.0.0", "port": 80, "token": "t", "watch": "in", "output": "out"},
        **{"webhook": "http://a/b", "mqtt": "mqtt://a:1/b", "threshold": 0.25},
    }
    words = [f"--{key}={value}" for key, value in given.items()]
    command = [sys.executable, "-c", program, "--mode=serve", "--model=m"]
    result = folders.call([*command, *words], folders.REPOSITORY)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == ["m", given]
    result = folders.call(command, folders.REPOSITORY)
    nothing = dict.fromkeys(given) | {"host": "127.0.0.1", "port": 8000}
    assert json.loads(result.stdout) == ["m", nothing]
