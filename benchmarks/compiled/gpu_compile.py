"""Compile the training step for GPUs that are not there: precision, memory traffic, exchange.

python -m benchmarks.compiled.gpu_compile --gpu h100 --gpus 8 --config configs/default.py \
    --config.model.compute_dtype=bfloat16 --config.train.batch_size=128

Needs `pip install --no-deps jax-cuda12-plugin jax-cuda12-pjrt` in JAX's version and with it neither
a GPU nor its driver nor other CUDA packages. What such a compilation leaves open: no kernel is
timed, so matrix products are all cuBLAS's (on a GPU some are Triton's), and cuDNN's algorithms,
with the memory they work in, are chosen where the program runs.
"""

import collections
import importlib.util
import json
import pathlib
import re
import sys

import jax
from absl import app, flags
from jax.experimental import topologies
from ml_collections import config_flags

from benchmarks.compiled import hlo
from benchmarks.compiled.tpu_compile import exchange, result_bytes
from configs import schema
from diffad_jax.method import jitted, optim
from diffad_jax.runs import profiling, sharding

# What XLA wants to know of a GPU, by the makers' data sheets and CUDA's table of compute
# capabilities: bytes, GHz, bytes a second. XLA has such files under target_config/specs.
COMMON = """gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  runtime_version: "12.8.0" compile_time_toolkit_version: "12.8.0" driver_version: "12.8.0"
  dnn_version: "9.10.0" name: "{name}" {own}
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }} device_description_str: "{name}"
"""
GPUS = {
    "a100": (
        "NVIDIA A100-SXM4-80GB",
        "core_count: 108 fpus_per_core: 64 clock_rate_ghz: 1.41"
        " cuda_compute_capability { major: 8 }"
        " memory_bandwidth: 2039000000000 device_memory_size: 85899345920 l2_cache_size: 41943040"
        " shared_memory_per_core: 167936 shared_memory_per_block_optin: 166912",
    ),
    "h100": (
        "NVIDIA H100 80GB HBM3",
        "core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98"
        " cuda_compute_capability { major: 9 }"
        " memory_bandwidth: 3352000000000 device_memory_size: 85899345920 l2_cache_size: 52428800"
        " shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448",
    ),
}
# By default Triton computes matrix products, in tiles found by timing; untimed ones can be
# impossible ("Couldn't find output tile sizes"). Without it they are cuBLAS's.
UNTIMED = {"xla_gpu_enable_triton_gemm": False}
NO_KERNEL = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"}
LARGEST = 8  # layout changes that are named


def main(_) -> None:
    """Compile and print one JSON line."""
    jax.config.update("jax_platforms", "cpu")
    config = schema.parse(flags.FLAGS.config)
    mesh = sharding.data_mesh(devices(flags.FLAGS.gpu, flags.FLAGS.gpus))
    optimizer = optim.optimizer(config, total_steps=1000)
    compiled = jitted.lower_train_step(optimizer, config, mesh).compile(UNTIMED)
    text = compiled.as_text()
    if flags.FLAGS.hlo:
        pathlib.Path(flags.FLAGS.hlo).write_text(text)
    result = {
        "gpu": flags.FLAGS.gpu,
        "gpus": mesh.size,
        "batch_size": config.train.batch_size,
        "compute_dtype": config.model.compute_dtype,
        "remat": config.model.remat,
        "gib_a_gpu": round(profiling.step_bytes(compiled) / 2**30, 2),
        "temporaries_gib": round(compiled.memory_analysis().temp_size_in_bytes / 2**30, 2),
        **read(hlo.parse(text)),
    }
    print(json.dumps(result))


def devices(gpu: str, count: int) -> list[jax.Device]:
    """GPUs of one host, to compile for."""
    if not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        sys.exit("error: no GPU compiler: pip install --no-deps jax-cuda12-plugin jax-cuda12-pjrt")
    name, own = GPUS[gpu]
    target = COMMON.format(name=name, own=own)
    return topologies.get_topology_desc(
        platform="cuda", topology=f"1x1x{count}", target_config=target
    ).devices


def read(program: hlo.Program) -> dict:
    """What the program is made of.

    kernels: launches by kind. traffic_gib: what they read and write, at most (an operand of which
    a kernel reads a part counts whole). convolutions_in: how many compute in which precision.
    largest_layout_changes: [type, how many, MiB read and written].
    """
    order = program.computations[program.entry]
    types = {x.name: x for x in order}
    kernels, traffic = collections.Counter(), collections.Counter()
    precisions, moved, counted = collections.Counter(), collections.Counter(), collections.Counter()
    for x in order:
        if x.opcode in NO_KERNEL or x.opcode.endswith("-done"):
            continue
        kind = program.kind(x)
        size = result_bytes(x) + sum(result_bytes(types[name]) for name in operands(x))
        if {part.opcode for part in program.inside(x)} <= {"parameter", "slice"}:
            size = 2 * result_bytes(x)  # reads no more than it gives
        kernels[kind] += 1
        traffic[kind] += size
        if kind == "convolutions":
            precisions[narrowest(types[name].result for name in operands(x))] += 1
        if kind == "layout changes":
            moved[x.result] += size
            counted[x.result] += 1
    return {
        "kernels": dict(kernels.most_common()),
        "traffic_gib": {kind: round(b / 2**30, 2) for kind, b in traffic.most_common()},
        "convolutions_in": dict(precisions),
        "largest_layout_changes": [
            [result, counted[result], round(b / 2**20, 1)]
            for result, b in moved.most_common(LARGEST)
        ],
        **exchange(program),
    }


def operands(instruction: hlo.Instruction) -> set[str]:
    """Names of what an instruction reads."""
    inner = instruction.text.split(f" {instruction.opcode}(", 1)[1]
    return set(re.findall(r"%([\w.\-]+)", inner.split(")", 1)[0]))


def narrowest(types) -> str:
    """bf16 where a convolution reads bf16: its bias may be wider."""
    found = {kind for one in types for kind in re.findall(r"(\w+)\[\d", one)}
    return next((kind for kind in ("bf16", "f16", "f32", "f64") if kind in found), "none")


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "A file of configs/.")
    flags.DEFINE_enum("gpu", "h100", sorted(GPUS), "What to compile for.")
    flags.DEFINE_integer("gpus", 1, "How many, of one host.", lower_bound=1)
    flags.DEFINE_string("hlo", "", "Also write the compiled program to this file.")
    flags.mark_flags_as_required(["config"])
    app.run(main)
