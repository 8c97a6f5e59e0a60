"""Every branch of every loss: values against NumPy, gradients against finite differences."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffad_jax.method import diffusion, losses, steps
from tests.method import toys
from tests.support import helpers

LOSS = helpers.parsed().loss
SHAPE = (2, 4, 4, 1)
RNG = np.random.default_rng(0)
MASKS = {
    "hard": (RNG.random(SHAPE) > 0.5).astype(np.float64),
    "soft": RNG.random(SHAPE),
    "empty": np.zeros(SHAPE),
}
INNER = 0.05 + 0.9 * RNG.random(SHAPE)  # away from where the logarithms end


def slope(function, x, direction, step=1e-6):
    """Central difference of a NumPy function along a direction."""
    return (function(x + step * direction) - function(x - step * direction)) / (2 * step)


def assert_gradient(ours, theirs, x):
    """The gradient of `ours` along random directions, against differences of NumPy's `theirs`."""
    gradient = np.asarray(jax.grad(lambda v: ours(v))(jnp.asarray(x)))
    for seed in range(3):
        direction = np.random.default_rng(seed).standard_normal(x.shape)
        expected = slope(theirs, x, direction)
        np.testing.assert_allclose((gradient * direction).sum(), expected, rtol=1e-6, atol=1e-9)


def numpy_focal(p, y, alpha, gamma):
    with np.errstate(divide="ignore"):
        low, high = (np.maximum(np.log(q), -100) for q in (p, 1 - p))
    entropy = -(y * low + (1 - y) * high)
    return np.mean(alpha * (1 - np.exp(-entropy)) ** gamma * entropy)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("mask", list(MASKS))
def test_focal(float64, mask, gamma):
    y, config = MASKS[mask], dataclasses.replace(LOSS, focal_alpha=0.3, focal_gamma=gamma)

    def ours(p):
        return losses.focal(p, jnp.asarray(y), config)

    def theirs(p):
        return numpy_focal(p, y, 0.3, gamma)

    np.testing.assert_allclose(ours(jnp.asarray(INNER)), theirs(INNER), rtol=1e-12)
    assert_gradient(ours, theirs, INNER)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("y", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_focal_where_a_probability_is_0_or_1(float64, p, y, gamma, dtype):
    """PyTorch's rule: a logarithm is at least -100, and has no slope where it is cut off."""
    config = dataclasses.replace(LOSS, focal_alpha=0.5, focal_gamma=gamma)
    full = (np.full((1, 1, 1, 1), v, dtype) for v in (p, y))
    ones, target = (jnp.asarray(v) for v in full)
    value, gradient = jax.value_and_grad(losses.focal)(ones, target, config)
    wrong = y if p == 0 else 1 - y  # weighs the logarithm that is cut off
    entropy = 100 * wrong
    expected = 0.5 * (1 - np.exp(-entropy)) ** gamma * entropy
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    # The other logarithm is that of 1, where d(entropy)/dp = (1 - y) at 0 and -y at 1.
    inner = (1 - y) if p == 0 else -y
    missed = 1 - np.exp(-entropy)
    outer = 0.5 * missed**gamma
    if entropy and gamma:
        outer += 0.5 * gamma * missed ** (gamma - 1) * np.exp(-entropy) * entropy
    np.testing.assert_allclose(np.ravel(gradient), outer * inner, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 4.0])
def test_focal_has_finite_gradients_at_every_logit_of_float32(gamma):
    """Sigmoids end at exactly 0 and 1. (A power between 0 and 1 is no gamma: configs.rules.)"""
    config = dataclasses.replace(LOSS, focal_gamma=gamma)
    logits = jnp.linspace(-120, 120, 961).reshape(1, 31, 31, 1)
    for y in (0.0, 0.5, 1.0):
        gradient = jax.grad(
            lambda z, y=y: losses.focal(jax.nn.sigmoid(z), jnp.full(z.shape, y), config)
        )(logits)
        assert np.isfinite(gradient).all()


def test_logarithms_are_cut_off_without_a_slope(float64):
    tiny = np.exp(np.array([-150.0, -101.0, -99.0, -1.0]))
    value, gradient = jax.vmap(jax.value_and_grad(losses._log))(jnp.asarray(tiny))
    np.testing.assert_allclose(value, [-100, -100, -99, -1], rtol=1e-12)
    np.testing.assert_allclose(gradient, [0, 0, 1 / tiny[2], 1 / tiny[3]], rtol=1e-12)


def numpy_smooth_l1(p, y, beta):
    d = np.abs(p - y)
    return np.mean(np.where(d < beta, d**2 / (2 * beta), d - beta / 2))


@pytest.mark.parametrize("beta", [0.01, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("mask", list(MASKS))
def test_smooth_l1(float64, mask, beta):
    """With small beta all is on the straight branch, with large beta on the round one."""
    y = MASKS[mask]
    np.testing.assert_allclose(
        losses.smooth_l1(jnp.asarray(INNER), jnp.asarray(y), beta),
        numpy_smooth_l1(INNER, y, beta),
        rtol=1e-12,
    )
    assert_gradient(
        lambda p: losses.smooth_l1(p, jnp.asarray(y), beta),
        lambda p: numpy_smooth_l1(p, y, beta),
        INNER,
    )


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("beta", [0.1, 0.25])
def test_smooth_l1_at_the_joint_and_at_0(float64, beta, sign):
    """Value beta / 2 and slope 1 on both sides of the joint; no slope where there is no error."""

    def at(d):
        y = jnp.full((1, 1, 1, 1), 0.5)
        return jax.value_and_grad(losses.smooth_l1)(y + sign * d, y, beta)

    for d in (beta * (1 - 1e-9), beta, beta * (1 + 1e-9)):
        value, gradient = at(d)
        np.testing.assert_allclose(value, beta / 2, rtol=1e-8)
        np.testing.assert_allclose(gradient, sign, rtol=1e-8)
    assert at(0.0)[0] == 0 and np.ravel(at(0.0)[1]) == 0
    assert at(3 * beta)[0] == pytest.approx(2.5 * beta)


def test_noise_errors_are_one_for_each_picture(float64):
    a, b = RNG.random((3, 4, 5, 2)), RNG.random((3, 4, 5, 2))
    np.testing.assert_allclose(
        losses.noise_errors(jnp.asarray(a), jnp.asarray(b)),
        [np.mean((x - y) ** 2) for x, y in zip(a, b, strict=True)],
        rtol=1e-12,
    )
    assert_gradient(
        lambda v: jnp.sum(losses.noise_errors(v, jnp.asarray(b)) ** 2),
        lambda v: np.sum(np.mean((v - b) ** 2, axis=(1, 2, 3)) ** 2),
        a,
    )


def test_losses_of_bfloat16_are_computed_wide():
    p = jnp.asarray(INNER, jnp.bfloat16)
    y = jnp.asarray(MASKS["soft"], jnp.bfloat16)
    exact = [np.asarray(v, np.float64) for v in (p, y)]
    for value, expected in (
        (losses.focal(p, y, LOSS), numpy_focal(*exact, LOSS.focal_alpha, LOSS.focal_gamma)),
        (losses.smooth_l1(p, y, 0.3), numpy_smooth_l1(*exact, 0.3)),
    ):
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("label", "expected"), [([0, 1, 0], 2.5), ([0, 0, 0], 3.0), ([1, 1, 1], 0.0), ([1, 1, 0], 4.0)]
)
def test_the_mean_over_normal_pictures(float64, label, expected):
    errors, label = jnp.asarray([1.0, 4.0, 4.0]), jnp.asarray(label, jnp.float64)
    count = jnp.sum(1 - label)
    value, gradient = jax.value_and_grad(losses.normal_mean)(errors, label, count)
    assert value == pytest.approx(expected)
    np.testing.assert_allclose(gradient, (1 - label) / max(count, 1), rtol=1e-12)


def test_the_mean_of_a_part_is_over_the_normal_pictures_of_the_batch():
    errors, label = jnp.asarray([3.0, 5.0]), jnp.asarray([0.0, 1.0])
    assert losses.normal_mean(errors, label, jnp.float32(4)) == 0.75


def test_a_nan_of_an_anomalous_picture_does_not_count_that_of_a_normal_one_does():
    errors = jnp.asarray([np.nan, 2.0])
    value, gradient = jax.value_and_grad(losses.normal_mean)(
        errors, jnp.asarray([1.0, 0.0]), jnp.float32(1)
    )
    assert value == 2 and gradient.tolist() == [0, 1]
    assert np.isnan(losses.normal_mean(errors, jnp.asarray([0.0, 0.0]), jnp.float32(2)))


def case(**changes):
    """Configuration, what the networks said, a batch of three and its draws; float64."""
    config = helpers.parsed(train__batch_size=4, **changes)
    rng = np.random.default_rng(5)
    pictures = (3, 4, 4, 3)
    clean = rng.random(pictures)
    label = np.array([0.0, 1.0, 0.0])
    image = np.where(label[:, None, None, None] > 0, 1 - clean, clean)
    batch = {"image": image, "clean": clean, "label": label, "mask": rng.random((3, 4, 4, 1))}
    draws = steps.Draws(
        *(jnp.asarray([3, 100, 299]), jnp.asarray([300, 640, 999])),
        *(jnp.asarray(rng.standard_normal(pictures)) for _ in range(2)),
    )
    said = steps.Forward(
        *(jnp.asarray(rng.standard_normal(pictures)) for _ in range(3)),
        jnp.asarray(INNER[[0, 1, 0]]),
        {},
    )
    return config, said, {k: jnp.asarray(v) for k, v in batch.items()}, draws


# Mean and spread of the training pictures, in [0, 1].
KNOWN = (np.random.default_rng(6).random((4, 4, 3)), 0.2)


def numpy_noise_loss(predicted, config, batch, draws):
    """Error of the output that would lead to the wanted picture, by solving for it."""
    unit = {k: np.asarray(v) for k, v in batch.items()}
    signed = config.model.image_range == "signed"
    x, clean = (2 * unit[k] - 1 if signed else unit[k] for k in ("image", "clean"))
    wanted = clean if config.loss.target == "clean" else x
    alphas = np.cumprod(1 - diffusion.betas(config.diffusion))
    (mean, s), errors = (np.asarray(value) for value in KNOWN), np.zeros(3)
    if signed:
        mean, s = 2 * mean - 1, 2 * s
    for t, noise, output in zip(
        (draws.t_less_noisy, draws.t_noisier),
        (draws.noise_less_noisy, draws.noise_noisier),
        predicted,
        strict=True,
    ):
        a = alphas[np.asarray(t)][:, None, None, None]
        x_t = np.sqrt(a) * x + np.sqrt(1 - a) * np.asarray(noise)
        if config.model.prediction == "epsilon":
            target = (x_t - np.sqrt(a) * wanted) / np.sqrt(1 - a)
        else:
            sigma2 = (1 - a) / a
            skip, out = s**2 / (sigma2 + s**2), s * np.sqrt(sigma2 / (sigma2 + s**2))
            target = (wanted - mean - skip * (x_t / np.sqrt(a) - mean)) / out
        error = np.mean((np.asarray(output) - target) ** 2, axis=(1, 2, 3))
        if gamma := config.loss.snr_gamma:  # the weight of the estimate's error, and its limit
            floor, scale = (0.0, 1.0) if config.model.prediction == "epsilon" else (s**-2, s**2)
            precision = a[:, 0, 0, 0] / (1 - a[:, 0, 0, 0])
            limited = floor + np.minimum(precision, gamma / scale)
            error *= limited / (floor + precision)
        errors += error
    taught = np.ones(3) if config.loss.target == "clean" else 1 - unit["label"]
    return (taught * errors).sum() / taught.sum() if taught.sum() else 0.0


@pytest.mark.parametrize("gamma", [0.0, 0.03])
@pytest.mark.parametrize("target", ["normal", "clean"])
@pytest.mark.parametrize("prediction", ["epsilon", "preconditioned"])
@pytest.mark.parametrize("image_range", ["unit", "signed"])
def test_noise_loss(float64, image_range, prediction, target, gamma):
    config, said, batch, draws = case(
        model__image_range=image_range,
        model__prediction=prediction,
        loss__target=target,
        loss__snr_gamma=gamma,
    )
    count = jnp.sum(1 - batch["label"])
    prior = toys.variables(np.float64, KNOWN).prior(config.model)
    outputs = np.stack([said.predicted_less_noisy, said.predicted_noisier])

    def ours(outputs):
        out = dataclasses.replace(
            said, predicted_less_noisy=outputs[0], predicted_noisier=outputs[1]
        )
        return steps.noise_loss(out, batch, draws, count, config, prior)

    def theirs(outputs):
        return numpy_noise_loss(outputs, config, batch, draws)

    np.testing.assert_allclose(ours(jnp.asarray(outputs)), theirs(outputs), rtol=1e-9)
    assert_gradient(ours, theirs, outputs)
    none_normal = dict(batch, label=jnp.ones(3))
    if target == "normal":
        assert steps.noise_loss(said, none_normal, draws, jnp.float64(0), config, prior) == 0


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("target", ["normal", "clean"])
def test_the_loss_is_the_weighted_sum_of_its_terms(float64, monkeypatch, target, parts):
    """Each weight counts its own term; of a batch in parts each has its share."""
    weights = {"loss__focal_weight": 5.0, "loss__smooth_l1_weight": 0.7}
    more = {"loss__focal_alpha": 0.3, "loss__focal_gamma": 2.0, "loss__smooth_l1_beta": 0.2}
    config, said, batch, draws = case(
        loss__target=target, train__accumulation_steps=parts, **weights, **more
    )
    monkeypatch.setattr(steps, "forward", lambda *args, **options: said)
    loss, (terms, _) = steps.training_loss(
        toys.networks(), toys.variables(), batch, draws, jnp.float64(2), config
    )
    outputs = np.stack([said.predicted_less_noisy, said.predicted_noisier])
    noise = numpy_noise_loss(outputs, config, batch, draws)
    p, y = np.asarray(said.anomaly_map), np.asarray(batch["mask"])
    expected = {
        "noise_loss": noise / (parts if target == "clean" else 1),
        "focal_loss": numpy_focal(p, y, 0.3, 2.0) / parts,
        "smooth_l1_loss": numpy_smooth_l1(p, y, 0.2) / parts,
    }
    total = expected["noise_loss"] + 5.0 * expected["focal_loss"] + 0.7 * expected["smooth_l1_loss"]
    assert terms.keys() == {"loss", *expected}
    for name, value in ({"loss": total} | expected).items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-9, err_msg=name)
    np.testing.assert_allclose(loss, total, rtol=1e-9)
