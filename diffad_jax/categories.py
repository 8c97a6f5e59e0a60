"""Many categories at once: a process each, on a device of its own, watched over by this one.

Independent models need no communication, so this is the fastest way to train all of a data set on
one machine. This process never touches an accelerator: they belong to the others.

WORKDIR/CATEGORY/             that category's run, as if it had been started alone
WORKDIR/CATEGORY/log.txt      its messages
WORKDIR/comparison.*          the last evaluation of each, and the mean
"""

import contextlib
import dataclasses
import logging
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

from etils import epath
from rich.console import Console
from rich.live import Live
from rich.table import Table

from configs.errors import UserError
from configs.schema import Config
from diffad_jax import compare
from diffad_jax.runs import lock, logs, stopping
from input_pipeline.folders import layouts
from input_pipeline.on_disk import is_remote

logger = logging.getLogger(__name__)
RESTARTS = 2  # of a process that something killed; one that ended with an error would end so again
POLL_SECONDS = 0.5
REPORT_SECONDS = 60  # between two lines of a running category, where there is no terminal
PROGRAM = (sys.executable, "-m", "diffad_jax.main")
# Platform and devices as JAX sees them; a chip of a TPU is one, however many cores it has.
COUNT = """
import jax
devices = jax.local_devices()
print(devices[0].platform, len({tuple(getattr(d, "coords", None) or (d.id,)) for d in devices}))
"""
# Has the kernel send SIGTERM to a process when its parent, whose number comes first, is gone, even
# killed; then becomes it. Who has another parent by then has lost its own before. (Not between fork
# and exec: code that runs there can deadlock in a process with threads.)
TETHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):
    sys.exit("error: the process that started this one has been killed")
os.execvp(sys.argv[2], sys.argv[2:])
"""


@dataclasses.dataclass
class Job:
    """One category: where it runs and how it stands."""

    name: str
    workdir: epath.Path
    log: pathlib.Path
    state: str = "waiting"  # waiting, running, done, stopped or failed
    starts: int = 0
    slot: int | None = None
    process: subprocess.Popen | None = None
    told: bool = False  # to stop
    reported: float = 0.0  # s, monotonic


def run(
    config: Config,
    workdir: epath.PathLike,
    arguments: Sequence[str],
    mode: str = "train",
    workers: int = 0,
    program: Sequence[str] = PROGRAM,
) -> None:
    """Run all categories of a configuration; one that fails leaves the others alone.

    Told to stop (SIGTERM, Ctrl-C), it tells the others once, and ends when they have saved; Ctrl-C
    a second time ends them at once. The same command again goes on: each category's own run knows
    what is done.

    Args:
      config: `data.category` is 'all' or 'NAME,NAME,...'.
      workdir: the folder above the runs.
      arguments: of `program`, for all; each process gets its category and workdir besides.
      mode: 'train' or 'evaluate'.
      workers: processes at a time; 0: one for every GPU or TPU chip, one on CPUs.
      program: the command line.

    Raises:
      UserError: no such category; workdir in use; or categories failed: names them and their logs.
      KeyboardInterrupt: stopped by Ctrl-C.
      stopping.Stopped: categories were stopped by SIGTERM, all or some of them.
    """
    jobs = [_job(name, workdir) for name in names(config)]
    base = epath.Path(workdir)
    platform, count = devices()
    workers = workers or (1 if platform == "cpu" else count)
    if platform != "cpu" and workers > count:
        raise UserError(f"--workers={workers}, but there are {count} {platform} devices")
    base.mkdir(parents=True, exist_ok=True)
    with lock.Hold(base):
        with _told_to_stop() as told, _display(jobs, config) as show:
            while any(job.state in ("waiting", "running") for job in jobs):
                for job in jobs:
                    _notice_end(job, bool(told))
                free = set(range(workers)) - {job.slot for job in jobs if job.state == "running"}
                for job in [j for j in jobs if j.state == "waiting"]:
                    if told:
                        job.state = "stopped"
                    elif free:
                        _start(job, free.pop(), platform, [*program, *arguments, f"--mode={mode}"])
                if told:
                    _tell(jobs, at_once=told.count(signal.SIGINT) > 1)
                show()
                time.sleep(POLL_SECONDS)
    if signal.SIGINT in told:
        raise KeyboardInterrupt("by Ctrl-C; the same command continues")
    evaluated = [job.workdir for job in jobs if list(job.workdir.glob("eval/*/metrics.json"))]
    if evaluated:
        compare.run(evaluated, base)
    if failed := [f"{job.name} ({job.log})" for job in jobs if job.state == "failed"]:
        raise UserError(f"{len(failed)} of {len(jobs)} categories failed: {', '.join(failed)}")
    if count := sum(job.state == "stopped" for job in jobs):
        raise stopping.Stopped(f"{count} of {len(jobs)} categories; the same command continues")


def names(config: Config) -> list[str]:
    """The categories that a configuration names.

    Raises:
      UserError: there is no such category.
    """
    found = layouts.categories(pathlib.Path(config.data.root), config.data.layout)
    if config.data.category == "all":
        return found
    wanted = [name.strip() for name in config.data.category.split(",") if name.strip()]
    if unknown := sorted(set(wanted) - set(found)):
        raise UserError(f"no categories {unknown} in {config.data.root}: found {found}")
    return list(dict.fromkeys(wanted))


def devices() -> tuple[str, int]:
    """Platform and number of this machine's devices, asked for in a process of its own."""
    result = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True)
    if result.returncode:
        raise UserError(f"JAX finds no devices: {result.stderr.strip().splitlines()[-1:]}")
    platform, count = result.stdout.split()[-2:]
    return platform, int(count)


def pinned(platform: str, slot: int, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that leave a process only the device number `slot` of those visible."""
    if platform == "gpu":
        visible = environment.get("CUDA_VISIBLE_DEVICES")
        return {"CUDA_VISIBLE_DEVICES": visible.split(",")[slot] if visible else str(slot)}
    if platform == "tpu":  # a cluster of one chip, with a port of its own
        port = 8476 + slot
        return {
            "TPU_VISIBLE_CHIPS": str(slot),
            "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
            "TPU_PROCESS_BOUNDS": "1,1,1",
            "TPU_PROCESS_ADDRESSES": f"localhost:{port}",
            "TPU_PROCESS_PORT": str(port),
            "CLOUD_TPU_TASK_ID": "0",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        }
    return {}


def progress(workdir: epath.Path, batch_size: int) -> dict[str, Any]:
    """How far a run is, from its metrics.jsonl: step, total, loss, speed, eta (s), image_auroc."""
    known: dict[str, Any] = {}
    for _, row in logs.rows(workdir / "metrics.jsonl"):
        if row["kind"] == "eval":
            known["image_auroc"] = row.get("image_auroc")
            continue
        step, total, loss, speed = (
            row.get(name) for name in ("step", "total_steps", "loss", "images_per_second")
        )
        if loss is None or not (total and speed):  # not as it was written
            continue
        known |= {"step": step, "total": total, "loss": loss, "speed": speed}
        known["eta"] = (total - step) * batch_size / speed
    return known


def _job(name: str, workdir: epath.PathLike) -> Job:
    folder = epath.Path(workdir) / name
    if is_remote(workdir):  # a process cannot write its messages there
        return Job(name, folder, pathlib.Path(tempfile.gettempdir()) / f"diffad_jax_{name}.txt")
    return Job(name, folder, pathlib.Path(os.path.abspath(folder)) / "log.txt")


def _start(job: Job, slot: int, platform: str, command: list[str]) -> None:
    job.slot, job.state, job.starts = slot, "running", job.starts + 1
    job.log.parent.mkdir(parents=True, exist_ok=True)
    own = [f"--config.data.category={job.name}", f"--workdir={job.workdir}"]
    own += ["--num_processes=1", "--shard=0/1"]  # it is alone, and has its category
    tether = [sys.executable, "-c", TETHER, str(os.getpid())] if sys.platform == "linux" else []
    with open(job.log, "a") as log:
        job.process = subprocess.Popen(
            [*tether, *command, *own],
            env=os.environ | pinned(platform, slot, os.environ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C reaches this process, which passes it on
        )


def _notice_end(job: Job, told: bool) -> None:
    """The end of a job's process, if it has just ended."""
    code = None if job.process is None else job.process.poll()
    if code is None:
        return
    job.process = job.slot = None
    if code == 0:
        job.state = "done"
    elif code == stopping.STATUS or (code < 0 and told):
        job.state = "stopped"
    elif code < 0 and job.starts <= RESTARTS:
        logger.warning("%s: killed by signal %d, started again", job.name, -code)
        job.state = "waiting"
    else:
        job.state = "failed"
        lines = job.log.read_text(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        logger.error("%s: ended with code %d: %s (%s)", job.name, code, last[:500], job.log)


def _tell(jobs: Sequence[Job], at_once: bool) -> None:
    """SIGTERM to each running process, once; SIGKILL to end it at once."""
    for job in jobs:
        if job.process is not None and at_once:
            job.process.kill()
        elif job.process is not None and not job.told:
            job.process.terminate()
            job.told = True


@contextlib.contextmanager
def _told_to_stop() -> Iterator[list[int]]:
    """A list of the signals that have told this process to stop; repeated at once, one counts."""
    told: list[int] = []
    heard: dict[int, float] = {}  # s, monotonic

    def note(number: int, _) -> None:
        if time.monotonic() - heard.get(number, float("-inf")) > stopping.DOUBLE_SECONDS:
            heard[number] = time.monotonic()
            told.append(number)

    signals = (signal.SIGTERM, signal.SIGINT)
    previous = [signal.signal(number, note) for number in signals]
    try:
        yield told
    finally:
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def _display(jobs: Sequence[Job], config: Config, file: TextIO | None = None):
    """A function that shows how all stand: a live table on a terminal, else a line now and then."""
    console = Console(file=file or sys.stderr)
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda: live.update(table(jobs, config), refresh=True)
        return
    yield lambda: _report(jobs, config)


def _report(jobs: Sequence[Job], config: Config) -> None:
    for job in jobs:
        recent = time.monotonic() - job.reported < REPORT_SECONDS
        if recent if job.state == "running" else job.reported == float("inf"):
            continue
        if job.state != "waiting":
            logger.info("%s", "  ".join(cell for cell in _cells(job, config) if cell))
            job.reported = time.monotonic() if job.state == "running" else float("inf")


def table(jobs: Sequence[Job], config: Config) -> Table:
    """How all stand."""
    columns = ("category", "", "step", "loss", "images/s", "ETA", "image AUROC")
    result = Table(*columns, title=f"{sum(j.state == 'done' for j in jobs)} of {len(jobs)} done")
    colors = {"running": "green", "failed": "red", "done": "bold", "waiting": "dim"}
    for job in jobs:
        result.add_row(*_cells(job, config), style=colors.get(job.state))
    return result


def _cells(job: Job, config: Config) -> list[str]:
    known = progress(job.workdir, config.train.batch_size)
    cells = [job.name, job.state, "", "", "", "", ""]
    if "step" in known:
        cells[2:5] = f"{known['step']}/{known['total']}", f"{known['loss']:.4f}", ""
        if job.state == "running":
            minutes, seconds = divmod(int(known["eta"]), 60)
            cells[4:6] = f"{known['speed']:.1f}", f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
    if known.get("image_auroc") is not None:
        cells[6] = f"{known['image_auroc']:.3f}"
    return cells
