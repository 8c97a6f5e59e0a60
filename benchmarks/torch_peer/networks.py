"""The networks in PyTorch; module names are those of the authors' checkpoints.

So `torch_weights.to_torch` gives state dicts that fill them.
"""

import math

import torch
from torch import nn
from torch.nn import functional

from configs import rules, schema
from diffad_jax.method import diffusion


class TimeFeatures(nn.Module):
    """Sines and cosines of the time step."""

    def __init__(self, width: int):
        super().__init__()
        half = width // 2
        frequencies = torch.exp(-math.log(10000.0) / half * torch.arange(half))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t):
        angles = t[:, None].float() * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


def halve(x):
    """2 x 2 average pooling."""
    return functional.avg_pool2d(x, 2)


def double(x):
    """Every pixel becomes 2 x 2 equal ones."""
    return functional.interpolate(x, scale_factor=2, mode="nearest")


class ResBlock(nn.Module):
    """norm - SiLU - (resample) - conv - add time - norm - SiLU - conv, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, embedding: int, resample=None):
        super().__init__()
        self.resample = resample
        self.in_layers = nn.Sequential(
            nn.GroupNorm(rules.GROUPS, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, 1, 1)
        )
        self.embed_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, outputs))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(rules.GROUPS, outputs),
            nn.SiLU(),
            nn.Identity(),
            nn.Conv2d(outputs, outputs, 3, 1, 1),
        )
        same = inputs == outputs
        self.skip_connection = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x, embedding):
        h = self.in_layers[:2](x)
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.in_layers[2](h) + self.embed_layers(embedding)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Attention(nn.Module):
    """Self-attention over pixels."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(rules.GROUPS, channels)
        self.to_qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x):
        b, c, h, w = x.shape
        qkv = self.to_qkv(self.norm(x).flatten(2))
        q, k, v = qkv.view(b, self.heads, 3, c // self.heads, h * w).transpose(-1, -2).unbind(2)
        y = functional.scaled_dot_product_attention(q, k, v)
        y = y.transpose(-1, -2).reshape(b, c, h * w)
        return x + self.proj_out(y).view(b, c, h, w)


class UNet(nn.Module):
    """The noise in x at time t."""

    def __init__(self, config: schema.ModelConfig):
        super().__init__()
        base, wide, widths = config.unet_base, 4 * config.unet_base, config.level_channels

        def stage(inputs: int, level: int) -> list[nn.Module]:
            channels = widths[level]
            layers: list[nn.Module] = [ResBlock(inputs, channels, wide)]
            if config.image_size / 2**level in config.attention_widths:
                heads = channels // config.head_channels if config.head_channels else config.heads
                layers.append(Attention(channels, heads))
            return layers

        self.time_embedding = nn.Sequential(
            TimeFeatures(base), nn.Linear(base, wide), nn.SiLU(), nn.Linear(wide, wide)
        )
        down, skips = [[nn.Conv2d(3, base, 3, 1, 1)]], [base]
        for level, channels in enumerate(widths):
            if level:
                down.append([ResBlock(skips[-1], skips[-1], wide, halve)])
                skips.append(skips[-1])
            for _ in range(config.res_blocks):
                down.append(stage(skips[-1], level))
                skips.append(channels)
        last = skips[-1]
        middle = [ResBlock(last, last, wide), Attention(last, config.heads)]
        self.middle = nn.ModuleList([*middle, ResBlock(last, last, wide)])
        up = []
        for level in reversed(range(len(widths))):
            for _ in range(config.res_blocks + 1):
                up.append(stage(last + skips.pop(), level))
                last = widths[level]
            if level:
                up[-1].append(ResBlock(last, last, wide, double))
        self.down, self.up = (
            nn.ModuleList(nn.ModuleList(layers) for layers in side) for side in (down, up)
        )
        self.out = nn.Sequential(
            nn.GroupNorm(rules.GROUPS, last), nn.SiLU(), nn.Conv2d(last, 3, 3, 1, 1)
        )

    def forward(self, x, t):
        embedding, skips = self.time_embedding(t), []

        def through(layers, x):
            for layer in layers:
                x = layer(x, embedding) if isinstance(layer, ResBlock) else layer(x)
            return x

        for layers in self.down:
            x = through(layers, x)
            skips.append(x)
        x = through(self.middle, x)
        for layers in self.up:
            x = through(layers, torch.cat([x, skips.pop()], dim=1))
        return self.out(x)


def conv_norm(inputs: int, outputs: int) -> list[nn.Module]:
    """conv3x3 - BatchNorm - ReLU."""
    return [nn.Conv2d(inputs, outputs, 3, 1, 1), nn.BatchNorm2d(outputs), nn.ReLU()]


class Segmentation(nn.Module):
    """Probability of an anomaly at every pixel, from picture and reconstruction."""

    def __init__(self, base: int):
        super().__init__()
        widths, ups = [base * w for w in (1, 2, 4, 8, 8, 8)], [base * w for w in (8, 4, 2, 1, 1)]
        encoder, decoder = nn.ModuleDict(), nn.ModuleDict()
        for i, (inputs, outputs) in enumerate(zip([6, *widths[:-1]], widths, strict=True), 1):
            encoder[f"block{i}"] = nn.Sequential(
                *conv_norm(inputs, outputs), *conv_norm(outputs, outputs)
            )
        skips = widths[-2::-1]
        self.names = ("_b", "1", "2", "3", "4")
        for name, i, o, skip in zip(self.names, [widths[-1], *ups[:-1]], ups, skips, strict=True):
            grow = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            decoder[f"up{name}"] = nn.Sequential(grow, *conv_norm(i, o))
            decoder[f"db{name}"] = nn.Sequential(*conv_norm(o + skip, o), *conv_norm(o, o))
        decoder["fin_out"] = nn.Sequential(nn.Conv2d(ups[-1], 1, 3, 1, 1))
        self.encoder_segment, self.decoder_segment = encoder, decoder

    def forward(self, x):
        skips = []
        for i, block in enumerate(self.encoder_segment.values()):
            x = block(x if i == 0 else functional.max_pool2d(x, 2))
            skips.append(x)
        skips.pop()
        for name in self.names:
            x = self.decoder_segment[f"up{name}"](x)
            x = self.decoder_segment[f"db{name}"](torch.cat([x, skips.pop()], dim=1))
        return torch.sigmoid(self.decoder_segment["fin_out"](x).float())


class Peer(nn.Module):
    """One forward pass of the method: noise, denoise twice, guide, segment."""

    def __init__(self, config: schema.Config, together: bool):
        super().__init__()
        self.unet = UNet(config.model)
        self.segmentation = Segmentation(config.model.segmentation_base)
        self.together = together
        alphas = torch.tensor(diffusion.cumulative_alphas(config.diffusion), dtype=torch.float32)
        self.register_buffer("alphas", alphas, persistent=False)

    def forward(self, x, t_s, t_b, e_1, e_2):
        a_s, a_b = (self.alphas[t][:, None, None, None] for t in (t_s, t_b))
        x_s, x_b = (a.sqrt() * x + (1 - a).sqrt() * e for a, e in ((a_s, e_1), (a_b, e_2)))
        if self.together:
            both = self.unet(torch.cat([x_s, x_b]), torch.cat([t_s, t_b])).float()
            e_s, e_b = both.chunk(2)
        else:
            e_s, e_b = self.unet(x_s, t_s).float(), self.unet(x_b, t_b).float()
        less = x_s / a_s.sqrt() - (1 / a_s - 1).sqrt() * e_s
        more = (x_b / a_b.sqrt() - (1 / a_b - 1).sqrt() * e_b).clamp(-1, 1)
        guided = (less + (1 - a_s) * (more - less)).clamp(-1, 1)
        return e_s, e_b, self.segmentation(torch.cat([x, guided], dim=1))
