r"""The paper's configuration: MVTec AD at 256 px. Every key there is, with its unit.

    python -m diffad_jax.main --config configs/default.py --workdir runs/bottle \
        --config.data.root=data/mvtec --config.data.category=bottle

How long, and what to expect: not measured. It is made for a GPU or a TPU, where it has not been
trained yet. On two CPU cores a training step of a single picture takes 69 s: use small.py there.
benchmarks/RESULTS.md has all that was measured.

Other configurations start from this one and change a few keys; a flag such as
--config.train.steps=1000 changes one. schema.py has each key's type and range.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The full default configuration."""
    return ml_collections.ConfigDict(
        {
            "seed": 0,  # every random draw of a run follows from it
            "model": {
                "image_size": 256,  # px, square
                "image_range": "unit",  # of the networks' input: unit [0, 1] or signed [-1, 1]
                # What the U-Net is asked for: epsilon (the noise), or preconditioned (what the mean
                # training picture leaves of a picture; input and output scaled to variance 1).
                "prediction": "epsilon",
                # What the segmentation network compares the picture with: 0, its reconstruction, or
                # above 0, this times (picture - reconstruction).
                "difference": 0.0,
                "unet_base": 128,  # channels
                # Channels of each level of the U-Net, divided by unet_base; the full resolution
                # first. (): the paper's for image_size.
                "unet_multipliers": (),
                "res_blocks": 2,  # residual blocks a level
                "attention_widths": (32, 16, 8),  # px; feature maps of these widths get attention
                "heads": 4,  # of each attention
                "head_channels": 0,  # channels of one head; 0: channels / heads
                "dropout": 0.0,  # share of the activations, in the U-Net
                "segmentation_base": 64,  # channels
                "compute_dtype": "float32",  # float32 or bfloat16; parameters stay float32
                # Of products of float32 numbers: default, the hardware's own (GPUs round what they
                # multiply to 10 bits of mantissa, TPUs to 7), or highest (all 23, slower).
                "matmul_precision": "default",
                "attention": "xla",  # or cudnn: cuDNN's fused kernel (CUDA GPUs, bfloat16)
                # What the U-Net's backward pass computes again, to save memory: none, norms (norms,
                # activations and attention weights; little extra time) or blocks (all but their
                # inputs).
                "remat": "none",
            },
            "diffusion": {
                "timesteps": 1000,  # of the noise schedule, numbered from 0; at least 21
                "schedule": "linear",  # linear or cosine
                # A picture is denoised from two noise levels. Training draws the time step of the
                # less noisy one from [0, train_split), the noisier one's from
                # [train_split, train_end).
                "train_split": 300,
                "train_end": 1000,
                "guidance_weight": 1.0,  # of the noisier estimate in the reconstruction; 0: unused
            },
            "loss": {  # noise + focal_weight * focal + smooth_l1_weight * smooth-L1
                # Which pictures teach the U-Net: normal (those without a synthetic anomaly), or
                # clean (all, and the answer is the picture before its anomaly was painted).
                "target": "normal",
                # The signal-to-noise ratio above which little noise gives the U-Net's error no
                # more weight (Hang et al. 2023). 0: no limit.
                "snr_gamma": 0.0,
                "focal_weight": 5.0,
                "focal_alpha": 0.5,
                "focal_gamma": 4.0,
                "smooth_l1_weight": 1.0,
                "smooth_l1_beta": 1.0,
            },
            "unet_optim": {
                "rate": 1e-4,  # peak learning rate of Adam
                "schedule": "constant",  # constant, cosine (down to 0) or oscillating
                "warmup_steps": 0,  # steps in which the rate rises from 0
                "half_period": 10,  # steps from the peak to 0; oscillating only
                "weight_decay": 0.0,  # above 0: AdamW
            },
            "segmentation_optim": {
                "rate": 1e-5,
                "schedule": "oscillating",  # as in the authors' code: peak to peak in 20 steps
                "warmup_steps": 0,
                "half_period": 10,
                "weight_decay": 0.0,
            },
            "data": {
                "root": "data/mvtec",  # the folder that holds the categories
                # A category's folder. all, or NAME,NAME: several, each trained by a process of its
                # own.
                "category": "bottle",
                # How the category's folder is arranged. auto: find out; folder: your own, as
                # docs/data.md says; mvtec: MVTec AD and MPDD; visa, dagm: in MVTec-style folders;
                # visa_csv, dagm_raw: as downloaded; prepared: read from cache_dir alone, as on a
                # host without the pictures.
                "layout": "auto",
                # object: a part on a background; texture: a surface that fills the picture; auto:
                # by the category's name (MVTec AD's, DAGM's), any other an object.
                "kind": "auto",
                # What anomalies are painted with: a folder of pictures, or tfds:dtd. "": parts of
                # the picture itself (self-augmentation) and procedural textures.
                "textures": "data/dtd/images",
                # The corrections.jsonl of people who looked at verdicts: its good pictures are
                # trained on, too, its defective ones are test pictures. "": none.
                "corrections": "",
                "cache_dir": "~/.cache/diffad_jax",  # prepared pictures; local or gs://
                "resize": "bilinear",  # as the authors resize; or antialias
                "fit": "stretch",  # to a square, as the authors; or crop (the middle), or pad
                # Where anomalies may be painted: auto (by kind), object (on the part, which is
                # segmented automatically), random (a part of the picture) or full.
                "foreground": "auto",
                # Where a defective test picture has no mask: error, or ignore (pixel-level measures
                # leave it out).
                "missing_masks": "error",
                "normal_share": 0.5,  # share of the training pictures left without an anomaly
                # Share of the anomalies whose source takes the mean and the spread that each colour
                # has in the picture.
                "matched_share": 0.0,
                "blend_min": 0.2,  # share of the picture that shows through an anomaly, at least
                "blend_max": 0.8,  # and at most
                # Share of the good training pictures that are held out: kept out of training, to
                # find a threshold with. -1: 0.1, or 0 where there are good and defective test
                # pictures.
                "holdout": -1.0,
                # GiB of one split's prepared pictures. A larger split is not read into memory but
                # from the cache, picture by picture, in the same order.
                "memory_gib": 4.0,
            },
            "train": {
                "batch_size": 16,  # pictures of a step, over all devices and hosts
                "steps": 0,  # 0: epochs * floor(pictures / batch_size)
                "epochs": 3000,  # 0: steps
                "accumulation_steps": 1,  # parts of a batch, computed one after another
                # EMA: the moving average of the weights, which evaluation uses. The share of the
                # old average that each step keeps; 0: the weights themselves.
                "ema_decay": 0.999,
                "log_every": 50,  # steps
                "image_every": 1000,  # steps; 0: never
                "evaluate_every": 5000,  # steps; 0: at the end only
                "checkpoint_every": 1000,  # steps
                # On a GPU: only operations that give the same bits every time, slower. CPUs do so
                # anyway.
                "deterministic": False,
                "keep_checkpoints": 2,  # the newest ones
                # Also keep the checkpoint with the highest value of this measure, such as pixel_ap,
                # on the test pictures. It is chosen with them, so its values are too good to
                # report. "": none.
                "keep_best": "",
                "profile_steps": (),  # (first, last) step to trace into WORKDIR/profile; (): none
            },
            "evaluate": {
                "batch_size": 16,  # pictures; no result depends on it
                "less_noisy": 200,  # time step of the less noisy level, numbered from 0
                "noisier": 400,  # time step of the noisier one
                "draws": 1,  # of the noise; the anomaly map is their mean, the time their multiple
                "weights": "ema",  # ema (see train.ema_decay) or raw, those of the last step
                "checkpoint": "last",  # the newest; or best: see train.keep_best
                # Maps are multiplied by |picture - reconstruction| to this power; 0: they are not.
                "residual": 0.0,
                "smoothing": 0.0,  # px: sigma of the Gaussian that smooths maps, before scores
                "top_pixels": 50,  # the score of a picture: mean of so many largest of its map
                # How the threshold is chosen. f1: the best F1 on the test pictures, or where no
                # defective or no good one is known, as false_alarms:0.005. false_alarms:0.01: at
                # most the share 0.01 of good pictures reaches it (held-out ones, else test
                # pictures). recall:0.99: at least the share 0.99 of defective test pictures does.
                "threshold": "f1",
                "grid_rows": 12,  # pictures in grid.png
                # Up to so many pictures, pixel-level measures are exact and maps stay in memory.
                # Of more, they are within 5e-4, and the maps lie in temporary files.
                "exact_pictures": 1000,
            },
            "predict": {
                # For pictures larger than image_size: the smallest share of a tile's width that
                # neighbouring tiles have in common, such as 0.25. 0: no tiles; a picture is resized
                # as a whole, as in training. Tiles are not resized: train on pictures of that
                # scale.
                "tile_overlap": 0.0,
            },
        }
    )
