"""GPUs that are not here: kernels and bytes of programs written by hand, and a real program of the GPU's compiler."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from unet_jax import InputError
from unet_jax.plan.gpu_program import list_kernels
from unet_jax.plan.gpu_targets import GPUS, gpu_target, is_gpu

PROGRAM = """HloModule jit_step, is_scheduled=true

%fused_slice (param_0: f32[100], param_1: f32[4]) -> f32[4] {
  %param_0 = f32[100]{0} parameter(0)
  %slice.1 = f32[4]{0} slice(%param_0), slice={[0:4]}
  %param_1 = f32[4]{0} parameter(1)
  ROOT %add.1 = f32[4]{0} add(%slice.1, %param_1)
}

%fused_update (param_0.1: f32[100], param_1.1: f32[4], param_2.1: s32[]) -> f32[100] {
  %param_0.1 = f32[100]{0} parameter(0)
  %param_1.1 = f32[4]{0} parameter(1)
  %param_2.1 = s32[] parameter(2)
  ROOT %dynamic-update-slice.1 = f32[100]{0} dynamic-update-slice(%param_0.1, %param_1.1, %param_2.1)
}

%body (arg: (s32[], f32[8])) -> (s32[], f32[8]) {
  %arg = (s32[], f32[8]{0}) parameter(0)
  %element = f32[8]{0} get-tuple-element(%arg), index=1
  %negate.1 = f32[8]{0} negate(%element)
  ROOT %tuple.1 = (s32[], f32[8]{0}) tuple(%element, %negate.1)
}

%condition (arg.1: (s32[], f32[8])) -> pred[] {
  ROOT %compare.1 = pred[] constant(true)
}

ENTRY %main (x: f32[100], y: f32[4], i: s32[]) -> f32[100] {
  %x = f32[100]{0} parameter(0), metadata={op_name="x (of (a)"}
  %y = f32[4]{0} parameter(1)
  %i = s32[] parameter(2)
  %cut = f32[4]{0} fusion(%x, %y), kind=kLoop, calls=%fused_slice
  %convolution = (f32[8]{0}, u8[0]{0}) custom-call(%y, %cut), custom_call_target="__cudnn$convForward"
  %result = f32[8]{0} get-tuple-element(%convolution), index=0
  %initial = (s32[], f32[8]{0}) tuple(%i, %result)
  %loop = (s32[], f32[8]{0}) while(%initial), condition=%condition, body=%bodyROUNDS
  %all-reduce-start = f32[4]{0} all-reduce-start(%cut), replica_groups={}
  %all-reduce-done = f32[4]{0} all-reduce-done(%all-reduce-start)
  %copy.1 = f32[4]{0} copy(%all-reduce-done)
  ROOT %put = f32[100]{0} fusion(%x, %copy.1, %i), kind=kLoop, calls=%fused_update
}
"""


@pytest.mark.parametrize(("said", "rounds"), [(', backend_config={"known_trip_count":{"n":"5"}}', 5), ("", 3)])
def test_kernels_and_their_bytes(said, rounds):
    kernels = list_kernels(PROGRAM.replace("ROUNDS", said), loop_count=3)
    found = [(k.instruction.name, k.read_bytes, k.written_bytes, k.rounds) for k in kernels]
    assert found == [
        ("cut", 16 + 16, 16, 1),  # 4 of 100 numbers are sliced
        ("convolution", 32, 32, 1),
        ("negate.1", 32, 32, rounds),
        ("all-reduce-start", 16, 0, 1),
        ("copy.1", 16, 16, 1),
        ("put", 16 + 4, 16, 1),  # in place
    ]
    assert kernels[2].num_bytes == 64 * rounds


def test_topologies_that_are_not_known_and_packages_that_are_missing(monkeypatch):
    assert is_gpu("h100") and is_gpu("h100:8") and not is_gpu("v5e:2x2") and not is_gpu("")
    for topology in ("h100:0", "h100:9", "h100:", "h100:2x2", "x100"):
        with pytest.raises(InputError, match=rf"--topology is '{topology}', but must be KIND or KIND:COUNT.*a100"):
            gpu_target(topology)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'unet_jax\[plan-gpu\]'"):
        gpu_target("h100:8")


COMPILE = """
import dataclasses, json
import jax
jax.config.update("jax_platforms", "cpu")
from helpers import tiny_config
from etils import epath
from unet_jax.config.dicts import replace
from unet_jax.plan.estimate import estimate
from unet_jax.plan.gpu_targets import gpu_target

config = replace(tiny_config(epath.Path("")), {"model.dtype": "bfloat16", "data.image_size": 64, "train.batch_size": 8})
for topology, program in (("h100", "predict"), ("b200:2", "train")):
    print(json.dumps(dataclasses.asdict(estimate(config, 2, gpu_target(topology), program=program))))
"""


def test_a_network_of_two_levels_compiles_for_gpus():
    pytest.importorskip("jax_cuda13_plugin", reason="GPU programs need the extra plan-gpu")
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": path}
    process = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    predict, train = map(json.loads, process.stdout.splitlines())
    assert predict["hbm_bytes"] == GPUS["h100"].chip.hbm_bytes and predict["collectives"] == []
    assert train["num_devices"] == 2 and train["images_per_device"] == 4
    # Gradients, and sums of normalisations (gathered where they are pairs): no activation leaves its GPU.
    assert {c["opcode"] for c in train["collectives"]} == {"all-gather", "all-reduce"}
    assert sum(c["num_bytes"] for c in train["collectives"]) < 4096  # one channel of one image: 64 * 64 * 2 bytes
    for found in (predict, train):
        assert found["compiler"].startswith("jax-cuda13-plugin ") and found["cycles"] is None
        assert found["bytes_accessed"] > found["floor"]["bytes"]  # every kernel at least once
        assert found["bytes_accessed"] > found["argument_bytes"]
        sizes = [row["num_bytes"] for row in found["top"]]
        assert len(sizes) == 10 and sizes == sorted(sizes, reverse=True) and sum(sizes) < found["bytes_accessed"]
        assert 0 <= found["kernels"]["copies"] < found["kernels"]["small"] <= found["kernels"]["count"]
        assert found["traffic_ms"] > found["floor"]["ms"] * 0.5
    assert train["kernels"]["count"] > 2 * predict["kernels"]["count"]
