"""The paper's configuration: MVTec AD at 256 px. Every key there is, with its unit.

Other configurations start from this one and change a few lines.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The full default configuration."""
    return ml_collections.ConfigDict(
        {
            "seed": 0,  # every random draw of a run follows from it
            "model": {
                "image_size": 256,  # px, square
                "image_range": "unit",  # what the networks see: unit [0, 1] or signed [-1, 1]
                # What the U-Net is asked for: epsilon (the noise), or preconditioned (its input and
                # output scaled so that both have variance 1 for pictures of this spread).
                "prediction": "epsilon",
                "spread": 0.5,  # standard deviation of the pictures in the networks' range
                "unet_base": 128,  # channels
                "unet_multipliers": (),  # channels of each level / unet_base; () by image_size
                "res_blocks": 2,  # a level
                "attention_widths": (32, 16, 8),  # feature map widths (px) that get attention
                "heads": 4,
                "head_channels": 0,  # channels of one head; 0: channels / heads
                "dropout": 0.0,
                "segmentation_base": 64,  # channels
                "compute_dtype": "float32",  # float32 or bfloat16; parameters stay float32
                "attention": "xla",  # or cudnn: cuDNN's fused kernel (CUDA, bfloat16)
                # What the U-Net's backward pass computes again, to save memory: none, norms (norms,
                # activations and attention weights; hardly slower), blocks (all but their inputs).
                "remat": "none",
            },
            "diffusion": {
                "timesteps": 1000,
                "schedule": "linear",  # linear or cosine
                "train_split": 300,  # t_s is uniform in [0, train_split)
                "train_end": 1000,  # t_b is uniform in [train_split, train_end)
                "eval_less_noisy": 200,
                "eval_noisier": 400,
                "guidance_weight": 1.0,
            },
            "loss": {
                # Which pictures teach the U-Net: normal (those without a synthetic anomaly), or
                # clean (all, and the answer is the picture before its anomaly was painted).
                "target": "normal",
                "focal_weight": 5.0,
                "focal_alpha": 0.5,
                "focal_gamma": 4.0,
                "smooth_l1_weight": 1.0,
                "smooth_l1_beta": 1.0,
            },
            "unet_optim": {
                "rate": 1e-4,
                "schedule": "constant",  # constant, cosine (to 0) or oscillating
                "warmup_steps": 0,
                "half_period": 10,  # steps from the peak to 0, oscillating only
                "weight_decay": 0.0,  # > 0: AdamW
            },
            "segmentation_optim": {
                "rate": 1e-5,
                "schedule": "oscillating",  # what the authors' code does: peak to 0 every 20 steps
                "warmup_steps": 0,
                "half_period": 10,
                "weight_decay": 0.0,
            },
            "data": {
                "root": "data/mvtec",  # the folder that holds the categories
                "category": "bottle",  # all, or NAME,NAME,...: many at once, a process each
                # How the category's folder is arranged: auto looks; folder (your own), mvtec (MPDD
                # too), visa, visa_csv, dagm, dagm_raw (the last two of each: as downloaded); or
                # prepared: read from cache_dir alone, as on a host without the pictures.
                "layout": "auto",
                "kind": "auto",  # object, texture, or auto: by the category's name
                "textures": "data/dtd/images",  # anomaly sources; "": the picture's own pieces
                "cache_dir": "~/.cache/diffad_jax",  # prepared pictures; local or gs://
                "resize": "bilinear",  # as the authors resize, or antialias
                "fit": "stretch",  # to a square, as the authors; or crop (the middle), or pad
                "foreground": "auto",  # auto, object, random (a part of the picture) or full
                "missing_masks": "error",  # ignore: evaluate without pixel-level metrics
                "normal_share": 0.5,  # of the training pictures that stay without anomaly
                "blend_min": 0.2,  # share of the picture that shows through an anomaly
                "blend_max": 0.8,
                # Share of the good training pictures kept out of training, to find a threshold
                # with; -1: 0.1 where the test split has no defective picture, else 0.
                "holdout": -1.0,
                # GiB of one set's pictures, as prepared; a larger set is not read into memory but
                # by index from the cache.
                "memory_gib": 4.0,
            },
            "train": {
                "batch_size": 16,  # over all devices and hosts
                "steps": 0,  # 0: epochs * floor(pictures / batch_size)
                "epochs": 3000,
                "accumulation_steps": 1,  # parts a batch is computed in, one after another
                "ema_decay": 0.999,  # 0: no averaging
                "log_every": 50,  # steps
                "image_every": 1000,  # steps; 0: never
                "evaluate_every": 5000,  # steps; 0: at the end only
                "checkpoint_every": 1000,  # steps
                "keep_checkpoints": 2,
                # Also keep the checkpoint with the best value of this metric, such as pixel_ap, on
                # the test split: chosen with the test pictures, so no fair measure. "": do not.
                "keep_best": "",
                "profile_steps": (),  # (first, last) step to trace into WORKDIR/profile; (): none
            },
            "evaluate": {
                "batch_size": 16,
                "top_pixels": 50,  # image score: the mean of that many largest pixels of the map
                "weights": "ema",  # ema or raw
                "draws": 1,  # of the noise; the map is their mean, and its cost grows with them
                "checkpoint": "last",  # or best: see train.keep_best
                "grid_rows": 12,  # pictures in the grid
                # Without defective test pictures: share of good pictures that the threshold lets
                # pass. n held-out pictures can tell no share above 1 - 1/n.
                "threshold_quantile": 0.995,
                # Up to so many pictures pixel measures are exact and maps stay in memory; of more,
                # they are within 5e-4, and maps lie in temporary files.
                "exact_pictures": 1000,
            },
            "predict": {
                # For pictures larger than image_size: the least share of a tile's width that
                # neighbouring tiles have in common, such as 0.25. 0: no tiles; pictures are resized
                # whole, as in training. Tiles are not resized: train on pictures of that scale.
                "tile_overlap": 0.0,
                "maps": "png",  # png (16 bit) or npy (float32)
            },
        }
    )
