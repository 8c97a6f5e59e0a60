"""The study of recipes: which runs it makes, what it skips, what its table says."""

import json
import sys

import pytest

from benchmarks import curves, recipe
from tests.support import folders


def write(run: recipe.Run, auroc: float, *, step: int = 250, speed: float = 8.0):
    """A run's folder as training leaves it, judged at step 100 and `step` of 250."""
    folder = run.workdir / "eval" / str(step)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps({"image_auroc": auroc}))
    (run.workdir / "config.json").write_text(json.dumps({"train": {"batch_size": 4}}))
    lines = [
        {"kind": "train", "step": 100, "images_per_second": speed},
        {"kind": "eval", "step": 100, "image_auroc": 0.5},
        {"kind": "train", "step": step, "images_per_second": speed},
        {"kind": "eval", "step": step, "image_auroc": auroc},
    ]
    text = "\n".join(json.dumps(line | {"total_steps": 250}) for line in lines)
    (run.workdir / "metrics.jsonl").write_text(text)


def study(tmp_path, *names: str, seeds=("0", "1")) -> list[recipe.Run]:
    return recipe.runs(names, ["sets/bottle", "sets/grid"], seeds, str(tmp_path))


def test_a_seed_of_everything_before_the_next(tmp_path):
    every = study(tmp_path, "recipe", "slow:train.ema_decay=0.9:seed=3")
    assert [(run.arm, run.category.name, run.seed) for run in every[:5]] == [
        ("recipe", "bottle", 0),
        ("slow", "bottle", 0),
        ("recipe", "grid", 0),
        ("slow", "grid", 0),
        ("recipe", "bottle", 1),
    ]
    command = every[1].command("configs/small.py", ["--config.train.steps=9"])
    assert command[-3:] == [
        "--config.train.steps=9",
        "--config.train.ema_decay=0.9",
        "--config.seed=3",
    ]
    with pytest.raises(ValueError, match="no arm 'recip'"):
        recipe.arms(["recip"])


def test_what_is_finished_is_not_run_again(tmp_path, monkeypatch):
    finished, begun, fresh, _ = study(tmp_path, "recipe")
    write(finished, 0.9)
    write(begun, 0.9, step=200)
    assert finished.final() == {"image_auroc": 0.9}
    assert begun.final() is None and fresh.final() is None
    commands = []
    monkeypatch.setattr(recipe.Run, "command", lambda run, *_: commands.append(run) or ["false"])
    assert recipe.execute(finished, "", [])
    assert not recipe.execute(begun, "", []) and not recipe.execute(fresh, "", [])
    assert commands == [begun, fresh]


def test_runs_that_fail_are_no_success(tmp_path):
    """Neither of the study, nor of what appends its results."""
    flags = ["--out", tmp_path, "--arms", "recipe", "--categories", tmp_path / "nothing"]
    ended = folders.call([sys.executable, "-m", "benchmarks.recipe", *flags], tmp_path)
    assert ended.returncode == 1 and "1 of 1 runs are not finished" in ended.stderr
    [run] = recipe.runs(["recipe"], [str(tmp_path / "nothing")], ["0"], str(tmp_path))
    run.workdir.mkdir()  # as one leaves it that ended before it was judged
    (run.workdir / "config.json").write_text(json.dumps({"train": {"batch_size": 4}}))
    line = {"kind": "train", "step": 10, "images_per_second": 8.0}
    (run.workdir / "metrics.jsonl").write_text(json.dumps(line))
    results = tmp_path / "RESULTS.md"
    append = [sys.executable, "-m", "benchmarks.curves", *flags, "--append", results]
    ended = folders.call(append, tmp_path)
    assert ended.returncode == 1 and f"no run under {tmp_path} was judged yet" in ended.stderr
    assert not results.exists()


def test_table(tmp_path):
    every = study(tmp_path, "recipe", seeds=("0", "1", "2"))
    for run, auroc in zip(every, (0.9, 0.8, 0.94, 0.7, 0.97, 0.6), strict=True):
        write(run, auroc)
    lines = recipe.table(every, "image_auroc", 0.94).splitlines()
    assert "| recipe | bottle | 3 | 0.940 (0.900-0.970) |" in lines[2]
    assert lines[2].endswith("| -, 250 (125 s), 250 (125 s) |")  # 250 steps of 4 at 8 a second
    assert "| recipe | grid | 3 | 0.700 (0.600-0.800) |" in lines[3]
    assert "| recipe | **mean** |  | 0.820 |" in lines[4]


def test_minutes_and_measures_of_every_run(tmp_path):
    every = study(tmp_path, "recipe", seeds=("0",))
    write(every[0], 0.9)
    lines = curves.table(every).splitlines()
    assert (
        "| recipe, bottle, seed 0 | 0.8 | 100 | 0.500 |" in lines[2]
    )  # 400 pictures at 8 a second
    assert "| recipe, bottle, seed 0 | 2.1 | 250 | 0.900 |" in lines[3]
    assert len(lines) == 4  # grid has not begun


def test_a_line_of_the_chart_is_the_mean_where_all_were_judged(tmp_path):
    every = study(tmp_path, "recipe", seeds=("0",))
    write(every[0], 0.9)
    assert curves.means(every, "image_auroc") == [] and curves.means([], "image_auroc") == []
    write(every[1], 0.7, step=200)
    assert curves.means(every, "image_auroc") == [(100, 0.5)]
    write(every[1], 0.7)
    assert curves.means(every, "image_auroc") == [(100, 0.5), (250, pytest.approx(0.8))]
    assert curves.means(every, "pixel_ap") == []  # there are no masks
    panels = curves.chart(every).axes
    assert [len(panel.lines) for panel in panels] == [1, 0, 0]
    assert list(panels[0].lines[0].get_xdata()) == [100, 250]
