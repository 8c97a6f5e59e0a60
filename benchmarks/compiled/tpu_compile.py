"""Compile a step for TPU chips that are not there: memory, exchange, estimated cycles.

python -m benchmarks.compiled.tpu_compile --topology v5e:2x4 --config configs/default.py \
    --config.model.compute_dtype=bfloat16 --config.train.batch_size=64

The training step, or with --inference the evaluation step, of as many pictures. Needs `pip install
"jax[tpu]"`, no TPU; where there is none, set TPU_SKIP_MDS_QUERY=1, or the compiler waits for a TPU
VM's metadata. The full configuration takes some ten minutes on two cores.
"""

import collections
import functools
import json
import pathlib
import re

import jax
import jax.numpy as jnp
from absl import app, flags
from jax.experimental import topologies
from ml_collections import config_flags

from benchmarks.compiled import hlo
from configs import schema
from diffad_jax.method import jitted, optim, train_state
from diffad_jax.runs import profiling, sharding

BYTES = {"pred": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8}


def main(_) -> None:
    """Compile and print one JSON line."""
    jax.config.update("jax_platforms", "cpu")
    config = schema.parse(flags.FLAGS.config)
    topology = topologies.get_topology_desc(flags.FLAGS.topology, platform="tpu")
    mesh = sharding.data_mesh(topology.devices)
    compiled = lower(config, mesh).compile()
    text = compiled.as_text()
    if flags.FLAGS.hlo:
        pathlib.Path(flags.FLAGS.hlo).write_text(text)
    program = hlo.parse(text)
    result = {
        "topology": flags.FLAGS.topology,
        "chips": mesh.size,
        "step": "inference" if flags.FLAGS.inference else "training",
        "batch_size": config.train.batch_size,
        "compute_dtype": config.model.compute_dtype,
        "remat": config.model.remat,
        "gib_a_chip": round(profiling.step_bytes(compiled) / 2**30, 2),
        "temporaries_gib": round(compiled.memory_analysis().temp_size_in_bytes / 2**30, 2),
        "tflop_a_chip": round(compiled.cost_analysis()["flops"] / 1e12, 2),
        **exchange(program),
        "estimated_mcycles": estimate(program),
    }
    print(json.dumps(result))


def lower(config: schema.Config, mesh: jax.sharding.Mesh) -> jax.stages.Lowered:
    """The step that is asked for, from shapes alone."""
    if not flags.FLAGS.inference:
        return jitted.lower_train_step(optim.optimizer(config, total_steps=1000), config, mesh)
    init = functools.partial(train_state.init_variables, config.model)
    variables = jax.eval_shape(init, jax.eval_shape(lambda: jax.random.key(0)))
    size = config.model.image_size
    shapes = ((config.train.batch_size, size, size, 3), (1, 2, size, size, 3))
    pictures, noises = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    step = jitted.evaluate_step(train_state.define(config.model), config, mesh)
    return step.lower(variables, pictures, noises)


def estimate(program: hlo.Program) -> dict[str, float]:
    """Million cycles by kind of instruction, as the compiler's cost model has them: not measured.

    Good for comparing two ways to write a model. At the clock of a v5e, 1.5 GHz, 1.5 are a ms.
    """
    total = collections.Counter()
    for instruction in program.computations[program.entry]:
        found = re.search(r'"estimated_cycles":"(\d+)"', instruction.text)
        if found:
            total[program.kind(instruction)] += int(found[1])
    return {kind: round(cycles / 1e6, 2) for kind, cycles in total.most_common()}


def exchange(program: hlo.Program) -> dict[str, float | int]:
    """The all-reduces of a program: number, MiB, and how far they run beside computation.

    overlapped: those with a start and an end, and other work between the two. convolutions_after:
    how many are still to come when the first all-reduce of at least 1 MiB (of gradients: a norm's
    statistics are a few KiB) begins; 0: the exchange waits for the whole backward pass.
    """
    order = program.computations[program.entry]
    kinds = [program.kind(instruction) for instruction in order]
    found = [i for i, x in enumerate(order) if x.opcode in ("all-reduce", "all-reduce-start")]
    large = [i for i in found if result_bytes(order[i]) >= 2**20]
    return {
        "all_reduces": len(found),
        "all_reduce_mib": round(sum(result_bytes(order[i]) for i in found) / 2**20, 1),
        "large": len(large),
        "overlapped": sum(works_beside(order, kinds, i) for i in found),
        "convolutions": kinds.count("convolutions"),
        "convolutions_after": kinds[large[0] :].count("convolutions") if large else 0,
    }


def works_beside(order: list[hlo.Instruction], kinds: list[str], start: int) -> bool:
    """Whether anything is computed between an all-reduce's start and its end."""
    if order[start].opcode == "all-reduce":
        return False
    name = re.escape(order[start].name)
    end = next(
        i
        for i, x in enumerate(order)
        if x.opcode == "all-reduce-done" and re.search(rf"\(.*{name}[,)]", x.text)
    )
    between = zip(order[start + 1 : end], kinds[start + 1 : end], strict=True)
    return any(x.opcode == "fusion" or kind == "convolutions" for x, kind in between)


def result_bytes(instruction: hlo.Instruction) -> int:
    """Bytes of what an instruction gives; of an all-reduce-start: of its result alone."""
    total = 0
    for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", instruction.result):
        count = 1
        for extent in filter(None, shape.split(",")):
            count *= int(extent)
        total += count * BYTES.get(kind, 0)
    # A start that lists its operands and its results has everything twice.
    twice = instruction.opcode.endswith("-start") and instruction.result.startswith("((")
    return total // 2 if twice else total


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "A file of configs/.")
    flags.DEFINE_string("topology", "v5e:2x4", "Chips, as kind:grid.")
    flags.DEFINE_boolean("inference", False, "The evaluation step in place of the training step.")
    flags.DEFINE_string("hlo", "", "Also write the compiled program to this file.")
    flags.mark_flags_as_required(["config"])
    app.run(main)
