"""FLOPs and memory against hand counts; what holds a run up against a made-up machine."""

import logging
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.errors import UserError
from diffad_jax.method import jitted, steps, train_state
from diffad_jax.runs import profiling, sharding
from tests.support import helpers


def test_flops_are_those_counted_by_hand(monkeypatch):
    def step(state, batch, key, networks, optimizer, config):
        flat = batch["image"].reshape(8, -1)
        return state, flat @ flat.T

    monkeypatch.setattr(steps, "train_step", step)
    monkeypatch.setattr(train_state, "init", lambda config, optimizer, key: jnp.zeros(()))
    by_hand = pytest.approx(2 * 8 * 8 * 32 * 32 * 3, rel=1e-4)
    assert jitted.step_flops(helpers.parsed(train__batch_size=8)) == by_hand
    parts = helpers.parsed(train__batch_size=8, train__accumulation_steps=2)
    assert jitted.step_flops(parts) / 2 == by_hand


def test_flops_are_counted_whatever_the_run_uses(monkeypatch):
    """Not of what is computed twice, nor with a library that the CPU lacks."""
    changes = {"model__remat": "blocks", "model__attention": "cudnn"}
    config = helpers.parsed(model__compute_dtype="bfloat16")
    other = helpers.parsed(model__compute_dtype="bfloat16", **changes)
    assert jitted.step_flops(other) == jitted.step_flops(config) > 1e9

    def unknown(*, backend):
        raise RuntimeError(f"Unknown backend {backend}")

    monkeypatch.setattr(jax, "local_devices", unknown)
    assert jitted.step_flops(config) is None


def test_memory_is_that_of_arguments_results_and_in_between():
    x = jax.ShapeDtypeStruct((1000, 100), jnp.float32)
    kept = jax.jit(lambda x: x + 1).lower(x).compile()
    assert profiling.step_bytes(kept) == pytest.approx(2 * 400_000, rel=0.01)
    donated = jax.jit(lambda x: x + 1, donate_argnums=0).lower(x).compile()
    assert profiling.step_bytes(donated) == pytest.approx(400_000, rel=0.01)
    between = jax.jit(lambda x: (x @ x.T) @ x).lower(x).compile()
    assert profiling.step_bytes(between) > 4_000_000


def test_a_step_that_will_not_fit_comes_with_advice(caplog):
    config = helpers.parsed(train__batch_size=8)
    with caplog.at_level(logging.INFO):
        profiling.report_memory(3 * 2**30, 4 * 2**30, config)
    assert caplog.records[-1].levelname == "INFO" and "3.00 of 4.00 GiB" in caplog.text
    profiling.report_memory(5 * 2**30, 4 * 2**30, config)
    message = caplog.records[-1].getMessage()
    assert caplog.records[-1].levelname == "WARNING" and "5.00 GiB" in message
    for way in ("bfloat16", "remat=norms", "accumulation_steps=2", "batch_size below 8"):
        assert way in message
    small = helpers.parsed(
        model__compute_dtype="bfloat16", model__remat="blocks", train__batch_size=1
    )
    assert profiling.advice(small) == "try more devices"


def test_out_of_memory_is_one_line():
    with pytest.raises(UserError, match=r"^out of device memory: try model\.compute_dtype"):
        with profiling.fitting(profiling.advice(helpers.parsed())):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating 9G")
    with pytest.raises(jax.errors.JaxRuntimeError):
        with profiling.fitting(profiling.advice(helpers.parsed())):
            raise jax.errors.JaxRuntimeError("INTERNAL: else")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("cpu", None),
        ("NVIDIA A1000", None),
    ],
)
def test_peaks_belong_to_the_longest_name_that_fits(kind, expected):
    assert profiling.peak_flops(kind) == expected


@pytest.mark.parametrize(
    ("input_seconds", "device_seconds", "low", "high", "verdict"),
    [(0.04, 0.0, 0.8, 1.0, "bound by input"), (0.0, 0.04, 0.0, 0.05, "bound by the devices")],
)
def test_what_holds_a_run_up(input_seconds, device_seconds, low, high, verdict, monkeypatch):
    def device(_):
        time.sleep(device_seconds)
        return time.monotonic()

    def pictures():
        while True:
            time.sleep(input_seconds)
            yield {"image": np.zeros(1)}

    monkeypatch.setattr(profiling, "_end", device)
    monkeypatch.setattr(profiling, "peak_flops", lambda kind: 1e6)
    mesh, batches = sharding.data_mesh(), pictures()
    with profiling.Meter(10, 4, mesh, flops=4e6) as meter:
        began, paused = time.monotonic(), 0.0
        for step in range(11, 21):
            meter.fetch(batches)
            meter.started({"loss": jnp.zeros(())})
            assert len(meter._running) <= profiling.IN_FLIGHT
            if step == 15:
                with meter.paused():  # an evaluation, which is no training time
                    time.sleep(0.3)
                    paused = 0.3
        values = meter.window(20)
        seconds = time.monotonic() - began - paused
    assert low <= values["input_wait"] <= high
    assert meter.verdict().startswith(verdict)
    assert values["images_per_second"] == pytest.approx(40 / seconds, rel=0.2)
    # 4e6 FLOP a step on eight devices of 1e6 FLOP/s.
    assert values["mfu"] == pytest.approx(values["images_per_second"] / 4 * 4e6 / 8e6)
