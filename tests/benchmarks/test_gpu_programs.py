"""The list of a compiled program's kernels. Compiling for GPUs needs a compiler that is not installed for tests."""

import pytest

from benchmarks import gpu_programs
from benchmarks.gpu_programs import Kernel, kernels
from show1_jax.errors import UserError

PROGRAM = """HloModule jit_step, is_scheduled=true

FileNames
1 "/home/user/run.py"
2 "/home/user/show1_jax/ops/group_norm.py"
3 "/usr/lib/jax/_src/numpy/reductions.py"

FunctionNames
1 "main"
2 "GroupNorm.one_pass"
3 "sum"

FileLocations
1 {file_name_id=1 function_name_id=1 line=10 end_line=10 column=0 end_column=0}
2 {file_name_id=2 function_name_id=2 line=61 end_line=61 column=22 end_column=39}
3 {file_name_id=3 function_name_id=3 line=7 end_line=7 column=1 end_column=2}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=1}
3 {file_location_id=3 parent_frame_id=2}


%fused_reduce (x: bf16[2,8,64]) -> f32[2,8] {
  %x = bf16[2,8,64]{2,1,0} parameter(0)
  ROOT %sum = f32[2,8]{1,0} reduce(%x), dimensions={2}
}

ENTRY %main (x.1: bf16[2,8,64], k.1: bf16[64,64]) -> bf16[2,8,64] {
  %x.1 = bf16[2,8,64]{2,1,0} parameter(0), metadata={op_name="x"}
  %k.1 = bf16[64,3,3,64]{1,0} parameter(1), metadata={op_name="k"}
  %conv.2 = (bf16[2,8,64]{2,1,0}, u8[16]{0}) custom-call(%x.1, %k.1), custom_call_target="__cudnn$convForward"
  %get-tuple-element.1 = bf16[2,8,64]{2,1,0} get-tuple-element(%conv.2), index=0
  %input_reduce_fusion.7 = f32[2,8]{1,0} fusion(%get-tuple-element.1), kind=kInput, calls=%fused_reduce, \
metadata={op_name="jit(step)/reduce_sum" stack_frame_id=3}
  %bitcast.1 = bf16[16,64]{1,0} bitcast(%get-tuple-element.1)
  %custom-call.4 = bf16[16,64]{1,0} custom-call(%bitcast.1), custom_call_target="__cublas$lt$matmul"
  %attention = (bf16[2,8,64]{2,1,0}, u8[0]{0}) custom-call(%custom-call.4), custom_call_target="__cudnn$fmhaSoftmax"
  ROOT %copy.1 = bf16[2,8,64]{2,1,0} copy(%x.1), metadata={op_name="jit(step)/jit(inner)/copy" stack_frame_id=1}
}
"""


def test_kernels_of_a_program() -> None:
    features, kernel, sums = 2 * 8 * 64 * 2, 64 * 3 * 3 * 64 * 2, 2 * 8 * 4
    assert list(kernels(PROGRAM)) == [
        Kernel("conv", "conv", 2 * features + kernel + 16, "(bf16[2,8,64], u8[16])", ""),
        Kernel("others", "input_reduce_fusion", features + sums, "f32[2,8]", "group_norm.py:61 one_pass"),
        Kernel("matmul", "custom-call", 2 * features, "bf16[16,64]", ""),
        Kernel("attention", "attention", 2 * features, "(bf16[2,8,64], u8[0])", ""),
        Kernel("others", "copy", 2 * features, "bf16[2,8,64]", "jit(inner)/copy"),
    ]


def test_it_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown_platform(**_: object) -> None:
        raise NotImplementedError("topology not implemented for cuda")

    monkeypatch.setattr(gpu_programs.topologies, "get_topology_desc", unknown_platform)
    monkeypatch.setenv("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    with pytest.raises(UserError, match=r"it needs the compiler for NVIDIA GPUs: pip install '\.\[cuda\]'$"):
        gpu_programs._main(["--config", "configs/full.py"])
    with pytest.raises(UserError, match="--most=-1 must be at least 0"):
        gpu_programs._main(["--config", "configs/full.py", "--most", "-1"])
