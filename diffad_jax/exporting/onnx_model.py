"""The whole method as one ONNX graph: a picture in, score, verdict, map and repaint out.

The same arithmetic as `method.judging.evaluate_step`, its constants gathered; the picture enters as
its file holds it, NHWC, and so does the reconstruction leave.
"""

import math

import numpy as np
import onnx
from flax import nnx
from scipy import ndimage

from diffad_jax.exporting import networks
from diffad_jax.exporting.graph import Graph
from diffad_jax.method import diffusion, train_state
from diffad_jax.scoring.scorer import Scorer

OUTPUTS = ("score", "verdict", "anomaly_map", "reconstruction", "pixel_mask")
ALIGNED = 16  # float32 of a cache line


def write(model: Scorer, half: bool = False) -> onnx.ModelProto:
    """The graph of a model, float32; any number of pictures at a time.

    Inputs, s the model's picture size and k its `evaluate.draws`:
      picture: u8[n, s, s, 3], RGB.
      noise: f32[k, 2, s, s, 3], by default the one that the run is evaluated with.
      image_threshold, pixel_threshold: f32[], by default NaN, which marks nothing.
    Outputs:
      score: f32[n]. verdict: bool[n], score >= image_threshold. anomaly_map: f32[n, s, s].
      reconstruction: f32[n, s, s, 3] in [0, 1]. pixel_mask: bool[n, s, s], map >= pixel_threshold.

    Args:
      model: weights, noise and settings.
      half: convolutions in float16.
    """
    graph, size = Graph(), model.config.model.image_size
    noises = np.asarray(model.noises)
    picture = graph.input("picture", ("n", size, size, 3), np.uint8)
    noise = graph.input("noise", noises.shape, np.float32, noises)
    thresholds = [
        graph.input(f"{name}_threshold", (), np.float32, math.nan) for name in ("image", "pixel")
    ]
    judged = _Method(graph, model, half)(picture, noise)
    score, anomaly_map, reconstruction = judged
    verdict = graph.add("GreaterOrEqual", score, thresholds[0])
    mask = graph.add("GreaterOrEqual", anomaly_map, thresholds[1])
    values = (score, verdict, anomaly_map, reconstruction, mask)
    shapes = (("n",), ("n",), ("n", size, size), ("n", size, size, 3), ("n", size, size))
    dtypes = (np.float32, np.bool_, np.float32, np.float32, np.bool_)
    kinds = zip(values, shapes, dtypes, strict=True)
    return graph.model(dict(zip(OUTPUTS, kinds, strict=True)))


class _Method:
    """Noise, denoise twice, guide, segment, score; see `method.steps.forward`."""

    def __init__(self, graph: Graph, model: Scorer, half: bool):
        self._graph, self._config = graph, model.config
        self._layers = networks.Layers(graph, half)
        config, variables = model.config, model.variables
        defined = train_state.define(config.model)
        self._unet = nnx.merge(defined.unet, variables.params["unet"])
        self._segmentation = nnx.merge(
            defined.segmentation,
            variables.params["segmentation"],
            variables.batch_stats["segmentation"],
        )
        self._prior = variables.prior(config.model)

    def __call__(self, picture: str, noise: str) -> tuple[str, str, str]:
        """Score f32[n], map f32[n, s, s] and reconstruction f32[n, s, s, 3]."""
        graph, size = self._graph, self._config.model.image_size
        image = graph.add("Cast", picture, to=onnx.TensorProto.FLOAT)
        image = graph.add("Div", image, graph.constant(255))
        image = graph.add("Transpose", image, perm=[0, 3, 1, 2])
        x = self._to_network(image)
        repaint = self._repaint(x, noise)  # [k, n, 3, s, s]
        second = repaint
        if self._config.model.difference:
            change = graph.add("Sub", x, repaint)
            second = graph.add("Mul", change, graph.constant(self._config.model.difference))
        every = graph.add("Expand", x, graph.add("Shape", repaint))
        seen = graph.add("Concat", every, second, axis=2)
        anomaly_map = networks.segmentation(
            self._layers, self._segmentation, graph.shaped(seen, -1, 6, size, size)
        )
        reconstruction = self._from_network(repaint)
        anomaly_map = graph.shaped(anomaly_map, self._config.evaluate.draws, -1, 1, size, size)
        anomaly_map = self._smoothed(self._weighed(anomaly_map, image, reconstruction))
        axis = graph.constant([0], np.int64)
        mean = [
            graph.add("ReduceMean", each, axis, keepdims=0)
            for each in (anomaly_map, reconstruction)
        ]
        reconstruction = graph.add("Transpose", mean[1], perm=[0, 2, 3, 1])
        return self._score(mean[0]), graph.shaped(mean[0], -1, size, size), reconstruction

    def _score(self, anomaly_map: str) -> str:
        """f32[n] of a map f32[n, 1, s, s], as `judging.image_score`.

        Values are added up in an order that depends on where in memory the first of them lies. With
        zeros up to a whole cache line that is the same for all pictures of a batch, and a score has
        the same bits wherever in a batch of any size its picture is.
        """
        graph, count = self._graph, self._config.evaluate.top_pixels
        flat = graph.shaped(anomaly_map, -1, self._config.model.image_size**2)
        largest, _ = graph.add("TopK", flat, graph.constant([count], np.int64), outputs=2, axis=-1)
        padding = graph.constant([0, 0, 0, -count % ALIGNED], np.int64)
        largest = graph.add("Pad", largest, padding, graph.constant(0))
        total = graph.add("ReduceSum", largest, graph.constant([-1], np.int64), keepdims=0)
        return graph.add("Div", total, graph.constant(count))

    def _repaint(self, x: str, noise: str) -> str:
        """The guided reconstruction f32[k, n, 3, s, s], in the networks' range.

        As `diffusion.guide`.
        """
        graph, config = self._graph, self._config
        noise = graph.add("Transpose", noise, perm=[1, 0, 4, 2, 3])
        pair = graph.add("Split", noise, outputs=2, axis=0, num_outputs=2)
        times = (config.evaluate.less_noisy, config.evaluate.noisier)
        less, more = (self._estimate(x, *given) for given in zip(pair, times, strict=True))
        alpha = float(diffusion.cumulative_alphas(config.diffusion)[times[0]])
        weight = graph.constant(config.diffusion.guidance_weight * (1 - alpha))
        correction = graph.add("Mul", graph.add("Sub", self._clipped(more, -1.0), less), weight)
        return self._clipped(graph.add("Add", less, correction), -1.0)

    def _estimate(self, x: str, noise: str, time: int) -> str:
        """x_0 at one noise level, f32[k, n, 3, s, s], of noise f32[1, k, 3, s, s].

        All of `diffusion.predict_start` but the U-Net's output F is linear in what the U-Net sees:
        x_0 = known * centred + unknown * F + mean.
        """
        graph, draws, prior = self._graph, self._config.evaluate.draws, self._prior
        size = self._config.model.image_size
        a = float(diffusion.cumulative_alphas(self._config.diffusion)[time])

        def times(factor: float, value: str) -> str:
            return graph.add("Mul", value, graph.constant(factor))

        noise = graph.shaped(noise, draws, 1, 3, size, size)
        centred = graph.add("Add", times(math.sqrt(a), x), times(math.sqrt(1 - a), noise))
        seen, known, unknown = 1.0, 1 / math.sqrt(a), -math.sqrt(1 / a - 1)
        mean = None
        if prior is not None:
            mean, s = np.asarray(prior.mean, np.float64), float(prior.spread)
            mean = mean.transpose(0, 3, 1, 2)
            centred = graph.add("Sub", centred, graph.constant(math.sqrt(a) * mean))
            variance = 1 - a + a * s**2
            seen, known = 1 / math.sqrt(variance), s**2 * math.sqrt(a) / variance
            unknown = s * math.sqrt((1 - a) / variance)
        shown = graph.shaped(times(seen, centred), -1, 3, size, size)
        output = networks.unet(self._layers, self._unet, shown, time, size)
        output = graph.shaped(output, draws, -1, 3, size, size)
        start = graph.add("Add", times(known, centred), times(unknown, output))
        return start if mean is None else graph.add("Add", start, graph.constant(mean))

    def _weighed(self, anomaly_map: str, image: str, reconstruction: str) -> str:
        """Times the residual to its power; f32[k, n, 1, s, s]."""
        power, graph = self._config.evaluate.residual, self._graph
        if not power:
            return anomaly_map
        residual = graph.add("Abs", graph.add("Sub", image, reconstruction))
        residual = graph.add("ReduceMean", residual, graph.constant([2], np.int64))
        return graph.add("Mul", anomaly_map, graph.add("Pow", residual, graph.constant(power)))

    def _smoothed(self, anomaly_map: str) -> str:
        """Under a Gaussian, as `judging.smooth`."""
        sigma, size = self._config.evaluate.smoothing, self._config.model.image_size
        if not sigma:
            return anomaly_map
        along = ndimage.gaussian_filter1d(np.eye(size), sigma, axis=0)
        columns = self._graph.add("MatMul", anomaly_map, self._graph.constant(along.T))
        return self._graph.add("MatMul", self._graph.constant(along), columns)

    def _to_network(self, image: str) -> str:
        if self._config.model.image_range != "signed":
            return image
        doubled = self._graph.add("Mul", image, self._graph.constant(2))
        return self._graph.add("Sub", doubled, self._graph.constant(1))

    def _from_network(self, x: str) -> str:
        if self._config.model.image_range == "signed":
            x = self._graph.add("Add", x, self._graph.constant(1))
            x = self._graph.add("Mul", x, self._graph.constant(0.5))
        return self._clipped(x, 0.0)

    def _clipped(self, x: str, low: float) -> str:
        return self._graph.add("Clip", x, self._graph.constant(low), self._graph.constant(1))
