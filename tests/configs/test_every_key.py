"""No key of the configuration is without a test that fails when the key is ignored.

Most are tested here: what they must change, changes. The others name the test that does it.
"""

import ast
import dataclasses
import functools
import pathlib
import types
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import schema
from diffad_jax import evaluate, train
from diffad_jax.method import jitted, optim, train_state
from diffad_jax.models.unet import Attention
from diffad_jax.runs import checkpoint, sharding
from diffad_jax.scoring import scorer
from tests.method import toys
from tests.support import helpers

TESTS = pathlib.Path(__file__).parents[1]
SIZE, BATCH = 32, 4


def key_shape():
    return jax.eval_shape(lambda: jax.random.key(0))


def training(config):
    """The program of a training step around toy networks, its constants included."""
    optimizer = optim.optimizer(config, total_steps=100)
    known = np.zeros((SIZE, SIZE, 3)), 0.5  # of the pictures
    prior = known if config.model.prediction == "preconditioned" else None
    state = jax.eval_shape(lambda: train_state.start(toys.variables(prior=prior), optimizer))
    batch = {
        name: jax.ShapeDtypeStruct(shape, jnp.float32)
        for name, shape in jitted.batch_shapes(config).items()
    }
    mesh = sharding.data_mesh(jax.devices()[:1])
    step = jitted.train_step(toys.networks(), optimizer, config, mesh)
    return step.lower(state, batch, key_shape()).as_text()


def evaluation(config):
    """The program of an evaluation step around toy networks."""
    variables = jax.eval_shape(toys.variables)
    image = jax.ShapeDtypeStruct((BATCH, SIZE, SIZE, 3), jnp.float32)
    mesh = sharding.data_mesh(jax.devices()[:1])
    noises = jax.eval_shape(lambda: scorer.evaluation_noises(config, mesh))
    step = jitted.evaluate_step(toys.networks(), config, mesh)
    return step.lower(variables, image, noises).as_text()


def weights(config):
    """Names and shapes of all weights."""
    made = jax.eval_shape(
        functools.partial(train_state.init_variables, config.model), jax.random.key(0)
    )
    return {
        jax.tree_util.keystr(path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(made)
    }


def batches(config):
    """Shapes of the arrays of a training batch."""
    return jitted.batch_shapes(config)


def steps_of_a_run(config):
    return train.length(config, pictures=10)


OSCILLATING = {f"{net}_optim__schedule": "oscillating" for net in ("unet", "segmentation")}
# Key: what it changes, two values, and what else is set with both.
HERE = {
    "model.image_size": (batches, 32, 64, {}),
    "model.image_range": (training, "unit", "signed", {}),
    "model.prediction": (training, "epsilon", "preconditioned", {}),
    "model.difference": (training, 0.0, 4.0, {}),
    "model.unet_base": (weights, 32, 64, {}),
    "model.unet_multipliers": (weights, (1, 1), (1, 2), {}),
    "model.res_blocks": (weights, 1, 2, {}),
    "model.attention_widths": (weights, (16,), (32, 16), {}),
    "model.dropout": (training, 0.0, 0.1, {}),
    "model.segmentation_base": (weights, 2, 3, {}),
    "diffusion.timesteps": (training, 1000, 1200, {}),
    "diffusion.schedule": (training, "linear", "cosine", {}),
    "diffusion.train_split": (training, 300, 301, {}),
    "diffusion.train_end": (training, 1000, 999, {}),
    "diffusion.guidance_weight": (evaluation, 1.0, 1.25, {}),
    "loss.target": (training, "normal", "clean", {}),
    "loss.snr_gamma": (training, 0.0, 5.0, {}),
    "loss.focal_weight": (training, 5.0, 4.0, {}),
    "loss.focal_alpha": (training, 0.5, 0.25, {}),
    "loss.focal_gamma": (training, 4.0, 2.0, {}),
    "loss.smooth_l1_weight": (training, 1.0, 2.0, {}),
    "loss.smooth_l1_beta": (training, 1.0, 0.5, {}),
    **{
        f"{net}_optim.{name}": (training, a, b, more)
        for net in ("unet", "segmentation")
        for name, a, b, more in (
            ("rate", 1e-3, 2e-3, {}),
            ("schedule", "constant", "cosine", {}),
            ("warmup_steps", 0, 5, {}),
            ("half_period", 10, 11, OSCILLATING),
            ("weight_decay", 0.0, 0.1, {}),
        )
    },
    "train.batch_size": (batches, 4, 8, {}),
    "train.steps": (steps_of_a_run, 6, 7, {}),
    "train.epochs": (steps_of_a_run, 3, 4, {"train__steps": 0}),
    "train.accumulation_steps": (training, 1, 2, {}),
    "train.ema_decay": (training, 0.99, 0.999, {}),
    "evaluate.less_noisy": (evaluation, 200, 199, {}),
    "evaluate.noisier": (evaluation, 400, 401, {}),
    "evaluate.draws": (evaluation, 1, 2, {}),
    "evaluate.residual": (evaluation, 0.0, 0.5, {}),
    "evaluate.smoothing": (evaluation, 0.0, 1.0, {}),
    "evaluate.top_pixels": (evaluation, 10, 11, {}),
}
ELSEWHERE = {
    "seed": "method/test_training_draws.py::test_steps_and_seeds_are_independent",
    "model.heads": "configs/test_every_key.py::test_heads",
    "model.head_channels": "configs/test_every_key.py::test_heads",
    "model.compute_dtype": (
        "models/test_networks.py::test_bfloat16_is_near_float32_with_float32_parameters"
    ),
    "model.matmul_precision": "configs/test_every_key.py::test_products_in_full_precision",
    "model.attention": "models/test_networks.py::test_fused_attention_gets_the_same_queries",
    "model.remat": "models/test_networks.py::test_rematerialisation_keeps_less",
    "data.root": "input_pipeline/test_datasets.py::test_loads_exactly_what_lies_on_disk",
    "data.category": "input_pipeline/test_datasets.py::test_loads_exactly_what_lies_on_disk",
    "data.layout": "input_pipeline/test_faults.py::test_a_whole_category_is_read_exactly",
    "data.kind": "input_pipeline/test_datasets.py::test_kind",
    "data.textures": "input_pipeline/test_datasets.py::test_textures",
    "data.corrections": "runs/test_adapting.py::test_a_run_goes_on_with_corrections",
    "data.cache_dir": (
        "input_pipeline/test_datasets.py::test_prepared_once_and_again_only_when_changed"
    ),
    "data.resize": "input_pipeline/test_datasets.py::test_each_size_and_resize_is_its_own",
    "data.fit": "test_predict.py::test_cropped_and_padded_pictures_are_judged_as_in_training",
    "data.foreground": "input_pipeline/test_foreground.py::test_choice_without_files",
    "data.missing_masks": "input_pipeline/test_datasets.py::test_missing_mask",
    "data.normal_share": (
        "input_pipeline/draws/test_synthesis_draws.py::test_the_share_of_normal_pictures"
    ),
    "data.matched_share": (
        "input_pipeline/draws/test_synthesis_draws.py::test_the_share_of_matched_levels"
    ),
    "data.blend_min": "input_pipeline/draws/test_synthesis_draws.py::test_the_blend_of_the_options",
    "data.blend_max": "input_pipeline/draws/test_synthesis_draws.py::test_the_blend_of_the_options",
    "data.holdout": (
        "input_pipeline/test_datasets.py::test_pictures_are_held_out_where_no_defect_is_known"
    ),
    "data.memory_gib": (
        "input_pipeline/test_datasets.py::"
        "test_what_does_not_fit_into_memory_stays_on_disk_and_is_the_same"
    ),
    "train.log_every": "test_train.py::test_a_whole_run",
    "train.image_every": "test_train.py::test_a_whole_run",
    "train.evaluate_every": "test_train.py::test_a_whole_run",
    "train.checkpoint_every": "configs/test_every_key.py::test_checkpoints_kept",
    "train.keep_checkpoints": "configs/test_every_key.py::test_checkpoints_kept",
    "train.deterministic": "configs/test_every_key.py::test_deterministic_operations_of_gpus",
    "train.keep_best": "test_safety.py::test_the_best_on_the_test_split_is_kept_apart",
    "train.profile_steps": "test_safety.py::test_a_profile_of_some_steps",
    "evaluate.batch_size": "scoring/test_scorer.py::test_scores_depend_on_the_picture_alone",
    "evaluate.weights": (
        "scoring/test_scorer.py::"
        "test_a_state_in_training_is_scored_with_the_weights_that_are_asked_for"
    ),
    "evaluate.checkpoint": "test_safety.py::test_the_best_on_the_test_split_is_kept_apart",
    "evaluate.threshold": "test_evaluate.py::test_a_recall_that_was_asked_for",
    "evaluate.grid_rows": "configs/test_every_key.py::test_rows_of_the_grid",
    "evaluate.exact_pictures": "test_evaluate.py::test_a_large_set_gives_what_a_small_one_gives",
    "predict.tile_overlap": "test_predict.py::test_tiles_of_a_large_picture",
}


def keys(kind=schema.Config, prefix=""):
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(field.type):
            yield from keys(field.type, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def test_every_key_has_a_test():
    known = set(keys())
    assert len(known) > 70
    assert known == set(HERE) | set(ELSEWHERE) and not set(HERE) & set(ELSEWHERE)
    for place in ELSEWHERE.values():
        file, _, name = place.partition("::")
        tree = ast.parse((TESTS / file).read_text())
        assert name in {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}, place


@functools.cache
def effect(what, config):
    return what(config)


@pytest.mark.parametrize("key", list(HERE))
def test_a_key_changes_what_it_must(key):
    what, a, b, more = HERE[key]
    settled = {
        **{f"{net}_optim__warmup_steps": 0 for net in ("unet", "segmentation")},
        **{f"{net}_optim__schedule": "constant" for net in ("unet", "segmentation")},
    }
    name = key.replace(".", "__")
    changed = (helpers.parsed(**settled | more | {name: value}) for value in (a, b))
    first, second = (effect(what, config) for config in changed)
    assert first != second


def test_equal_configurations_give_equal_programs():
    """Else all comparisons above would say nothing."""
    for what in (training, evaluation):
        assert what(helpers.parsed()) == what(helpers.parsed())


def attention(x, weights, heads):
    """Vaswani et al. 2017 in NumPy; channels of the product lie as [head][q, k, v]."""
    n, h, w, c = x.shape
    groups = x.reshape(n, h * w, 32, c // 32)
    normal = groups - groups.mean((1, 3), keepdims=True)
    normal /= np.sqrt(normal.var((1, 3), keepdims=True) + 1e-5)
    product = normal.reshape(n, h * w, c) @ weights["kernel"] + weights["bias"]
    parts = product.reshape(n, h * w, heads, 3, c // heads)
    q, k, v = np.moveaxis(parts, 3, 0)
    logits = np.einsum("nqhc,nkhc->nhqk", q, k) / np.sqrt(c // heads)
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    return x + np.einsum("nhqk,nkhc->nqhc", shares, v).reshape(x.shape)


@pytest.mark.parametrize(
    ("heads", "head_channels", "expected"), [(1, 0, 1), (4, 0, 4), (4, 32, 2), (1, 8, 8)]
)
def test_heads(heads, head_channels, expected):
    config = helpers.parsed(model__heads=heads, model__head_channels=head_channels).model
    layer = Attention(64, config, rngs=nnx.Rngs(0))
    layer.projection.kernel[...] = jnp.eye(64)
    rng = np.random.default_rng(0)
    weights = {"kernel": rng.standard_normal((64, 192)) / 4, "bias": rng.standard_normal(192)}
    layer.qkv.kernel[...] = jnp.asarray(weights["kernel"], jnp.float32)
    layer.qkv.bias[...] = jnp.asarray(weights["bias"], jnp.float32)
    x = rng.standard_normal((2, 2, 3, 64))
    result = layer(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(result, attention(x, weights, expected), atol=1e-4)


@pytest.mark.parametrize(("precision", "said"), [("default", "DEFAULT"), ("highest", "HIGHEST")])
def test_products_in_full_precision(precision, said):
    config = helpers.parsed(model__matmul_precision=precision)
    step = jitted.in_precision(jnp.matmul, config.model)
    square = jax.ShapeDtypeStruct((2, 2), jnp.float32)
    text = str(jax.make_jaxpr(step)(square, square))
    assert ("HIGHEST" in text) == (said == "HIGHEST")
    for make in (training, evaluation):  # both steps are made with it
        with mock.patch.object(jitted, "in_precision", wraps=jitted.in_precision) as seen:
            make(config)
        assert seen.call_args.args[1] is config.model


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("asked", [False, True])
def test_deterministic_operations_of_gpus(asked, platform):
    config = helpers.parsed(train__deterministic=asked)
    device = types.SimpleNamespace(platform=platform)
    mesh = types.SimpleNamespace(devices=np.array([device]))
    options = jitted.compiler_options.__wrapped__(config.train, mesh)
    if platform == "cpu":
        assert options in (None, jitted.STEPS)
    else:
        expected = {"xla_gpu_deterministic_ops": True} if asked and platform == "gpu" else None
        assert options == expected
    for make in (training, evaluation):
        with mock.patch.object(jitted, "compiler_options", return_value=None) as seen:
            make(config)
        assert seen.call_args.args[0] is config.train


def test_checkpoints_kept(tmp_path):
    """Those of every so many steps, the newest few."""
    config = helpers.parsed(train__checkpoint_every=3, train__keep_checkpoints=2)
    category = mock.Mock()
    category.train.images = np.zeros((9, 1))
    with (
        mock.patch.object(train.checkpoint, "Checkpoints", side_effect=StopIteration) as opened,
        pytest.raises(StopIteration),
    ):
        train.prepare(config, tmp_path, sharding.data_mesh(), category, None, None)
    assert opened.call_args.args == (tmp_path, 3, 2)
    with checkpoint.Checkpoints(*opened.call_args.args) as checkpoints:
        due = [step for step in range(1, 13) if checkpoints.due(step)]
        for step in due:
            checkpoints.save(step, {"x": jnp.ones(2)})
    with checkpoint.Checkpoints(tmp_path, writer=False) as checkpoints:
        assert due == [3, 6, 9, 12] and checkpoints.steps == [9, 12]


@pytest.mark.parametrize("rows", [1, 12])
def test_rows_of_the_grid(tmp_path, rows):
    found = mock.Mock()
    found.threshold, found.identity.step = None, 1
    with (
        mock.patch.object(evaluate, "tables") as tables,
        mock.patch.object(evaluate, "page"),
        mock.patch.object(evaluate, "grid") as grid,
    ):
        tables.summary.return_value = tables.repainting.return_value = ""
        write = getattr(evaluate.write, "__wrapped__", evaluate.write)
        write(tmp_path, found, helpers.parsed(evaluate__grid_rows=rows))
    assert grid.write.call_args.args[2] == rows
