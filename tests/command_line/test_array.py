"""Which share of the work a process has, by its flags and its scheduler."""

import pytest

from configs.errors import UserError
from diffad_jax.command_line import array
from tests.support import folders

NAMES = ["bottle", "cable", "grid"]
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "a",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NTASKS": "4",
}
MPI = {
    "OMPI_MCA_orte_hnp_uri": "1;tcp",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
}


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        (None, {}, None),
        (None, {"SLURM_ARRAY_TASK_ID": "2"}, ["grid"]),
        (None, POD, ["cable"]),
        (None, {"MEGASCALE_SLICE_ID": "0", "MEGASCALE_NUM_SLICES": "2"}, ["bottle", "grid"]),
        (None, {"MEGASCALE_SLICE_ID": "0", "MEGASCALE_NUM_SLICES": "1"}, None),
        (None, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
        ("0/2", {}, ["bottle", "grid"]),
        ("1/2", POD, ["cable"]),
        ("0/1", {"SLURM_ARRAY_TASK_ID": "2"}, NAMES),
    ],
)
def test_categories(given, environment, expected):
    assert array.categories(NAMES, given, environment) == expected


def test_every_category_is_in_one_share():
    for count in (1, 2, 3):
        shares = [array.categories(NAMES, f"{index}/{count}", {}) for index in range(count)]
        assert sorted(name for share in shares for name in share) == NAMES


@pytest.mark.parametrize(
    ("given", "environment", "told"),
    [
        ("3/3", {}, "--shard=3/3 is no share: they are 0/3 to 2/3"),
        ("x", {}, "--shard=x is no share: they are 0/8 to 7/8"),
        ("1/0", {}, "--shard=1/0 is no share"),
        ("-1/2", {}, "--shard=-1/2 is no share: they are 0/2 to 1/2"),
        ("3/4", {}, "--shard=3/4 has no category: there are 3"),
        (None, {"SLURM_ARRAY_TASK_ID": "3"}, "is 3, but there are 3 categories: number the jobs 0"),
    ],
)
def test_no_share_is_one_line(given, environment, told):
    with pytest.raises(UserError, match=told):
        array.categories(NAMES, given, environment)


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        (None, {}, None),
        ("2/5", POD, (2, 5)),
        (None, SLURM, (2, 4)),
        (None, SLURM | {"SLURM_NTASKS": "1"}, None),
        (None, MPI, (1, 2)),
        (None, {"TPU_WORKER_HOSTNAMES": "a,b,c", "TPU_WORKER_ID": "2"}, (2, 3)),
        (None, {"TPU_WORKER_HOSTNAMES": "a", "TPU_WORKER_ID": "0"}, None),
    ],
)
def test_pictures(given, environment, expected):
    assert array.pictures(given, environment) == expected


def test_an_array_of_unknown_size_is_one_line():
    told = r"give --shard=\$\(JOB_COMPLETION_INDEX\)/N with their number N, or --num_processes=1"
    with pytest.raises(UserError, match=told):
        array.pictures(None, POD)


def test_slices_are_forgotten():
    environment = {"MEGASCALE_SLICE_ID": "0", "MEGASCALE_COORDINATOR_ADDRESS": "a", "HOME": "b"}
    array.leave(environment)
    assert environment == {"HOME": "b"}


def test_a_single_category_is_a_list_of_one(tmp_path):
    command = [*folders.command(tmp_path / "data", tmp_path / "run"), "--shard=1/2"]
    result = folders.call(command, tmp_path / "compiled")
    assert result.returncode == 1 and not (tmp_path / "run").exists()
    assert result.stderr == "error: --shard=1/2 has no category: there are 1\n"
