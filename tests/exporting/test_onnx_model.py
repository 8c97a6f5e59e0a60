"""The ONNX graph against the JAX step, number by number, for every way that a score is made."""

import dataclasses

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
from jax import export

from diffad_jax.exporting import bundle, int8, onnx_model, stablehlo
from diffad_jax.method import train_state
from diffad_jax.runs import sharding
from diffad_jax.scoring import scorer
from tests.support import helpers

RECIPE = {
    "model__prediction": "preconditioned",
    "model__image_range": "signed",
    "model__difference": 4.0,
    "evaluate__residual": 0.5,
    "evaluate__smoothing": 1.0,
}
WAYS = {
    "the paper's": {},
    "the recipe, two draws": RECIPE | {"evaluate__draws": 2, "evaluate__less_noisy": 150},
    "deeper": {"model__unet_multipliers": (1, 2), "model__head_channels": 16},
}
PICTURES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


def scorer_of(**changes):
    config = helpers.parsed(evaluate__top_pixels=7, **changes)
    mesh = sharding.data_mesh(jax.devices()[:1])
    everywhere = sharding.replicated(mesh)
    variables = jax.device_put(helpers.random_variables(config), everywhere)
    step = jax.device_put(np.zeros((), np.int32), everywhere)
    return scorer.fresh(config, mesh, train_state.TrainState(step, variables, (), variables))


every_way = pytest.mark.parametrize("model", WAYS, indirect=True)


@pytest.fixture(scope="module", params=["the recipe, two draws"])
def model(request, fast_compiles):
    return scorer_of(**WAYS[request.param])


@pytest.fixture(scope="module")
def graph(model):
    made = onnx_model.write(model)
    onnx.checker.check_model(made, full_check=True)
    return made


def run(graph, pictures, **inputs):
    """Outputs by name."""
    session = onnxruntime.InferenceSession(graph.SerializeToString(), quiet())
    values = session.run(None, {"picture": pictures, **inputs})
    return dict(zip(onnx_model.OUTPUTS, values, strict=True))


def quiet():
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return options


def check(values, judged):
    assert np.ptp(judged.score) > 1e-4 and np.ptp(judged.anomaly_map) > 1e-2
    np.testing.assert_allclose(values["score"], judged.score, rtol=0, atol=5e-6)
    np.testing.assert_allclose(values["anomaly_map"], judged.anomaly_map[..., 0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(values["reconstruction"], judged.reconstruction, rtol=0, atol=1e-5)


@every_way
def test_the_graph_is_the_step(model, graph):
    judged = model.batch(PICTURES, 4)
    check(run(graph, PICTURES), judged)
    for row in range(len(PICTURES)):  # any batch size
        alone = run(graph, PICTURES[row : row + 1])
        np.testing.assert_allclose(alone["score"], judged.score[row : row + 1], rtol=0, atol=5e-6)


def test_another_noise_and_thresholds_may_be_given(model, graph):
    values = run(graph, PICTURES)
    assert not values["verdict"].any() and not values["pixel_mask"].any()  # without thresholds
    other = np.asarray(model.noises)[:, ::-1] * np.float32(0.5)
    again = dataclasses.replace(model, noises=jax.device_put(other, model.noises.sharding))
    score, cut = np.array(np.sort(values["score"])[1]), np.array(0.5, np.float32)
    given = run(graph, PICTURES, noise=other)
    check(given, again.batch(PICTURES, 4))
    judged = run(graph, PICTURES, image_threshold=score, pixel_threshold=cut)
    assert judged["verdict"].tolist() == (values["score"] >= score).tolist()
    np.testing.assert_array_equal(judged["pixel_mask"], values["anomaly_map"] >= cut)


def test_half_precision_and_8_bits_stay_near(model, graph, tmp_path):
    """And compute in it: the weights' type is what it says."""
    whole = run(graph, PICTURES)
    half = onnx_model.write(model, half=True)
    int8.quantise(graph, PICTURES, tmp_path / "int8.onnx")
    eight = onnx.load(tmp_path / "int8.onnx")
    for made, kind, near in ((half, "FLOAT16", 5e-3), (eight, "INT8", 0.2)):
        weights = [t for t in made.graph.initializer if len(t.dims) == 4 and t.dims[0] >= 2]
        assert {onnx.TensorProto.DataType.Name(t.data_type) for t in weights} >= {kind}
        values = run(made, PICTURES)
        off = max(np.abs(values[name] - whole[name]).max() for name in ("score", "anomaly_map"))
        assert 0 < off < near


def test_stablehlo_is_the_step(model):
    everywhere = sharding.replicated(sharding.data_mesh())  # weights on eight devices
    spread = dataclasses.replace(model, variables=jax.device_put(model.variables, everywhere))
    again = export.deserialize(bytearray(stablehlo.write(spread)))
    assert again.platforms == stablehlo.PLATFORMS and again.nr_devices == 1
    judged = model.batch(PICTURES, 4)
    for ours, theirs in zip(judged, again.call(PICTURES), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5)


def test_weights_of_more_than_protobuf_holds_lie_beside(model, graph, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "LARGEST", 10_000)
    bundle.write_graph(graph, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx.data").stat().st_size > 10_000
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", quiet())
    found = session.run(["score"], {"picture": PICTURES})[0]
    np.testing.assert_array_equal(found, run(graph, PICTURES)["score"])
