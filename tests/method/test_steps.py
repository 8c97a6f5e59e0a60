"""The step against the reference: one evaluation, and twelve joint training steps in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffad_jax.method import diffusion, judging, losses, optim, steps, train_state
from diffad_jax.models import torch_weights
from tests.support import goldens_io, helpers
from tests.support.goldens_io import draw, rng

KEYS = ("noise_loss", "focal_loss", "smooth_l1_loss", "loss")


def close(actual, expected, relative):
    """Within `relative` of the expected array's scale."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=relative * np.abs(expected).max())


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_schedules(schedule):
    expected = goldens_io.load("schedules")
    config = helpers.parsed(diffusion__schedule=schedule).diffusion
    np.testing.assert_allclose(diffusion.betas(config), expected[f"{schedule}/betas"], rtol=1e-12)
    alphas = diffusion.cumulative_alphas(config)
    np.testing.assert_allclose(alphas, expected[f"{schedule}/alphas_cumprod"], rtol=1e-11)


@pytest.fixture(scope="module", params=["guided_a", "guided_b"])
def guided(request):
    """Our evaluation of a golden case, and what the reference computed."""
    case = request.param
    config, meta = helpers.golden_config(case), goldens_io.META[case]
    shape = (meta["batch"], 3, meta["img_size"], meta["img_size"])
    x = jnp.asarray(helpers.to_nhwc(draw(f"{case}/x", shape, "uniform")))
    noises = [
        jnp.asarray(helpers.to_nhwc(draw(f"{case}/{name}", shape, "normal")))
        for name in ("noise_normal", "noise_noisier")
    ]
    count = meta["batch"]
    draws = steps.Draws(
        jnp.full(count, meta["normal_t"]), jnp.full(count, meta["noisier_t"]), *noises
    )
    variables = helpers.golden_variables(case, config, jnp.float32)
    networks = train_state.define(config.model)

    @jax.jit
    def both(variables, x, draws):
        out = steps.forward(networks, variables, x, draws, config, train=False)
        return out, judging.evaluate(variables, x, draws, networks, config)

    out, judged = both(variables, x, draws)
    return x, draws, out, judged, goldens_io.load(case), config


def test_guided_evaluation(guided):
    _, _, out, judged, expected, _ = guided
    close(out.reconstruction, helpers.to_nhwc(expected["x0_norm_guided"]), 2e-4)
    close(out.anomaly_map, helpers.to_nhwc(expected["mask"]), 2e-4)
    close(judged.score, expected["image_score"], 2e-4)


def test_guided_intermediates(guided):
    x, draws, out, _, expected, config = guided
    a_s = diffusion.alphas_at(config.diffusion, draws.t_less_noisy, x.dtype)
    a_b = diffusion.alphas_at(config.diffusion, draws.t_noisier, x.dtype)
    x_s = diffusion.add_noise(x, a_s, draws.noise_less_noisy)
    x_b = diffusion.add_noise(x, a_b, draws.noise_noisier)
    close(x_s, helpers.to_nhwc(expected["x_normal_t"]), 1e-5)
    close(x_b, helpers.to_nhwc(expected["x_noisier_t"]), 1e-5)
    # The recorded estimates are clamped; unclamped is what enters the guidance.
    start = jnp.clip(diffusion.predict_start(x_s, a_s, out.predicted_less_noisy, None), -1, 1)
    close(start, helpers.to_nhwc(expected["x0_normal"]), 2e-4)
    noisier = jnp.clip(diffusion.predict_start(x_b, a_b, out.predicted_noisier, None), -1, 1)
    close(noisier, helpers.to_nhwc(expected["x0_noisier"]), 2e-4)
    errors = losses.noise_errors(out.predicted_less_noisy, draws.noise_less_noisy)
    errors += losses.noise_errors(out.predicted_noisier, draws.noise_noisier)
    close(errors.mean(), expected["loss"], 1e-4)


def golden_batch(i: int, dtype):
    """Batch and draws of step i of `train_a`."""
    meta = goldens_io.META["train_a"]
    b, s = meta["batch"], meta["img_size"]
    label = np.asarray(meta["labels"][i], dtype)
    mask = (draw(f"train_a/{i}/mask", (b, 1, s, s), "uniform") > 0.8) * label[:, None, None, None]
    image = draw(f"train_a/{i}/x", (b, 3, s, s), "uniform")
    batch = {"image": helpers.to_nhwc(image), "mask": helpers.to_nhwc(mask), "label": label}
    noises = [
        helpers.to_nhwc(draw(f"train_a/{i}/{name}", (b, 3, s, s), "normal"))
        for name in ("noise_normal", "noise_noisier")
    ]
    draws = steps.Draws(
        jnp.asarray(rng(f"train_a/{i}/normal_t").integers(0, meta["less_t_range"], (b,))),
        jnp.asarray(rng(f"train_a/{i}/noisier_t").integers(meta["less_t_range"], meta["T"], (b,))),
        *(jnp.asarray(noise, dtype) for noise in noises),
    )
    return {name: jnp.asarray(value, dtype) for name, value in batch.items()}, draws


def digests(variables: train_state.Variables, config) -> dict[str, np.ndarray]:
    """[norm, sum] of every tensor under the reference's names, but the counters'."""
    host = jax.device_get(variables)
    states = torch_weights.to_torch(host.params, host.batch_stats, config.model)
    return {
        f"{net}/{key}": np.array([np.linalg.norm(value), np.sum(value)])
        for net, state in zip(("unet", "seg"), states, strict=True)
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
    }


def check_digests(actual, expected, *, floor: float):
    """Every [norm, sum] within 1e-6 of the tensor's norm; below `floor` there is only rounding."""
    assert actual.keys() == expected.keys()
    for key, want in expected.items():
        tolerance = 1e-6 * max(want[0], floor)
        np.testing.assert_allclose(actual[key], want, rtol=0, atol=tolerance, err_msg=key)


def train_a(count: int) -> train_state.TrainState:
    """The first `count` of the golden case's twelve steps, each compared with the reference's."""
    expected, config = goldens_io.load("train_a"), helpers.golden_config("train_a")
    networks = train_state.define(config.model)
    optimizer = optim.optimizer(config, total_steps=goldens_io.META["train_a"]["steps"])
    variables = helpers.golden_variables("train_a", config, jnp.float64)
    state = train_state.start(variables, optimizer)
    update = functools.partial(steps.update, networks=networks, optimizer=optimizer, config=config)
    step = jax.jit(update)
    wanted = {key: expected[key] for key in KEYS}
    wanted["unet_gradient_norm"] = expected["unet_grad_norm"]
    wanted["segmentation_gradient_norm"] = expected["seg_grad_norm"]
    for i in range(count):
        state, metrics = step(state, *golden_batch(i, jnp.float64))
        for key, values in wanted.items():
            message = f"{key} of step {i}"
            np.testing.assert_allclose(metrics[key], values[i], rtol=1e-6, err_msg=message)
    return state


def test_train_a_begins(float64, fast_compiles):
    train_a(2)


@pytest.mark.long
def test_train_a_float64(float64):
    state = train_a(goldens_io.META["train_a"]["steps"])
    expected, config = goldens_io.load("train_a"), helpers.golden_config("train_a")
    finals = {k: v for k, v in expected.items() if k.startswith(("unet/", "seg/"))}
    assert len(finals) > 400
    check_digests(digests(state.variables, config), finals, floor=1e-6)
