"""The scripts that measure: they can be imported together, and their numbers are sane."""

import importlib
import pathlib

import numpy as np

import benchmarks
from benchmarks import metrics

FOLDER = pathlib.Path(benchmarks.__file__).parent
SCRIPTS = [f"benchmarks.{file.stem}" for file in FOLDER.glob("*.py") if file.stem != "__init__"]


def test_no_script_defines_flags_when_it_is_imported():
    """Two that define a flag of the same name could not be imported by one program."""
    for name in (*SCRIPTS, "benchmarks.torch_peer.__main__"):
        importlib.import_module(name)


def test_times_of_measures():
    masks, maps = metrics.pictures(np.random.default_rng(0), 8, 32)
    found = metrics.times(masks, maps, repeats=1)
    assert found["difference_of_sklearn"] < 1e-12
    assert found["difference_of_sketch"] < 5e-4
