"""Several processes, on one host or many, that train one model together.

Each holds the whole state and its share of every batch. They start alike, stop after the same
step, and none outlives the others: whichever is left ends within a minute, and the same command on
all of them goes on from the newest checkpoint.
"""

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import logging
import os
import pathlib
import stat
import sys
import traceback
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from configs.errors import TOLD_IN_A_LINE, UserError
from diffad_jax.runs import stopping

logger = logging.getLogger(__name__)
# A process that is silent for so long is taken for dead, and JAX ends all others.
HEARTBEAT_SECONDS = 30
# Options of glibc's malloc, by their numbers in malloc.h. M_MMAP_THRESHOLD and M_TRIM_THRESHOLD: a
# block of up to 1 GiB comes from the heap, none of which is given back. Not a larger one: the gap
# that it leaves may be spoilt for the next by a small block, and then takes memory for nothing.
# M_ARENA_MAX: all threads share that heap, as only the first one can hold a large block.
KEEPING = {-3: 2**30, -1: -1, -8: 1}
RESTART = "start the same command everywhere: it goes on from the newest checkpoint"


@contextlib.contextmanager
def joined(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> Iterator[None]:
    """A context in which this process is one of the cluster's, if there is one.

    Args:
      coordinator: HOST:PORT of process 0, reachable by all. None: as the cluster's manager says.
      num_processes: of the whole cluster; 1: no cluster, whatever surrounds this process.
      process_id: of this one, from 0.

    Raises:
      UserError: some of the three are given, but not all; or none, and Open MPI 5 started this.
    """
    given = (coordinator, num_processes, process_id)
    if None in given and given not in ((None,) * 3, (None, 1, None)):
        raise UserError(
            f"--coordinator={coordinator}, --num_processes={num_processes} and "
            f"--process_id={process_id} belong together: give all three, or none"
        )
    if num_processes == 1 or (num_processes is None and not managed(os.environ)):
        yield
        return
    if coordinator is None and _open_mpi_5(os.environ):
        raise UserError(
            "mpirun since Open MPI 5 does not say where process 0 runs: give "
            f"--coordinator=HOST:PORT --num_processes={os.environ['OMPI_COMM_WORLD_SIZE']} "
            "--process_id=$OMPI_COMM_WORLD_RANK, which a shell started by mpirun fills in"
        )
    jax.distributed.initialize(*given, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    logger.info("process %d of %d", jax.process_index(), jax.process_count())
    try:
        yield
    except stopping.Stopped:  # as all of them, after the same step
        jax.distributed.shutdown()
        raise
    except BaseException as error:  # whatever it is, the others must not wait for this process
        if jax.process_count() == 1:
            raise
        _end(error)
    jax.distributed.shutdown()


def managed(environment: Mapping[str, str]) -> bool:
    """Whether a manager has started several processes. JAX can ask each but Open MPI 5.

    One process of a manager uses all devices it sees, so there is nothing to join. (JAX would give
    the only task of a Slurm job a single GPU.)
    """

    def several(name: str) -> bool:
        return int(environment.get(name, "1")) > 1

    if {"SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID"} <= set(environment):
        return several("SLURM_NTASKS")
    if "OMPI_COMM_WORLD_SIZE" in environment:
        return several("OMPI_COMM_WORLD_SIZE")
    if "KUBERNETES_SERVICE_HOST" in environment:
        # Any pod has that variable; only one of an indexed job has its number.
        return "JOB_COMPLETION_INDEX" in environment
    # A pod's hosts, by environment on GKE; on a TPU VM JAX asks the machine's metadata.
    if "TPU_WORKER_HOSTNAMES" in environment:
        return "," in environment["TPU_WORKER_HOSTNAMES"]
    return _on_tpu_vm(environment)


def _open_mpi_5(environment: Mapping[str, str]) -> bool:
    """Whether it was mpirun, and without the address by which JAX finds process 0, as up to 4."""
    names = ("OMPI_COMM_WORLD_SIZE", "OMPI_MCA_orte_hnp_uri", "SLURM_STEP_NODELIST")
    return [name in environment for name in names] == [True, False, False]


def _on_tpu_vm(environment: Mapping[str, str]) -> bool:
    """Whether JAX found TPU chips and may ask the machine's metadata for its neighbours."""
    platforms = jax.config.values["jax_platforms"] or ""
    return "tpu" in platforms.split(",") and "TPU_SKIP_MDS_QUERY" not in environment


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """A context of steps that need all processes: ends this one where another is gone.

    The innermost one, because saving and closing would wait for the dead. Where a device waits
    without an error, JAX's heartbeat ends this process, with a word of its own.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        own = any(word in str(error) for word in ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"))
        if own or jax.process_count() == 1:
            raise
        _end(error)


def agree(problem: str | None) -> None:
    """Raise UserError in all processes where the first has a problem; all must call it.

    Raises:
      UserError: the problem; in the other processes, that there is one.
    """
    if jax.process_count() > 1:
        there = multihost_utils.broadcast_one_to_all(np.int32(problem is not None))
        if there and problem is None:
            problem = "process 0 cannot go on: its messages say why"
    if problem is not None:
        raise UserError(problem)


@contextlib.contextmanager
def by_the_first(context: contextlib.AbstractContextManager) -> Iterator[None]:
    """Process 0 enters `context` for all; where that raises UserError, all raise."""
    with contextlib.ExitStack() as stack:
        problem = None
        if jax.process_index() == 0:
            try:
                stack.enter_context(context)
            except UserError as error:
                problem = str(error)
        agree(problem)
        yield


def check_same(what: str, value: str) -> None:
    """Check that all processes have the same `value`; all must call it.

    Raises:
      UserError: this process has another one than process 0; names both.
    """
    if jax.process_count() == 1:
        return
    text = np.frombuffer(value.encode().ljust(256)[:256], np.uint8)
    first = bytes(multihost_utils.broadcast_one_to_all(text)).decode().strip()
    differs = first != value
    if anywhere(differs):
        here = f"process {jax.process_index()} sees {value}, process 0 {first}"
        told = here if differs else f"process 0 sees {first}, another process says what it sees"
        raise UserError(f"all processes must see the same {what}: {told}")


def anywhere(flag: bool) -> bool:
    """Whether `flag` is true in any process; all must call it."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.bool_(flag)).any())


def barrier(name: str) -> None:
    """Wait until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def cache_compilations() -> None:
    """Keep what is compiled in the user's cache folder, for restarts and for other runs.

    ~/.cache/diffad_jax/compiled, or below XDG_CACHE_HOME; nobody else may write there, because what
    lies there is run. JAX's own variables are respected: JAX_COMPILATION_CACHE_DIR is another
    place, JAX_ENABLE_COMPILATION_CACHE=false none.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    above = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    ours = pathlib.Path(above) / "diffad_jax"
    try:
        for folder in (ours, ours / "compiled"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                raise OSError(f"{folder} belongs to another user")
            if found.st_mode & 0o022:
                raise OSError(f"others may write into {folder}: chmod go-w {folder}")
    except OSError as error:
        logger.warning("what is compiled is not kept: %s", error)
        return
    jax.config.update("jax_compilation_cache_dir", str(ours / "compiled"))


def keep_memory() -> None:
    """Have this process keep the memory that a step frees, on a CPU; before JAX finds its devices.

    glibc gives large blocks back to the system at once, and every step then waits until the system
    has cleared them anew: a fifth of its time (benchmarks/RESULTS.md). Nothing where JAX can use a
    GPU or TPU, whose steps run elsewhere, and where the C library is another.
    """
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    elsewhere = bool(plugins) or importlib.util.find_spec("libtpu") is not None
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None or (elsewhere and os.environ.get("JAX_PLATFORMS") != "cpu"):
        return
    for option, value in KEEPING.items():
        mallopt(option, value)


def _end(error: BaseException) -> None:
    """Say why and end at once: an ordinary exit would wait for the others, who wait for this."""
    if isinstance(error, jax.errors.JaxRuntimeError) and "INVALID_ARGUMENT" not in str(error):
        reason = " ".join(str(error).split())[:300]
        print(
            f"another process has ended or cannot be reached: {RESTART} ({reason})", file=sys.stderr
        )
    elif isinstance(error, TOLD_IN_A_LINE):
        print(f"error: {error}", file=sys.stderr)
    elif isinstance(error, KeyboardInterrupt):
        print(f"stopped: {str(error) or 'by Ctrl-C'}", file=sys.stderr)
    elif not isinstance(error, SystemExit):
        traceback.print_exception(error)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
