"""Networks of a few numbers in the place of the real ones, and the same once more in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from diffad_jax.method import train_state


class ToyUNet(nnx.Module):
    """Every channel times a number, plus the time step's share of another; noise by the key."""

    def __init__(self):
        self.scale = nnx.Param(jnp.asarray([0.9, 0.5, -0.4]))
        self.shift = nnx.Param(jnp.asarray([0.1, -0.7, 0.3]))

    def __call__(self, x, t, *, key=None):
        share = (t / 1000).astype(x.dtype)[:, None, None, None]
        out = x * self.scale.reshape(1, 1, 1, 3) + share * self.shift.reshape(1, 1, 1, 3)
        return out if key is None else out + jax.random.normal(key, x.shape, x.dtype)


class ToySegmentation(nnx.Module):
    """A weighted sum of the six channels less their mean, which a running average follows."""

    def __init__(self):
        self.weight = nnx.Param(jnp.asarray([2.0, -1.0, 0.5, -2.0, 1.0, 0.3]))
        self.mean = nnx.BatchStat(jnp.asarray([0.3, 0.2, 0.1, 0.4, 0.5, 0.6]))

    def __call__(self, x, *, train):
        mean = jnp.mean(x, axis=(0, 1, 2)) if train else self.mean[...]
        if train:
            self.mean[...] = 0.9 * self.mean[...] + 0.1 * mean
        centred = (x - mean.reshape(1, 1, 1, 6)) * self.weight.reshape(1, 1, 1, 6)
        return jax.nn.sigmoid(jnp.sum(centred, axis=-1, keepdims=True))


def networks() -> train_state.Networks:
    return train_state.Networks(nnx.graphdef(ToyUNet()), nnx.graphdef(ToySegmentation()))


def variables(dtype=jnp.float32, prior=None) -> train_state.Variables:
    """With `prior`, a mean and a spread in [0, 1], for a preconditioned U-Net."""
    unet, segmentation = ToyUNet(), ToySegmentation()
    params, stats = nnx.state(segmentation, nnx.Param, nnx.BatchStat)
    made = train_state.Variables(
        {
            "unet": nnx.to_pure_dict(nnx.state(unet, nnx.Param)),
            "segmentation": nnx.to_pure_dict(params),
        },
        {"segmentation": nnx.to_pure_dict(stats)},
    )
    if prior is not None:
        made.batch_stats["pictures"] = dict(zip(("mean", "spread"), prior, strict=True))
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), made)


def numpy_forward(image, draws, config, alphas, train, prior=(0.0, 0.5)):
    """Outputs of the U-Net (less noisy, noisier), reconstruction, map and the new running mean.

    By the formulas of the two papers; the guidance as the authors have it, by noising the less
    noisy estimate again on the way to the noisier one.
    """
    host = variables(np.float64)
    params = jax.tree.map(np.asarray, host.params)
    model = config.model
    signed = model.image_range == "signed"
    x, centre, s = image, *prior
    if signed:
        x, centre, s = 2 * image - 1, 2 * np.asarray(centre) - 1, 2 * s
    outputs, starts = [], []
    for t, noise in (
        (draws.t_less_noisy, draws.noise_less_noisy),
        (draws.t_noisier, draws.noise_noisier),
    ):
        t, noise = np.asarray(t), np.asarray(noise)
        a = alphas[t][:, None, None, None]
        x_t = np.sqrt(a) * x + np.sqrt(1 - a) * noise
        sigma2, s2 = (1 - a) / a, s**2
        shifted = x_t / np.sqrt(a) - centre
        seen = shifted / np.sqrt(sigma2 + s2)
        seen = x_t if model.prediction == "epsilon" else seen
        unet = params["unet"]
        output = seen * unet["scale"] + t[:, None, None, None] / 1000 * unet["shift"]
        if model.prediction == "epsilon":
            start = (x_t - np.sqrt(1 - a) * output) / np.sqrt(a)
        else:
            skip, out = s2 / (sigma2 + s2), np.sqrt(sigma2 * s2 / (sigma2 + s2))
            start = centre + skip * shifted + out * output
        outputs.append(output)
        starts.append((start, x_t, a))
    (start, x_t, a), (target, _, _) = starts
    weight = config.diffusion.guidance_weight
    noise = (x_t - np.sqrt(a) * start) / np.sqrt(1 - a)  # what leads from the estimate to x_t
    wanted = np.sqrt(a) * np.clip(target, -1, 1) + np.sqrt(1 - a) * noise
    guided = noise - np.sqrt(1 - a) * weight * (wanted - x_t)
    repaint = np.clip((x_t - np.sqrt(1 - a) * guided) / np.sqrt(a), -1, 1)
    second = model.difference * (x - repaint) if model.difference else repaint
    both = np.concatenate([x, second], -1)
    running = np.asarray(host.batch_stats["segmentation"]["mean"])
    mean = both.mean((0, 1, 2)) if train else running
    weighed = ((both - mean) * params["segmentation"]["weight"]).sum(-1, keepdims=True)
    running = 0.9 * running + 0.1 * mean if train else running
    return outputs, repaint, 1 / (1 + np.exp(-weighed)), running
