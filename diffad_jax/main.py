"""Command line: train (or go on training), evaluate, predict, compare.

python -m diffad_jax.main --config configs/default.py --workdir runs/bottle
python -m diffad_jax.main --mode evaluate --workdir runs/bottle
python -m diffad_jax.main --mode predict --workdir runs/bottle --input photos --output results
python -m diffad_jax.main --mode compare --workdir 'runs/*' --output comparison

predict writes predictions.csv and .jsonl (picture, score, threshold, verdict, width, height, boxes,
map, overlay, error), maps/ (16-bit PNG, anomaly = value / 65535; or float32 .npy with
--config.predict.maps=npy) and overlays/. Pictures larger than the model are resized whole, as in
training, or cut into tiles that share --config.predict.tile_overlap=0.25 of their width.

Exit status: 0 done; 1 wrong use or nothing to do, the last line says what; 3 predict is done, but
some pictures could not be read, which predictions.csv names.
"""

import sys

from absl import app, flags
from ml_collections import config_flags

from diffad_jax import command_line

MODES = ("train", "evaluate", "predict", "compare")
_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "A file of configs/; override a key with --config.data.category=bottle. evaluate and predict "
    "take the run's own by default.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run's folder, local or gs://; training goes on where it stopped."
)
_MODE = flags.DEFINE_enum("mode", "train", MODES, "All but train use the newest checkpoint.")
_INPUT = flags.DEFINE_string(
    "input", None, "predict: a picture, a folder with all in it, or a glob pattern in quotes."
)
_OUTPUT = flags.DEFINE_string("output", None, "predict, compare: the folder for the results.")
_THRESHOLD = flags.DEFINE_float(
    "threshold", None, "predict: the least score of a defective picture; else what evaluate found."
)


def main(argv: list[str]) -> None:
    """Check the arguments, then call the library."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    command_line.set_log_levels()
    mode, workdir, output = _MODE.value, _WORKDIR.value, _OUTPUT.value
    # JAX and TensorFlow are imported late, so that --help and a wrong argument answer at once.
    try:
        config = None if mode == "compare" else command_line.read_config(_CONFIG.value)
        if mode == "train":
            from diffad_jax import train

            train.run(config, workdir)
        elif mode == "evaluate":
            from diffad_jax import evaluate

            evaluate.run(config, workdir)
        elif mode == "predict":
            pictures, output = command_line.given_both(_INPUT.value, output)
            from diffad_jax import predict

            if predict.run(workdir, pictures, output, config, _THRESHOLD.value):
                sys.exit(predict.UNREADABLE)
        else:
            workdirs = command_line.runs(workdir)
            from diffad_jax import compare

            compare.run(workdirs, output)
    except (ValueError, FloatingPointError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    flags.mark_flag_as_required("workdir")
    app.run(main, flags_parser=command_line.parse_flags)
