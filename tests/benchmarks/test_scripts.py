"""The scripts that measure: they can be imported together, and their numbers are sane."""

import importlib
import pathlib

import numpy as np

import benchmarks
from benchmarks import metrics, runtimes, verdicts

FOLDER = pathlib.Path(benchmarks.__file__).parent
PLACES = ("*.py", "compiled/*.py", "device/*.py", "torch_peer/__main__.py")
FILES = [file for place in PLACES for file in FOLDER.glob(place)]
NAMES = [file.relative_to(FOLDER).with_suffix("").parts for file in FILES]
SCRIPTS = [".".join(("benchmarks", *parts)) for parts in NAMES if parts[-1] != "__init__"]


def test_no_script_defines_flags_when_it_is_imported():
    """Two that define a flag of the same name could not be imported by one program."""
    for name in SCRIPTS:
        importlib.import_module(name)


def test_ways_to_judge_are_timed_by_turns(monkeypatch):
    """Each as often, on the same pictures; the first is what the others are compared with."""
    clock, seen = [0.0], {"slow": [], "fast": []}
    monkeypatch.setattr(runtimes.time, "perf_counter", lambda: clock[0])

    def way(name, seconds):
        def judge(images):
            seen[name].append(images.shape)
            clock[0] += seconds

        return judge

    ways = {"slow": way("slow", 0.5), "fast": way("fast", 0.125)}
    _, _, slow, fast = runtimes.table(ways, 8, [3], count=5).splitlines()
    assert seen["slow"] == seen["fast"] == [(3, 8, 8, 3)] * 7
    assert slow == "| 3 | slow | 500.0 | 500.0 | 6.0 | 1.00 |"
    assert fast == "| 3 | fast | 125.0 | 125.0 | 24.0 | 4.00 |"


def test_times_of_measures():
    masks, maps = metrics.pictures(np.random.default_rng(0), 8, 32)
    found = metrics.times(masks, maps, repeats=1)
    assert found["difference_of_sklearn"] < 1e-12
    assert found["difference_of_sketch"] < 5e-4


def test_verdicts_that_differ_are_named(tmp_path, capsys):
    evaluated, judged = tmp_path / "scores.csv", tmp_path / "predictions.csv"
    evaluated.write_text("name,score,verdict\ntest/a.png,0.5,good\ntest/b.png,0.7,defective\n")
    judged.write_text("picture,score,verdict\na.png,0.5,good\nb.png,0.75,defective\n")
    assert verdicts.main(["", str(evaluated), str(judged)]) == 0
    assert capsys.readouterr().out == "2 of 2 verdicts are equal, scores within 5.0e-02\n"
    judged.write_text("picture,score,verdict\na.png,0.5,defective\nc.png,0.75,defective\n")
    assert verdicts.main(["", str(evaluated), str(judged)]) == 1
    told = capsys.readouterr().err
    assert told == "in one table alone: b.png, c.png\nof another verdict: a.png\n"
