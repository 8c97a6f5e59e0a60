"""Speed, MFU and peak memory of one training step, by batch size and precision.

python -m benchmarks.train_step --config configs/default.py --batches 1,4,16,64 \
    --variants float32,bfloat16,bfloat16+norms --torch eager,best --breakdown

MFU: the step's FLOPs (counted by XLA, nothing twice) over its time and over what a large matrix
product reaches in the same process. Inputs are random pictures; TensorFlow is not needed.
"""

import jax
from absl import app, flags

from benchmarks import sweep
from configs.schema import Config
from diffad_jax.method import jitted, optim, train_state
from diffad_jax.runs import profiling, sharding


def row(config: Config, count: int) -> dict:
    """Time, memory and FLOPs of the step."""
    mesh = sharding.data_mesh()
    everywhere = sharding.replicated(mesh)
    optimizer = optim.optimizer(config, total_steps=1000)
    key = jax.device_put(jax.random.key(config.seed), everywhere)
    state = jitted.init(optimizer, config, mesh)(key)
    batch = sharding.to_devices(sweep.random_batch(config), mesh)

    networks = train_state.define(config.model)
    lowered = jitted.train_step(networks, optimizer, config, mesh).lower(state, batch, key)
    compiled, compile_seconds = sweep.timed(lowered.compile)

    def step():
        nonlocal state
        state, metrics = compiled(state, batch, key)
        jax.block_until_ready((state, metrics))

    timing = sweep.measure(step, count)
    used, predicted = sweep.peak_gib(), profiling.step_bytes(compiled)
    flops = jitted.step_flops(config)
    return {
        "device": f"{mesh.size} x {jax.devices()[0].device_kind}",
        "image_size": config.model.image_size,
        "parameters": sum(x.size for x in jax.tree.leaves(state.variables.params)),
        "compile_s": round(compile_seconds, 1),
        **timing,
        "images_per_s": round(1e3 * config.train.batch_size / timing["step_ms"], 2),
        "peak_gib": used,
        "predicted_gib": round(predicted / 2**30, 2) if predicted else None,
        **({"flops": flops, "peak_flops": sweep.peak_flops()} if flops else {}),
        **sweep.profiled(compiled, step),
    }


if __name__ == "__main__":
    sweep.define_flags("float32,bfloat16", "16")
    flags.adopt_module_key_flags(sweep)
    app.run(lambda _: sweep.main("benchmarks.train_step", "train", row))
