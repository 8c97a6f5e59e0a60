"""Compile the training step for TPU chips that are not there: memory, FLOPs, collectives, overlap.

python -m benchmarks.tpu_compile --topology v5e:2x4 --config configs/default.py \
    --config.model.compute_dtype=bfloat16 --config.train.batch_size=128

Needs the compiler only (`pip install "jax[tpu]"`), no TPU. Prints one JSON line: what a chip holds,
what it computes, what the chips exchange each step, and how much of the program lies between the
start of an exchange and the moment its result is needed.
"""

import functools
import json
import re

import jax
import jax.numpy as jnp
from absl import app, flags
from jax.experimental import topologies
from ml_collections import config_flags

from diffad_jax import checkpoint, optim, sharding, steps, train_state
from diffad_jax import config as configs

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.")
_TOPOLOGY = flags.DEFINE_string("topology", "v5e:2x4", "Chips, as kind:grid.")
_HLO = flags.DEFINE_string("hlo", "", "Also write the compiled program to this file.")
BYTES = {"f32": 4, "bf16": 2, "s32": 4, "u32": 4, "pred": 1}


def main(_) -> None:
    """Compile and print."""
    jax.config.update("jax_platforms", "cpu")
    config = configs.parse(_CONFIG.value)
    topology = topologies.get_topology_desc(_TOPOLOGY.value, platform="tpu")
    mesh = sharding.data_mesh(topology.devices)
    compiled = lower(config, mesh).compile()
    hlo = compiled.as_text()
    if _HLO.value:
        with open(_HLO.value, "w") as file:
            file.write(hlo)
    memory, chips = compiled.memory_analysis(), mesh.size
    # The state is donated: its new value lies where the old one did.
    gib = (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**30
    result = {
        "topology": _TOPOLOGY.value,
        "chips": chips,
        "batch_size": config.train.batch_size,
        "compute_dtype": config.model.compute_dtype,
        "remat": config.model.remat,
        "gib_a_chip": round(gib, 2),
        "temporaries_gib_a_chip": round(memory.temp_size_in_bytes / 2**30, 2),
        "tflop_a_chip": round(compiled.cost_analysis()["flops"] / 1e12, 2),
        **exchanges(hlo),
    }
    print(json.dumps(result))


def lower(config: configs.Config, mesh) -> jax.stages.Lowered:
    """The training step for the devices of a mesh, from shapes alone."""
    everywhere, split = sharding.replicated(mesh), sharding.split(mesh)
    optimizer = optim.optimizer(config, total_steps=1000)
    networks = train_state.define(config.model)
    init = functools.partial(train_state.init, config, optimizer)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = checkpoint.abstract(jax.eval_shape(init, key), everywhere)
    b, s = config.train.batch_size, config.model.image_size
    batch = {
        name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=split)
        for name, shape in (("image", (b, s, s, 3)), ("mask", (b, s, s, 1)), ("label", (b,)))
    }
    return steps.jit_train_step(networks, optimizer, config, mesh).lower(state, batch, key)


def exchanges(hlo: str) -> dict[str, float | int]:
    """All-reduces of a scheduled program: how many, their bytes, how many overlap computation.

    An exchange overlaps where other work stands between its start and its end in the schedule.
    """
    lines = hlo.splitlines()
    whole = [line for line in lines if re.search(r"= .* all-reduce\(", line)]
    starts = [i for i, line in enumerate(lines) if re.search(r"= .* all-reduce-start\(", line)]
    total, overlapped = sum(map(size, whole)), 0
    for i in starts:
        name = re.match(r"\s*(%?[\w.-]+) =", lines[i])[1]
        end = next(j for j in range(i, len(lines)) if f"all-reduce-done({name}" in lines[j])
        overlapped += any(re.search(r"(fusion|convolution)\(", line) for line in lines[i:end])
        total += size(lines[i]) // 2  # its type names operand and result
    return {
        "all_reduces": len(whole) + len(starts),
        "all_reduce_gib": round(total / 2**30, 4),
        "started_early": len(starts),
        "overlapping_work": overlapped,
    }


def size(line: str) -> int:
    """Bytes of an instruction's result."""
    result = line.split("= ", 1)[1].split(" all-reduce", 1)[0]
    total = 0
    for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", result):
        count = 1
        for extent in filter(None, shape.split(",")):
            count *= int(extent)
        total += BYTES.get(kind, 0) * count
    return total


if __name__ == "__main__":
    flags.mark_flags_as_required(["config"])
    app.run(main)
