"""Speed, MFU and peak memory of inference: pictures in, anomaly maps and scores out.

python -m benchmarks.inference --config configs/default.py --batches 1,16,64 \
    --variants float32,bfloat16 --torch eager,best --breakdown

As `benchmarks.train_step`; the batch size is `train.batch_size` here too.
"""

import jax
from absl import app, flags

from benchmarks import sweep
from configs.schema import Config
from diffad_jax.method import jitted, train_state
from diffad_jax.runs import profiling, sharding
from diffad_jax.scoring import scorer


def row(config: Config, count: int) -> dict:
    """Time, memory and FLOPs of the step."""
    mesh = sharding.data_mesh()
    everywhere = sharding.replicated(mesh)
    key = jax.device_put(jax.random.key(config.seed), everywhere)
    init = jax.jit(train_state.init_variables, static_argnums=0, out_shardings=everywhere)
    variables = init(config.model, key)
    batch = sharding.to_devices(sweep.random_batch(config), mesh)
    inputs = (variables, batch["image"], scorer.evaluation_noises(config, mesh))

    lowered = lower(config, mesh, inputs)
    compiled, compile_seconds = sweep.timed(lowered.compile)

    def step():
        jax.block_until_ready(compiled(*inputs))

    timing = sweep.measure(step, count)
    used, predicted = sweep.peak_gib(), profiling.step_bytes(compiled)
    form, flops = jitted.countable(config), None
    if form is not None:
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), inputs)
        flops = lower(*form, shapes).cost_analysis()["flops"]
    return {
        "device": f"{mesh.size} x {jax.devices()[0].device_kind}",
        "image_size": config.model.image_size,
        "compile_s": round(compile_seconds, 1),
        **timing,
        "images_per_s": round(1e3 * config.train.batch_size / timing["step_ms"], 2),
        "peak_gib": used,
        "predicted_gib": round(predicted / 2**30, 2) if predicted else None,
        **({"flops": flops, "peak_flops": sweep.peak_flops()} if flops else {}),
        **sweep.profiled(compiled, step),
    }


def lower(config: Config, mesh: jax.sharding.Mesh, inputs) -> jax.stages.Lowered:
    """The step for the devices of a mesh, from its inputs or from their shapes."""
    networks = train_state.define(config.model)
    return jitted.evaluate_step(networks, config, mesh).lower(*inputs)


if __name__ == "__main__":
    sweep.define_flags("float32,bfloat16", "16")
    flags.adopt_module_key_flags(sweep)
    app.run(lambda _: sweep.main("benchmarks.inference", "infer", row))
