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

from absl import app
from absl import flags as absl_flags
from ml_collections import config_flags

from diffad_jax import flags

MODES = ("train", "evaluate", "predict", "compare")
_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "A file of configs/; override a key with --config.data.category=bottle. evaluate and predict "
    "take the run's own by default.",
)
_WORKDIR = absl_flags.DEFINE_string(
    "workdir", None, "The run's folder, local or gs://; training goes on where it stopped."
)
_MODE = absl_flags.DEFINE_enum("mode", "train", MODES, "All but train use the newest checkpoint.")
_INPUT = absl_flags.DEFINE_string(
    "input", None, "predict: a picture, a folder with all in it, or a glob pattern in quotes."
)
_OUTPUT = absl_flags.DEFINE_string("output", None, "predict, compare: the folder for the results.")
_THRESHOLD = absl_flags.DEFINE_float(
    "threshold", None, "predict: the least score of a defective picture; else what evaluate found."
)
_COORDINATOR = absl_flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0 of several.")
_NUM_PROCESSES = absl_flags.DEFINE_integer(
    "num_processes", None, "Of all hosts; 1: never join others."
)
_PROCESS_ID = absl_flags.DEFINE_integer("process_id", None, "This process's, from 0.")
_WORKERS = absl_flags.DEFINE_integer(
    "workers", 0, "Categories at a time (--config.data.category=all); 0: one a GPU or TPU chip."
)


def main(argv: list[str]) -> None:
    """Check the arguments, then call the library."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    flags.set_log_levels()
    try:
        flags.check(_MODE.value, _INPUT.value, _OUTPUT.value)
        config = flags.read_config(_MODE.value, _CONFIG.value)
        if flags.several(_MODE.value, config):
            from diffad_jax import categories

            arguments = (_WORKDIR.value, sys.argv[1:], _MODE.value, _WORKERS.value)
            categories.run(config, *arguments)
            return
        # JAX and TensorFlow are imported late, so --help and a wrong argument answer at once.
        from diffad_jax.runs import processes

        with processes.joined(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value):
            processes.cache_compilations(_WORKDIR.value)
            files = (_WORKDIR.value, _INPUT.value, _OUTPUT.value)
            status = flags.call(_MODE.value, config, *files, _THRESHOLD.value)
    except (ValueError, FloatingPointError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    sys.exit(status)


if __name__ == "__main__":
    absl_flags.mark_flag_as_required("workdir")
    app.run(main, flags_parser=flags.parse_flags)
