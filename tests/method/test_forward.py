"""The whole method around toy networks, against the same in NumPy; float64, nothing compiled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import ndimage

from diffad_jax.method import diffusion, judging, optim, steps, train_state
from tests.method import toys
from tests.support import helpers

PICTURES = (4, 8, 8, 3)


@pytest.fixture(scope="module", autouse=True)
def fast_compiles():
    """No program here needs to be fast."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def case(**changes):
    config = helpers.parsed(**changes)
    rng = np.random.default_rng(3)
    draws = steps.Draws(
        *(jnp.asarray([0, 100, 200, 299]), jnp.asarray([300, 400, 700, 999])),
        *(jnp.asarray(rng.standard_normal(PICTURES)) for _ in range(2)),
    )
    return config, rng.random(PICTURES), draws


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("weight", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("prediction", ["epsilon", "preconditioned"])
@pytest.mark.parametrize("image_range", ["unit", "signed"])
def test_forward(float64, image_range, prediction, weight, train):
    config, image, draws = case(
        model__image_range=image_range,
        model__prediction=prediction,
        diffusion__guidance_weight=weight,
    )
    prior = np.random.default_rng(5).random(PICTURES[1:]), 0.2
    variables = toys.variables(np.float64, prior)
    out = steps.forward(toys.networks(), variables, jnp.asarray(image), draws, config, train=train)
    alphas = np.cumprod(1 - diffusion.betas(config.diffusion))
    outputs, repaint, anomaly_map, running = toys.numpy_forward(
        image, draws, config, alphas, train, prior
    )
    np.testing.assert_allclose(out.predicted_less_noisy, outputs[0], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(out.predicted_noisier, outputs[1], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(out.reconstruction, repaint, atol=1e-8)
    np.testing.assert_allclose(out.anomaly_map, anomaly_map, atol=1e-8)
    np.testing.assert_allclose(out.batch_stats["segmentation"]["mean"], running, rtol=1e-9)
    np.testing.assert_array_equal(out.batch_stats["pictures"]["mean"], prior[0])  # as it was
    # What comes back is in [0, 1], and the score is the mean of the largest values.
    if not train:
        judged = judging.evaluate(variables, jnp.asarray(image), draws, toys.networks(), config)
        shown = (repaint + 1) / 2 if image_range == "signed" else np.maximum(repaint, 0)
        np.testing.assert_allclose(judged.reconstruction, shown, atol=1e-8)
        top = np.sort(anomaly_map.reshape(4, -1), axis=1)[:, -config.evaluate.top_pixels :]
        np.testing.assert_allclose(judged.score, top.mean(1), atol=1e-8)


@pytest.mark.parametrize("image_range", ["unit", "signed"])
def test_the_segmentation_may_see_the_difference(float64, image_range):
    config, image, draws = case(model__image_range=image_range, model__difference=4.0)
    variables, alphas = (
        toys.variables(np.float64),
        np.cumprod(1 - diffusion.betas(config.diffusion)),
    )
    out = steps.forward(toys.networks(), variables, jnp.asarray(image), draws, config, train=True)
    _, repaint, anomaly_map, running = toys.numpy_forward(image, draws, config, alphas, True)
    np.testing.assert_allclose(out.reconstruction, repaint, atol=1e-8)
    np.testing.assert_allclose(out.anomaly_map, anomaly_map, atol=1e-8)
    np.testing.assert_allclose(out.batch_stats["segmentation"]["mean"], running, rtol=1e-9)


@pytest.mark.parametrize("image_range", ["unit", "signed"])
@pytest.mark.parametrize(("residual", "sigma"), [(0, 0.7), (0, 3.0), (0.5, 0), (1, 0), (0.5, 1.0)])
def test_maps_are_weighed_and_smoothed_before_they_are_scored(
    float64, image_range, residual, sigma
):
    """Against SciPy, which smooths the pictures of a batch one by one."""
    changes = {"evaluate__residual": float(residual), "evaluate__smoothing": float(sigma)}
    config, image, draws = case(model__image_range=image_range, **changes)
    judged = judging.evaluate(
        toys.variables(np.float64), jnp.asarray(image), draws, toys.networks(), config
    )
    alphas = np.cumprod(1 - diffusion.betas(config.diffusion))
    _, repaint, anomaly_map, _ = toys.numpy_forward(image, draws, config, alphas, False)
    shown = (repaint + 1) / 2 if image_range == "signed" else np.maximum(repaint, 0)
    weighed = anomaly_map[..., 0] * np.abs(image - shown).mean(-1) ** residual
    expected = np.stack([ndimage.gaussian_filter(one, sigma) for one in weighed])
    np.testing.assert_allclose(judged.anomaly_map[..., 0], expected, atol=1e-8)
    top = np.sort(expected.reshape(4, -1), axis=1)[:, -config.evaluate.top_pixels :]
    np.testing.assert_allclose(judged.score, top.mean(1), atol=1e-8)


@pytest.mark.parametrize(("image_range", "ends"), [("unit", (0, 1)), ("signed", (-1, 1))])
def test_the_networks_range(image_range, ends):
    model = helpers.parsed(model__image_range=image_range).model
    image = jnp.asarray([0.0, 0.25, 1.0]).reshape(1, 1, 1, 3)
    x = diffusion.to_network(image, model)
    expected = ends[0] + np.array([0.0, 0.25, 1.0]) * (ends[1] - ends[0])
    np.testing.assert_allclose(np.ravel(x), expected)
    np.testing.assert_allclose(diffusion.from_network(x, model), image)
    outside = jnp.asarray([-3.0, 0.5, 3.0]).reshape(1, 1, 1, 3)
    shown = np.ravel(diffusion.from_network(outside, model))
    np.testing.assert_allclose(shown, [0, (0.5 - ends[0]) / (ends[1] - ends[0]), 1])


def test_noise_takes_the_picture_s_place():
    """x_0 is nearly the picture and x_T nearly the noise, of equal variance all the way."""
    config = helpers.parsed().diffusion
    a = diffusion.alphas_at(config, jnp.asarray([0, 500, 999]), jnp.float32)
    assert a.shape == (3, 1, 1, 1) and a[0] > 0.999 and 0.05 < a[1, 0, 0, 0] < 0.1 and a[2] < 1e-4
    rng = np.random.default_rng(0)
    x, noise = (jnp.asarray(rng.standard_normal((3, 32, 32, 3)), jnp.float32) for _ in range(2))
    x_t = diffusion.add_noise(x, a, noise)
    np.testing.assert_allclose(np.var(x_t, axis=(1, 2, 3)), 1, atol=0.1)
    np.testing.assert_allclose(x_t[0], x[0], atol=0.06)
    np.testing.assert_allclose(x_t[2], noise[2], atol=0.06)


def test_timesteps_of_another_number_end_at_the_same_noise():
    """A schedule of T steps is that of 1000 steps, seen less often."""
    for schedule in ("linear", "cosine"):
        ends = []
        for count in (250, 1000):
            config = helpers.parsed(
                diffusion__timesteps=count,
                diffusion__schedule=schedule,
                diffusion__train_split=60,
                diffusion__train_end=count,
                evaluate__less_noisy=50,
                evaluate__noisier=100,
            ).diffusion
            a = diffusion.cumulative_alphas(config)
            assert a.shape == (count,) and (np.diff(a) < 0).all() and 0 < a[-1] < a[0] < 1
            ends.append(a[count // 4 - 1 :: count // 4])
        np.testing.assert_allclose(ends[0][:3], ends[1][:3], rtol=0.05)


@pytest.fixture
def batch():
    rng = np.random.default_rng(1)
    label = jnp.asarray([1.0, 0.0, 0.0, 1.0])
    mask = jnp.asarray(rng.random((4, 8, 8, 1)) > 0.7) * label.reshape(4, 1, 1, 1)
    return {"image": jnp.asarray(rng.random(PICTURES)), "mask": mask, "label": label}


def compiled_update(networks, optimizer, config):
    return jax.jit(
        functools.partial(steps.update, networks=networks, optimizer=optimizer, config=config)
    )


def state_of(config, optimizer, step=0):
    state = train_state.start(toys.variables(np.float64), optimizer)
    return train_state.TrainState(jnp.int32(step), state.variables, state.opt_state, state.ema)


@pytest.mark.parametrize(("decay", "step"), [(0.0, 7), (0.5, 10_000), (0.999, 0), (0.999, 5)])
def test_an_update(float64, batch, decay, step):
    """Descent by finite differences of the loss; the average; what is told of the gradients."""
    config, _, draws = case(train__ema_decay=decay)
    optimizer, networks = optax.sgd(0.1), toys.networks()
    state = state_of(config, optimizer, step)
    new, metrics = compiled_update(networks, optimizer, config)(state, batch, draws)
    assert new.step == step + 1

    @jax.jit
    def loss(params):
        changed = train_state.Variables(params, state.variables.batch_stats)
        return steps.training_loss(networks, changed, batch, draws, jnp.float64(2), config)[0]

    leaves, tree = jax.tree.flatten(state.variables.params)
    norms = {}
    for i, (leaf, after) in enumerate(
        zip(leaves, jax.tree.leaves(new.variables.params), strict=True)
    ):
        slopes = np.zeros(leaf.size)
        for j in range(leaf.size):
            both = [
                loss(jax.tree.unflatten(tree, [*leaves[:i], leaf.at[j].add(d), *leaves[i + 1 :]]))
                for d in (1e-6, -1e-6)
            ]
            slopes[j] = (both[0] - both[1]) / 2e-6
        np.testing.assert_allclose(after, leaf - 0.1 * slopes, rtol=1e-6, atol=1e-8)
        name = "segmentation" if i == 0 else "unet"
        norms[name] = np.hypot(norms.get(name, 0.0), np.linalg.norm(slopes))
    for name, norm in norms.items():
        np.testing.assert_allclose(metrics[f"{name}_gradient_norm"], norm, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], loss(state.variables.params), rtol=1e-9)
    kept = min(decay, (1 + step) / (10 + step))
    mean = toys.numpy_forward(
        np.asarray(batch["image"]),
        draws,
        config,
        np.cumprod(1 - diffusion.betas(config.diffusion)),
        True,
    )[3]
    np.testing.assert_allclose(new.variables.batch_stats["segmentation"]["mean"], mean, rtol=1e-9)
    jax.tree.map(
        lambda ema, old, now: np.testing.assert_allclose(
            ema, kept * old + (1 - kept) * now, rtol=1e-6
        ),
        new.ema,
        state.ema,
        new.variables,
    )


@pytest.mark.parametrize("target", ["normal", "clean"])
def test_parts_of_a_batch(float64, batch, target):
    """Part i has every parts-th picture; statistics go from part to part, gradients add up."""
    config, _, draws = case(train__accumulation_steps=2, loss__target=target)
    batch["clean"] = 1 - batch["image"]
    optimizer, networks = optax.sgd(1.0), toys.networks()
    state = state_of(config, optimizer)
    new, metrics = compiled_update(networks, optimizer, config)(state, batch, draws)
    stats, total, gradients = state.variables.batch_stats, 0.0, []
    for part in range(2):
        some, some_draws = jax.tree.map(lambda x, p=part: x[p::2], (batch, draws))

        def loss(params, stats=stats, some=some, some_draws=some_draws):
            whole = train_state.Variables(params, stats)
            count = jnp.float64(2)
            return steps.training_loss(networks, whole, some, some_draws, count, config)

        slope = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (value, (_, stats)), gradient = slope(state.variables.params)
        total += value
        gradients.append(gradient)
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-9)
    jax.tree.map(
        lambda now, old, a, b: np.testing.assert_allclose(now, old - a - b, rtol=1e-9),
        new.variables.params,
        state.variables.params,
        *gradients,
    )
    np.testing.assert_allclose(
        new.variables.batch_stats["segmentation"]["mean"], stats["segmentation"]["mean"]
    )


@pytest.mark.parametrize(("dropout", "parts"), [(0.0, 1), (0.25, 2)])
def test_dropout_draws_only_where_it_is_asked_for(float64, batch, dropout, parts):
    """The toy U-Net adds noise wherever it gets a key."""
    config, _, _ = case(model__dropout=dropout, train__accumulation_steps=parts)
    optimizer, networks = optax.sgd(0.0), toys.networks()
    state = state_of(config, optimizer)
    step = functools.partial(
        steps.train_step, networks=networks, optimizer=optimizer, config=config
    )
    key = jax.random.key(4)
    metrics = jax.jit(step)(state, batch, key)[1]
    draw_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, 1), 0))
    draws = steps.draw_training(draw_key, batch["image"], config.diffusion)
    update = compiled_update(networks, optimizer, config)
    losses = [update(state, batch, draws, dropout_key=k)[1]["loss"] for k in (None, dropout_key)]
    np.testing.assert_allclose(metrics["loss"], losses[dropout > 0], rtol=1e-9)
    assert abs(losses[0] - losses[1]) > 1e-3


def test_parts_draw_their_own_dropout(float64, batch):
    """Two equal parts would give twice the loss of one if they shared a key."""
    config, _, draws = case(model__dropout=0.5, train__accumulation_steps=2)
    twice = {k: jnp.repeat(v[:2], 2, axis=0) for k, v in batch.items()}
    same = jax.tree.map(lambda x: jnp.repeat(x[:2], 2, axis=0), draws)
    optimizer, networks = optax.sgd(0.0), toys.networks()
    state, key = state_of(config, optimizer), jax.random.key(0)
    metrics = compiled_update(networks, optimizer, config)(state, twice, same, dropout_key=key)[1]
    half = [
        steps.training_loss(
            networks,
            state.variables,
            {k: v[:2] for k, v in batch.items()},
            jax.tree.map(lambda x: x[:2], draws),
            jnp.sum(1 - twice["label"]),
            config,
            jax.random.fold_in(key, part),
        )[1][0]["noise_loss"]
        for part in range(2)
    ]
    assert abs(half[0] - half[1]) > 1e-3
    np.testing.assert_allclose(metrics["noise_loss"], sum(half), rtol=1e-9)


@pytest.mark.parametrize("name", ["unet", "segmentation"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_by_its_definition(float64, name, decay):
    """Kingma and Ba 2015; weight decay as Loshchilov and Hutter 2019, outside of the moments."""
    rates = {"unet": 1e-2, "segmentation": 3e-3}
    config = helpers.parsed(
        unet_optim__rate=rates["unet"],
        segmentation_optim__rate=rates["segmentation"],
        **{f"{net}_optim__schedule": "constant" for net in rates},
        **{f"{net}_optim__warmup_steps": 0 for net in rates},
        **{f"{name}_optim__weight_decay": decay},
    )
    optimizer = optim.optimizer(config, 10)
    params = {net: jnp.asarray([1.0, -2.0]) for net in rates}
    state, expected = optimizer.init(params), {net: np.array([1.0, -2.0]) for net in rates}
    moments = {net: [np.zeros(2), np.zeros(2)] for net in rates}
    for step in range(1, 4):
        gradients = {net: np.array([0.5, -0.1]) * step for net in rates}
        updates, state = optimizer.update(
            {net: jnp.asarray(g) for net, g in gradients.items()}, state, params
        )
        params = optax.apply_updates(params, updates)
        for net, g in gradients.items():
            m, v = moments[net]
            moments[net] = m, v = [0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2]
            change = m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
            change += (decay if net == name else 0.0) * expected[net]
            expected[net] = expected[net] - rates[net] * change
    for net in rates:
        np.testing.assert_allclose(params[net], expected[net], rtol=1e-9)
