"""The command line: parses the flags, then calls the library.

    python -m diffad_jax.main --config configs/default.py --workdir runs/bottle
    python -m diffad_jax.main --mode evaluate --workdir runs/bottle
    python -m diffad_jax.main --mode predict --workdir runs/bottle --input photos --output results
    python -m diffad_jax.main --help

`diffad` is the same program, where the package is installed.
"""

import dataclasses
import logging
import os
import sys
from typing import NoReturn

from absl import app
from absl import flags as absl_flags
from ml_collections import config_flags

from configs import schema, stored
from configs.errors import TOLD_IN_A_LINE, UserError, of_store
from diffad_jax.command_line import arguments, array

logger = logging.getLogger(__name__)
FLAGS = absl_flags.FLAGS
INTERRUPTED = 130  # exit status, as of a shell


def run() -> None:
    """Do what the command line says, and exit."""
    try:
        app.run(main, flags_parser=arguments.parse)
    except KeyboardInterrupt as error:
        _leave(f"stopped: {str(error) or 'by Ctrl-C'}", INTERRUPTED)
    except SystemExit as error:
        if not isinstance(error.code, str):
            raise
        _leave(error.code, 1)


def _leave(said: str, status: int) -> NoReturn:
    """Exit now: sys.exit would wait for threads that read and write, on a store that is gone long.

    What was to be saved has been, or cannot be: leaving the checkpoints has waited for them.
    """
    print(said, file=sys.stderr)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main(_: list[str]) -> None:
    """Do what the parsed flags say, and exit."""
    arguments.set_log_levels()
    try:
        status = call(FLAGS.mode)
    except TOLD_IN_A_LINE as error:
        arguments.fail(error)
    except Exception as error:
        if not of_store(error):
            raise
        arguments.fail(error)
    sys.exit(status)


def call(mode: str) -> int:
    """Call the mode's library, importing no more than it needs; returns the exit status."""
    if mode == "compare":
        from diffad_jax import compare

        compare.run([FLAGS.workdir], FLAGS.output)
        return 0
    if mode == "serve":
        return _serve()
    if mode == "merge":
        from diffad_jax.predicting import shares

        shares.merge(FLAGS.output)
        return 0
    if mode == "predict" and FLAGS.model:
        if not os.path.isfile(os.path.join(FLAGS.model, "bundle.json")):
            raise UserError(f"{FLAGS.model} holds no exported model: it has no bundle.json")
        return _predict(None)
    config = schema.parse(FLAGS.config)
    if mode == "export":
        return _export()
    if mode == "import":
        from diffad_jax import import_torch

        import_torch.run(FLAGS.checkpoint, config, FLAGS.workdir)
        return 0
    if mode == "predict":
        return _predict(config)
    if mode in ("train", "evaluate", "adapt"):
        return _with_jax(mode, config)
    return _before_training(mode, config)


def _with_jax(mode: str, config: schema.Config) -> int:
    """Train, evaluate or adapt; returns the exit status."""
    from diffad_jax.runs import stopping

    try:
        if mode == "adapt":
            _alone(mode, config, FLAGS.workdir, FLAGS.num_processes)
        else:
            _share(mode, config)
    except stopping.Stopped as error:
        print(f"stopped: {error}", file=sys.stderr)
        return stopping.STATUS
    return 0


def _share(mode: str, config: schema.Config) -> None:
    """Train or evaluate the categories of this process."""
    workdir, count = FLAGS.workdir, FLAGS.num_processes
    if not several(config.data.category):
        if FLAGS.shard is not None:
            array.categories([config.data.category], FLAGS.shard, {})  # it has one, or none
        return _alone(mode, config, workdir, count)
    share = _categories(config)
    if len(share) > 1:
        return _supervise(mode, config, share)
    data = dataclasses.replace(config.data, category=share[0])
    if FLAGS.shard is None and "JOB_COMPLETION_INDEX" in os.environ:
        count = 1  # the other pods have other categories
    _alone(mode, dataclasses.replace(config, data=data), f"{workdir}/{share[0]}", count)


def _alone(mode: str, config: schema.Config, workdir: str, count: int | None) -> None:
    """One run, in this process, as one of `count` that do it together."""
    from diffad_jax.runs import processes

    processes.keep_memory()
    with processes.joined(FLAGS.coordinator, count, FLAGS.process_id):
        processes.cache_compilations()
        if mode == "train":
            from diffad_jax import train

            train.run(config, workdir)
        elif mode == "evaluate":
            from diffad_jax import evaluate

            evaluate.run(config, workdir, FLAGS.corrections or "")
        else:
            from diffad_jax import adapt

            adapt.run(config, workdir, FLAGS.output, FLAGS.corrections)


def _categories(config: schema.Config) -> list[str]:
    """The categories of this process, by --shard or by the array of jobs that it is one of."""
    from diffad_jax import categories

    names = categories.names(config)
    share = array.categories(names, FLAGS.shard, os.environ)
    if share is None:
        return names
    array.leave(os.environ)
    logger.info("of %d categories, this process has %s", len(names), ", ".join(share))
    return share


def _supervise(mode: str, config: schema.Config, share: list[str]) -> None:
    """A process for each of several categories."""
    from diffad_jax import categories

    data = dataclasses.replace(config.data, category=",".join(share))
    config = dataclasses.replace(config, data=data)
    categories.run(config, FLAGS.workdir, sys.argv[1:], mode=mode, workers=FLAGS.workers)


def _predict(config: schema.Config | None) -> int:
    """Predict with the run's own configuration, or with another where --config was given.

    None: with an exported model.
    """
    from diffad_jax import predict
    from diffad_jax.runs import processes

    processes.keep_memory()
    if config is not None:
        processes.cache_compilations()
    unreadable = predict.run(
        FLAGS.workdir or FLAGS.model,
        FLAGS.input,
        FLAGS.output,
        config=None if config is None or _is_own() else config,
        threshold=FLAGS.threshold,
        overrides=None if config is None else config_flags.get_override_values(FLAGS["config"]),
        maps=FLAGS.maps,
        shard=None if FLAGS.num_processes == 1 else array.pictures(FLAGS.shard, os.environ),
    )
    return predict.UNREADABLE if unreadable else 0


def _serve() -> int:
    """Serve until told to stop."""
    from diffad_jax import serve

    names = ("host", "port", "token", "watch", "output", "webhook", "mqtt", "threshold")
    serve.run(FLAGS.model, **{name: getattr(FLAGS, name) for name in names})
    return 0


def _export() -> int:
    """Export with the run's own configuration."""
    if not _is_own():
        raise UserError("--mode export takes the run's own configuration: leave --config out")
    from diffad_jax import export

    overrides = config_flags.get_override_values(FLAGS["config"])
    if FLAGS.format == "torch":
        export.to_torch(FLAGS.workdir, FLAGS.output, overrides)
    else:
        export.run(FLAGS.workdir, FLAGS.output, FLAGS.precision, overrides)
    return 0


def _is_own() -> bool:
    """Whether the configuration is that of the run in --workdir."""
    given = config_flags.get_config_filename(FLAGS["config"])
    return given == f"{stored.__file__}:{FLAGS.workdir}"


def _before_training(mode: str, config: schema.Config) -> int:
    """Look at the pictures, or prepare them."""
    if mode == "check":
        from diffad_jax.data_tools import check

        return check.run(config)
    if mode == "preview":
        from diffad_jax.data_tools import preview

        preview.write(config, FLAGS.output, FLAGS.first_step, FLAGS.count)
    elif mode == "foregrounds":
        from diffad_jax.data_tools import foregrounds

        foregrounds.write(config, FLAGS.output)
    else:
        from diffad_jax.data_tools import prepare

        prepare.run(config, bool(FLAGS.prune))
    return 0


def several(category: str) -> bool:
    """Whether `data.category` names more than one: 'all', or a list with commas."""
    return category.strip("/ ") == "all" or "," in category


if __name__ == "__main__":
    run()
