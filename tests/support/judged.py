"""Pictures in memory, and a scorer whose network takes no time."""

import dataclasses

import jax
import numpy as np

from diffad_jax.method import judging, train_state
from diffad_jax.runs import sharding
from diffad_jax.scoring import scorer
from input_pipeline.on_disk import Pictures, Stored


def pictures_of(labels, seed=5, masks=True):
    """Noise pictures; the defective ones have a bright square, and the truth of it."""
    labels = np.asarray(labels, np.int32)
    count = len(labels)
    images = np.random.default_rng(seed).integers(0, 200, (count, 32, 32, 3), np.uint8)
    truth = np.zeros((count, 32, 32, 1), np.uint8)
    truth[labels == 1, 8:16, 4:12] = 1
    images[truth[..., 0] > 0, 0] += 50
    return Pictures(
        images=images,
        masks=truth if masks else None,
        has_mask=np.full(count, masks),
        labels=labels,
        defects=[("good", "square")[label] for label in labels],
        names=[f"{i}.png" for i in range(count)],
        stamps=[f"{i:012x}" for i in range(count)],
        foregrounds=None,
        has_foreground=np.zeros(count, bool),
    )


def with_images(pictures, images):
    """As many others, or the same in another order; what is known of them stays."""
    return dataclasses.replace(pictures, images=images)


@jax.jit
def toy_step(variables, image, noises):
    """Defective where red exceeds green."""
    anomaly_map = jax.nn.sigmoid(8 * (image[..., :1] - image[..., 1:2]) - 4)
    return judging.Judgement(anomaly_map.mean((1, 2, 3)), anomaly_map, 0.9 * image)


def toy_scorer(config, step=7):
    """On one device."""
    mesh = sharding.data_mesh(jax.devices()[:1])
    noises, nothing = scorer.evaluation_noises(config, mesh), train_state.Variables({}, {})
    return scorer.Scorer(config, mesh, noises, toy_step, nothing, step)


def stored(images):
    """As pictures that stay on disk."""
    source = [{"image": image} for image in images]
    return Stored(source, "image", images.shape[1:], np.arange(len(images)))
