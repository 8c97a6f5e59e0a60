"""Reading compiled programs and traces: what each instruction is, and where the time goes."""

import collections

import jax
import jax.numpy as jnp
import pytest

from benchmarks.compiled import breakdown, gpu_compile, hlo, tpu_compile

Event = collections.namedtuple("Event", "name start_ns duration_ns stats", defaults=[()])
PROGRAM = """HloModule step, is_scheduled=true, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%body.1 (p: bf16[8,8]) -> bf16[8,8] {
  %p = bf16[8,8]{1,0:T(8,128)} parameter(0)
  ROOT %c = bf16[8,8]{1,0:T(8,128)} convolution(%p, %p), dim_labels=bf_io->bf
}

%body.2 (p: f32[8]) -> f32[8] {
  %p.2 = f32[8]{0} parameter(0)
  %m = f32[8]{0} multiply(%p.2, %p.2), metadata={op_name="jit(f)/jvp(unet)/attention/norm/mul"}
  ROOT %t = f32[8]{0} tanh(%m), metadata={op_name="jit(f)/jvp(unet)/tanh"}
}

ENTRY %main.9 (a: f32[8], b: bf16[8,8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %b = bf16[8,8]{1,0} parameter(1)
  %small = f32[8]{0} all-reduce(%a), to_apply=%add
  %conv.1 = bf16[8,8]{1,0} fusion(%b), kind=kOutput, calls=%body.1
  %start.1 = (f32[1024,256]{1,0}, bf16[8]{0}) all-reduce-start(%a, %b), to_apply=%add
  %conv.2 = bf16[8,8]{1,0} fusion(%b), kind=kOutput, calls=%body.1
  %done.1 = (f32[1024,256]{1,0}, bf16[8]{0}) all-reduce-done(%start.1)
  %start.2 = f32[8]{0} all-reduce-start(%a), to_apply=%add
  %done.2 = f32[8]{0} all-reduce-done(%start.2)
  %cudnn.1 = (f32[8]{0}, u8[0]{0}) custom-call(%a), custom_call_target="__cudnn$convForward"
  %gemm.1 = f32[8]{0} custom-call(%a), custom_call_target="__cublas$gemm", metadata={op_name="jit(f)/attention/dot"}
  %copy.1 = f32[8]{0} copy(%a), metadata={op_name="jit(f)/norm/transpose"}
  %loop.1 = f32[8]{0} while(%a), condition=%body.2, body=%body.2
  %tail.1 = f32[8]{0} add(%a, %a)
  ROOT %fusion.3 = f32[8]{0} fusion(%a), kind=kLoop, calls=%body.2
}
"""  # noqa: E501


def test_instructions_are_what_they_were_in_the_model():
    program = hlo.parse(PROGRAM)
    kinds = {x.name: program.kind(x) for x in program.computations["main.9"]}
    assert program.entry == "main.9"
    assert {name: kinds[name] for name in kinds if "." in name} == {
        "conv.1": "convolutions",
        "conv.2": "convolutions",
        "cudnn.1": "convolutions",
        "start.1": "exchange",
        "done.1": "exchange",
        "start.2": "exchange",
        "done.2": "exchange",
        "gemm.1": "attention",
        "copy.1": "layout changes",
        "loop.1": "other",
        "fusion.3": "norms",
        "tail.1": "other",
    }
    assert set(kinds.values()) <= set(hlo.KINDS)
    with pytest.raises(ValueError, match="not the text of a compiled program: 'module @jit"):
        hlo.parse("module @jit_f {\n}\n")


def test_what_chips_exchange_and_whether_work_goes_on_meanwhile():
    assert tpu_compile.exchange(hlo.parse(PROGRAM)) == {
        "all_reduces": 3,
        "all_reduce_mib": 1.0,
        "large": 1,
        "overlapped": 1,
        "convolutions": 3,
        "convolutions_after": 2,
    }


def test_the_cost_models_cycles_by_kind():
    text = PROGRAM.replace("kind=kOutput,", 'backend_config={"estimated_cycles":"2500000"},')
    assert tpu_compile.estimate(hlo.parse(text)) == {"convolutions": 5.0}


def test_what_a_program_for_gpus_launches_and_moves():
    found = gpu_compile.read(hlo.parse(PROGRAM))
    assert found["convolutions_in"] == {"bf16": 2, "f32": 1}
    assert found["kernels"]["exchange"] == 3 and found["kernels"]["convolutions"] == 3
    assert found["largest_layout_changes"] == [["f32[8]{0}", 1, 0.0]]
    (copy,) = (x for x in hlo.parse(PROGRAM).computations["main.9"] if x.name == "copy.1")
    assert gpu_compile.operands(copy) == {"a"}
    assert found["all_reduces"] == 3


def test_time_by_kind_of_instruction():
    program = hlo.parse(PROGRAM)
    gpu = [
        Event("sm90_xmma_fprop", 0, 10, [("hlo_module", "step"), ("hlo_op", "cudnn.1")]),
        Event("MemcpyH2D", 15, 5),
    ]
    total = breakdown.totals(program, [(True, [gpu, [Event("k", 8, 4, [("hlo_op", "tail.1")])]])])
    assert total == {"convolutions": 10, "other": 4, breakdown.UNKNOWN: 5, breakdown.IDLE: 3}
    tpu = [Event("%loop.1 = f32[8]{0} while(%a)", 0, 10), Event("%conv.1 = bf16[8,8] f", 0, 7)]
    assert breakdown.totals(program, [(True, [tpu])]) == {"convolutions": 7, breakdown.IDLE: 0}
    host = [[Event("ThunkExecutor::Execute", 0, 99), Event("copy.1", 10, 2)]]
    assert breakdown.totals(program, [(False, host)]) == {"layout changes": 2, breakdown.IDLE: 0}


# JAX's reader of traces is built so that Python 3.13 warns; as an error it ends the process.
@pytest.mark.filterwarnings("ignore:builtin type event_stats has no __module__:DeprecationWarning")
def test_a_step_that_runs_is_broken_down():
    @jax.jit
    def step(x, kernel):
        with jax.named_scope("norm"):
            x = x - x.mean((1, 2), keepdims=True)
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            jnp.tanh(x), kernel, (1, 1), "SAME", dimension_numbers=dimensions
        )

    arguments = (jnp.ones((4, 64, 64, 16)), jnp.ones((3, 3, 16, 16)))
    compiled = step.lower(*arguments).compile()
    parts = breakdown.measure(compiled, lambda: jax.block_until_ready(compiled(*arguments)))
    assert {"convolutions", breakdown.IDLE} < set(parts) <= {*hlo.KINDS, breakdown.IDLE}
    assert parts["convolutions"] > 0
    lines = breakdown.table(parts).splitlines()
    assert len(lines) == 2 + len(parts) and lines[-1].endswith("% |")
