"""Which share of the work is this process's: as --shard=I/N says, or as its scheduler numbers it.

Shares know nothing of each other: none waits for another, and one that fails is started again
alone.
"""

from collections.abc import Mapping, MutableMapping, Sequence

from configs.errors import UserError

# What numbers the jobs of an array, from 0, and how a command line says it.
_ARRAYS = {
    "SLURM_ARRAY_TASK_ID": "$SLURM_ARRAY_TASK_ID",
    "JOB_COMPLETION_INDEX": "$(JOB_COMPLETION_INDEX)",
}
# Rank and number of the processes of one job.
_RANKS = (("SLURM_PROCID", "SLURM_NTASKS"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"))
_SLICE, _SLICES = "MEGASCALE_SLICE_ID", "MEGASCALE_NUM_SLICES"


def parse(text: str) -> tuple[int, int]:
    """'3/8' as (3, 8).

    Raises:
      UserError: it is no share.
    """
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        last = f"{int(count) - 1}/{count}" if count.isdecimal() and int(count) else "7/8"
        raise UserError(
            f"--shard={text} is no share: they are 0/{last.partition('/')[2]} to {last}"
        )
    return int(index), int(count)


def categories(
    names: Sequence[str], given: str | None, environment: Mapping[str, str]
) -> list[str] | None:
    """The categories of this job, one or several; None: there is no array, so all.

    Every job of an array of Slurm or Kubernetes has the one of its number: that holds however many
    of them are started again. Slices of a TPU take turns.

    Args:
      names: all of them, in order.
      given: --shard.
      environment: of this process.

    Raises:
      UserError: there is no category for this job.
    """
    if given is not None:
        index, count = parse(given)
        if index >= len(names):
            raise UserError(f"--shard={given} has no category: there are {len(names)}")
        return list(names[index::count])
    if int(environment.get(_SLICES, "1")) > 1:
        return list(names[int(environment[_SLICE]) :: int(environment[_SLICES])])
    for variable in _ARRAYS:
        if variable in environment:
            index = int(environment[variable])
            if index >= len(names):
                raise UserError(
                    f"{variable} is {index}, but there are {len(names)} categories: number the "
                    f"jobs 0 to {len(names) - 1}"
                )
            return [names[index]]
    return None


def pictures(given: str | None, environment: Mapping[str, str]) -> tuple[int, int] | None:
    """The share of a prediction: --shard, else that of this process in its cluster; None: all.

    Raises:
      UserError: one of an array of jobs, whose number is not known.
    """
    if given is not None:
        return parse(given)
    for variable, word in _ARRAYS.items():
        if variable in environment:
            raise UserError(
                f"this is one of an array of jobs: give --shard={word}/N with their number N, or "
                f"--num_processes=1 to judge all pictures in each"
            )
    from diffad_jax.runs import processes  # late: it imports JAX

    if not processes.managed(environment):
        return None
    for rank, size in _RANKS:
        if rank in environment and int(environment.get(size, "1")) > 1:
            return int(environment[rank]), int(environment[size])
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    if len(hosts) > 1 and "TPU_WORKER_ID" in environment:
        return int(environment["TPU_WORKER_ID"]), len(hosts)
    return None


def leave(environment: MutableMapping[str, str]) -> None:
    """Forget the other slices: libtpu and JAX would wait for them."""
    for name in [name for name in environment if name.startswith("MEGASCALE_")]:
        del environment[name]
