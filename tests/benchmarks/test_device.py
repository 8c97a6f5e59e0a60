"""What a machine does in ten minutes: a part that fails has a row, and the time is kept."""

import json
import pathlib
import sys
import time

from benchmarks import sweep
from benchmarks.device import budget, machine, parts, section
from benchmarks.device.parts import Part

MACHINE = {
    "device": "1 x NVIDIA H200",
    "host": "x86_64, Python 3.11.1",
    "driver": "570.1",
    "platform_version": "cuda 12090",
    "versions": {"jax": "0.10.2"},
    "n": 8192,
    "flops": {"float32": 4e14, "bfloat16": 8e14},
    "data_sheet_flops": 989e12,
}
STEP = {"step_ms": 100.0, "images_per_s": 160.0, "flops": 2e13, "peak_gib": 9.5}


def stand_in(table: str, code: str, variant: str = "bfloat16", **more) -> Part:
    """A part that runs a line of Python instead."""
    return Part(table, (sys.executable, "-c", code), variant=variant, batch=16, **more)


def prints(row: dict) -> str:
    return f"print('a line'); print({json.dumps(row)!r})"


def test_one_that_fails_has_a_row_and_the_rest_goes_on():
    jax_like = "raise ValueError('no cuDNN here | at all')"
    every = [
        stand_in("machine", prints(MACHINE), variant=""),
        stand_in("training", prints(STEP)),
        stand_in("training", jax_like, variant="bfloat16+cudnn"),
        stand_in("training", "raise MemoryError", variant="bfloat16+norms"),
        stand_in("training", "pass", variant="float32+norms"),
        stand_in("training", prints(STEP | {"flops": 1.0}), variant="float32"),
        stand_in("training", "", framework="torch", variant="best", needs=("no_such_module",)),
    ]
    rows = list(budget.run(every, 600.0))
    text = section.text(rows, "python -m benchmarks.device", "2026-11-29", 123.4)
    lines = text.splitlines()
    assert lines[0] == "## 1 x NVIDIA H200, 2026-11-29"
    assert "123 s. NVIDIA driver 570.1; cuda 12090; jax 0.10.2; x86_64, Python 3.11.1." in lines
    assert "| bfloat16 | 800 |" in lines
    # 2e13 FLOP in 0.1 s are a quarter of 8e14 a second, half of 4e14.
    assert "| jax | bfloat16 | 16 | 100.0 | 160.0 | 0.25 | 9.5 |  |  |" in lines
    assert "| jax | float32 | 16 | 100.0 | 160.0 | 0.5 | 9.5 |  |  |" in lines
    errors = {line.split(" | ")[1]: line.split(" | ")[-1] for line in lines if "| 16 |  |" in line}
    assert errors == {
        "bfloat16+cudnn": "ValueError: no cuDNN here / at all |",
        "bfloat16+norms": "out of memory |",
        "float32+norms": "it printed no row: '' |",
        "best": "no_such_module is not installed |",
    }


def test_what_does_not_fit_the_time_is_named_and_what_hangs_is_stopped():
    # Its own child holds its output open: only when both are killed is the next part's turn.
    hanging = Part("training", ("sh", "-c", "sleep 90 & sleep 90"), variant="best", share=0.1)
    every = [hanging, stand_in("training", prints(STEP), variant="float32")]
    began = time.monotonic()
    # Of 22 s the first takes 2.2; then less is left than a part needs.
    rows = list(budget.run(every, budget.LEAST + 2.0))
    assert time.monotonic() - began < 60
    assert [row for _, row in rows] == [{"error": "stopped after 2 s"}, None]
    assert section.text(rows, "", "", 2).endswith(
        "Not run, for want of time: training jax float32 batch 16.\n"
    )


def test_a_run_of_training_tells_how_far_it_came(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"kind": "train", "step": 50, "loss": 0.2, "images_per_second": 99.0, "input_wait": 0.5}\n'
        '{"kind": "eval", "step": 300, "image_auroc": 0.75, "pixel_ap": null}\n'
        '{"kind": "train", "st'
    )
    killed = stand_in("recipe", "import os; os.kill(os.getpid(), 9)", workdir=tmp_path)
    text = section.text([(killed, budget.measured(killed, 60.0))], "", "", 2)
    assert "It failed: killed: out of memory?." in text
    assert "| step | loss | images/s | input wait |\n|" in text
    assert "| 50 | 0.2 | 99 | 0.5 |" in text
    assert text.endswith("After step 300: image AUROC 0.750.\n")


def test_the_line_that_says_what_went_wrong():
    told = "Traceback:\n  File\njax.errors.JaxRuntimeError: UNIMPLEMENTED: no\n----\nFor simplicity"
    assert sweep.failure(told, 1) == "jax.errors.JaxRuntimeError: UNIMPLEMENTED: no"
    assert sweep.failure("error: torch is missing\n", 1) == "error: torch is missing"
    assert sweep.failure("XlaRuntimeError: RESOURCE_EXHAUSTED: 8 GiB", 1) == "out of memory"
    assert sweep.failure("Segmentation fault\n", -11) == "Segmentation fault"
    assert sweep.failure("", 3) == "exit status 3"


def test_every_part_once_the_main_batch_first():
    bottle, out = pathlib.Path("mvtec/bottle"), pathlib.Path("out")
    training = parts.recipe_run("configs/fast.py", bottle, 300, ["--config.seed=1"], out)
    every = list(parts.every(["--config=configs/default.py"], [16, 64, 1], 10, training))
    names = [part.name for part in every]
    assert names[:3] == [
        "machine",
        "training jax bfloat16 batch 16",
        "training torch best batch 16",
    ]
    assert len(set(names)) == len(names) == 3 * 12 + 2
    assert [part.batch for part in every[-12:]] == [1] * 12
    assert names.index("recipe") < names.index("training jax float32 batch 16")
    assert "--config.train.steps=300" in training.command
    assert "--config.unet_optim.warmup_steps=15" in training.command


def test_a_machine_describes_itself():
    found = machine.described(64)
    assert found["device"].endswith("x cpu") and found["data_sheet_flops"] is None
    assert set(found["flops"]) == set(machine.PRODUCTS) and min(found["flops"].values()) > 0
    assert found["versions"]["jax"] and json.dumps(found)
