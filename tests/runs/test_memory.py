"""Memory that a step frees stays with the process: the next step finds it as it was."""

import ctypes
import os
import subprocess
import sys

import pytest

from diffad_jax import main
from diffad_jax.runs import processes
from tests.support import folders, helpers

# Takes, writes and frees 256 MiB three times in a thread of XLA's kind: one that began after
# `keep_memory`. Prints how many pages the system had to give for the last time.
AGAIN = """
import ctypes, importlib.metadata, resource, sys, threading
from diffad_jax.runs import processes
plugin = sys.argv[1] == "plugin"
importlib.metadata.entry_points = lambda group: ["cuda"] if plugin else []
if sys.argv[1] != "default":
    processes.keep_memory()
c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes, c.free.argtypes = (
    ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
)
def again():
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = c.malloc(2**28)
        ctypes.memset(block, 1, 2**28)
        c.free(block)
        pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    print(pages)
thread = threading.Thread(target=again)
thread.start()
thread.join()
"""


def pages(case, **variables):
    environment = {**os.environ, "JAX_PLATFORMS": "", **variables}
    command = [sys.executable, "-c", AGAIN, case]
    result = subprocess.run(
        command, env=environment, cwd=folders.REPOSITORY, capture_output=True, text=True
    )
    assert not result.returncode, result.stderr
    return int(result.stdout)


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="another C library",
)
def test_freed_memory_is_kept_where_jax_computes_on_the_cpu():
    every = 2**28 // 2**21  # where the system gives huge pages; else 512 times as many
    assert pages("default") >= every
    assert pages("kept") < every // 2
    assert pages("plugin") >= every
    assert pages("plugin", JAX_PLATFORMS="cpu") < every // 2


@pytest.mark.parametrize(
    "start", [lambda: main._alone("train", helpers.parsed(), "", 1), lambda: main._predict(None)]
)
def test_it_is_kept_before_anything_else_is_done(monkeypatch, start):
    class Kept(Exception):
        pass

    def keep():
        raise Kept

    monkeypatch.setattr(processes, "keep_memory", keep)
    with pytest.raises(Kept):
        start()
