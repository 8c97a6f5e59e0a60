"""The preconditioned U-Net: exact on Gaussian pictures, and the same estimate in either form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffad_jax.method import diffusion, steps, train_state
from tests.support import helpers

SPREAD = 0.5
MEAN = np.random.default_rng(7).uniform(-0.6, 0.6, (1, 16, 16, 3))
FORMS = ("epsilon", "preconditioned")


def prior(form: str) -> diffusion.Prior | None:
    known = diffusion.Prior(jnp.asarray(MEAN), jnp.asarray(SPREAD))
    return known if form == "preconditioned" else None


def noised(t: int, count: int = 4):
    """A Gaussian picture of that mean and spread, its noise, a_t and x_t; float64."""
    generator = np.random.default_rng(t)
    x = jnp.asarray(MEAN + SPREAD * generator.standard_normal((count, 16, 16, 3)))
    noise = jnp.asarray(generator.standard_normal(x.shape))
    config = helpers.parsed().diffusion
    a = diffusion.alphas_at(config, jnp.full(count, t), x.dtype)
    return x, noise, a, diffusion.add_noise(x, a, noise)


@pytest.mark.parametrize("t", [0, 200, 400, 999])
def test_silence_is_the_best_answer_for_gaussian_pictures(float64, t):
    """F = 0 gives E[x | x_t] = E[x] + cov(x, x_t) / var(x_t) (x_t - E[x_t])."""
    _, _, a, x_t = noised(t)
    estimate = diffusion.predict_start(x_t, a, jnp.zeros_like(x_t), prior("preconditioned"))
    covariance, variance = jnp.sqrt(a) * SPREAD**2, a * SPREAD**2 + 1 - a
    expected = MEAN + covariance / variance * (x_t - jnp.sqrt(a) * MEAN)
    np.testing.assert_allclose(estimate, expected, rtol=1e-9)


@pytest.mark.parametrize("t", [0, 200, 400, 999])
def test_input_and_target_have_variance_one(float64, t):
    x, noise, a, x_t = noised(t, 200)
    known = prior("preconditioned")
    for values in (
        diffusion.unet_input(x_t, a, known),
        diffusion.unet_target(x, x, a, noise, known),
    ):
        np.testing.assert_allclose(np.var(values), 1, atol=0.02)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("t", [0, 200, 400, 999])
def test_the_target_leads_to_the_clean_picture(float64, t, form):
    """Whatever the anomaly that was noised with it."""
    x, noise, a, x_t = noised(t)
    clean = x.at[:, 3:7, 3:7].add(0.4)
    target = diffusion.unet_target(x, clean, a, noise, prior(form))
    estimate = diffusion.predict_start(x_t, a, target, prior(form))
    np.testing.assert_allclose(estimate, clean, atol=1e-9)


def test_without_anomaly_epsilon_is_asked_for_the_noise_itself():
    x, noise, a, _ = noised(0)
    np.testing.assert_array_equal(diffusion.unet_target(x, x, a, noise, prior("epsilon")), noise)


@pytest.mark.parametrize("form", FORMS)
def test_the_error_is_the_weighted_error_of_the_estimate(float64, form):
    x, noise, a, x_t = noised(300)
    output = jnp.asarray(np.random.default_rng(1).standard_normal(x.shape))
    error = output - diffusion.unet_target(x, x, a, noise, prior(form))
    estimate = diffusion.predict_start(x_t, a, output, prior(form))
    sigma = jnp.sqrt((1 - a) / a)
    weight = {
        "epsilon": 1 / sigma**2,
        "preconditioned": (sigma**2 + SPREAD**2) / (sigma * SPREAD) ** 2,
    }[form]
    np.testing.assert_allclose(error**2, weight * (estimate - x) ** 2, rtol=1e-9)


@pytest.mark.usefixtures("fast_compiles")
@pytest.mark.parametrize("form", FORMS)
def test_all_pictures_teach_where_the_target_is_clean(float64, form):
    """The U-Net's gradient, against finite differences, with one anomalous picture."""
    config = helpers.parsed(
        model__prediction=form,
        model__unet_multipliers=(1,),
        model__attention_widths=(),
        loss__target="clean",
        train__batch_size=2,
    )
    networks = train_state.define(config.model)
    variables = jax.tree.map(jnp.asarray, helpers.random_variables(config, np.float64))
    generator = np.random.default_rng(0)
    clean = generator.random((2, 32, 32, 3))
    mask = np.zeros((2, 32, 32, 1))
    mask[1, 8:20, 8:20] = 1
    batch = {
        "image": jnp.asarray(np.where(mask > 0, 1 - clean, clean)),
        "clean": jnp.asarray(clean),
        "mask": jnp.asarray(mask),
        "label": jnp.asarray([0.0, 1.0]),
    }
    draws = steps.Draws(
        *(jnp.asarray([100, 250]), jnp.asarray([400, 900])),
        *(jnp.asarray(generator.standard_normal(clean.shape)) for _ in range(2)),
    )

    @jax.jit
    def loss(unet, clean):
        params = dict(variables.params, unet=unet)
        changed = train_state.Variables(params, variables.batch_stats)
        batch["clean"] = clean
        out = steps.training_loss(networks, changed, batch, draws, jnp.float64(1), config)
        return out[1][0]["noise_loss"]

    start, clean = variables.params["unet"], batch["clean"]
    direction = jax.tree.map(lambda v: jnp.asarray(generator.standard_normal(v.shape)), start)

    def along(step):
        return loss(jax.tree.map(lambda v, d: v + step * d, start, direction), clean)

    products = jax.tree.map(lambda g, d: jnp.sum(g * d), jax.grad(loss)(start, clean), direction)
    slope = (along(1e-5) - along(-1e-5)) / 2e-5
    np.testing.assert_allclose(sum(jax.tree.leaves(products)), slope, rtol=1e-5)
    assert abs(loss(start, batch["image"]) - loss(start, clean)) > 1e-3  # the anomaly counts
