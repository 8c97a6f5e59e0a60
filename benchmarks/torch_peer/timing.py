"""Training and inference steps in PyTorch, their speed, and whether they compute what ours do."""

import resource
from collections.abc import Callable

import jax
import numpy as np
import torch
from torch.nn import functional

from benchmarks import sweep
from benchmarks.torch_peer.networks import Peer
from configs import schema
from diffad_jax.method import steps, train_state
from diffad_jax.models import torch_weights

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def loss_of(outputs, noises, mask, label, weights: schema.LossConfig):
    """Sum of noise, focal and smooth-L1 loss, as in `diffad_jax.method.losses`."""
    e_s, e_b, probability = outputs
    errors = sum((e - n).square().mean((1, 2, 3)) for e, n in zip((e_s, e_b), noises, strict=True))
    normal = 1 - label
    noise = (errors * normal).sum() / normal.sum().clamp(min=1)
    entropy = functional.binary_cross_entropy(probability, mask, reduction="none")
    focal = weights.focal_alpha * (1 - torch.exp(-entropy)) ** weights.focal_gamma * entropy
    distance = functional.smooth_l1_loss(probability, mask, beta=weights.smooth_l1_beta)
    return noise + weights.focal_weight * focal.mean() + weights.smooth_l1_weight * distance


def prepared(config: schema.Config, mode: str):
    """The module as a mode runs it, and the context of its forward passes."""
    best = mode == "best"
    peer = Peer(config, together=best).to(DEVICE)
    if best:
        peer = peer.to(memory_format=torch.channels_last)
        peer.compile()
    return peer, torch.autocast(DEVICE, torch.bfloat16, enabled=best)


def inputs(config: schema.Config):
    """Random pictures, time steps and noises; mask and label."""
    torch.manual_seed(0)
    b, s, d = config.train.batch_size, config.model.image_size, config.diffusion
    x, e_1, e_2 = (f(b, 3, s, s, device=DEVICE) for f in (torch.rand, torch.randn, torch.randn))
    t_s = torch.randint(0, d.train_split, (b,), device=DEVICE)
    t_b = torch.randint(d.train_split, d.train_end, (b,), device=DEVICE)
    label = (torch.arange(b, device=DEVICE) % 2).float()
    mask = (torch.rand(b, 1, s, s, device=DEVICE) > 0.9).float() * label[:, None, None, None]
    return (x, t_s, t_b, e_1, e_2), mask, label


def training(config: schema.Config, mode: str):
    """A function that makes one training step."""
    peer, precision = prepared(config, mode)
    arguments, mask, label = inputs(config)
    adam = [
        torch.optim.Adam(part.parameters(), lr=optim.rate, fused=mode == "best")
        for part, optim in (
            (peer.unet, config.unet_optim),
            (peer.segmentation, config.segmentation_optim),
        )
    ]

    def step():
        with precision:
            outputs = peer(*arguments)
        loss = loss_of(outputs, arguments[3:], mask, label, config.loss)
        for optimizer in adam:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in adam:
            optimizer.step()

    return step


def inference(config: schema.Config, mode: str):
    """A function that judges one batch."""
    peer, precision = prepared(config, mode)
    peer.eval()
    arguments, _, _ = inputs(config)

    def step():
        with torch.no_grad(), precision:
            probability = peer(*arguments)[2]
            return probability.flatten(1).topk(config.evaluate.top_pixels).values.mean(1)

    return step


def measured(step: Callable[[], object], count: int, batch: int) -> dict:
    """The fields of a row of `benchmarks.sweep`."""

    def finished():
        step()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    _, compile_seconds = sweep.timed(finished)
    timing = sweep.measure(finished, count)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if DEVICE == "cuda":
        peak = torch.cuda.max_memory_allocated()
    return {
        "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu",
        "compile_s": round(compile_seconds, 1),
        **timing,
        "images_per_s": round(1e3 * batch / timing["step_ms"], 2),
        "peak_gib": round(peak / 2**30, 2),
    }


def check(config: schema.Config) -> dict:
    """Largest difference of the two implementations, relative to the outputs' scale."""
    variables = train_state.init_variables(config.model, jax.random.key(0))
    generator = np.random.default_rng(0)

    def shake(leaf):  # no zeros are left, so that every weight matters
        return leaf + generator.normal(0, 1 / np.sqrt(leaf[..., 0].size + 9), leaf.shape)

    params = jax.tree.map(lambda x: np.float32(shake(np.asarray(x))), variables.params)
    variables = train_state.Variables(params, variables.batch_stats)
    peer = Peer(config, together=False).eval()
    states = torch_weights.to_torch(variables.params, variables.batch_stats, config.model)
    for part, state in zip((peer.unet, peer.segmentation), states, strict=True):
        part.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    arguments, _, _ = inputs(config)
    with torch.no_grad():
        theirs = [y.permute(0, 2, 3, 1).numpy() for y in peer.cpu()(*(a.cpu() for a in arguments))]
    x, t_s, t_b, *noises = (a.cpu().numpy() for a in arguments)
    x, *noises = (a.transpose(0, 2, 3, 1) for a in (x, *noises))
    draws = steps.Draws(*(jax.numpy.asarray(a) for a in (t_s, t_b, *noises)))
    networks = train_state.define(config.model)
    out = steps.forward(networks, variables, jax.numpy.asarray(x), draws, config, train=False)
    ours = [out.predicted_less_noisy, out.predicted_noisier, out.anomaly_map]
    names = ("noise_less_noisy", "noise_noisier", "anomaly_map")
    pairs = zip(names, ours, theirs, strict=True)
    return {name: float(abs(a - b).max() / abs(b).max()) for name, a, b in pairs}
