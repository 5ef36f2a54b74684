"""One video alone, in a batch, over eight devices and over two processes: the same up to rounding."""

import dataclasses
import functools
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from show1_jax.cascade.cascade import Cascade
from show1_jax.cascade.memory import compile_stage
from show1_jax.checkpoints.networks import make_network
from show1_jax.config.sampling import STAGES, MeshConfig, SamplingMeshConfig, Stage
from show1_jax.errors import UserError
from show1_jax.media.frames import to_uint8
from show1_jax.media.stage_files import load_stage
from show1_jax.nn.config import UNetConfig
from show1_jax.parallel import constrain_activation, make_mesh, replicated_sharding
from show1_jax.parallel.sharding import weight_spec
from show1_jax.sampling.job import print_memory
from show1_jax.sampling.request import Request
from show1_jax.training.flops import count_flops
from tests.helpers import tiny_config
from tests.helpers.processes import environment, free_address

PROMPTS = ("a red circle moves right", "a blue square", "two green triangles")
SEEDS = (5, 6, 7)
LEVELS = 0.05
BFLOAT16 = 0.1
"""Bound of the mean difference to float32, for values in [-1, 1]; guidance of 9 and thresholding amplify it."""
IN_TWO_PROCESSES = STAGES[:3]
UNET = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (64, 128),
    "layers_per_block": (1, 1),
    "attention_levels": (False, True),
    "down_head_dim": (16, 16),
    "mid_head_dim": 16,
    "up_head_dim": (16, 16),
    "cross_attention_dim": 32,
}
Videos = dict[Stage, np.ndarray]


def sample(
    checkpoint: Path, mesh: SamplingMeshConfig, num_devices: int, batch: int, stages: Sequence[Stage] = STAGES
) -> Videos:
    config = dataclasses.replace(tiny_config.settings(), mesh=mesh)
    cascade = Cascade.load(checkpoint, config, devices=jax.devices()[:num_devices])
    return cascade.sample(PROMPTS[:batch], SEEDS[:batch], stages=stages)


@pytest.fixture(scope="module")
def alone(tiny_checkpoint: Path) -> Videos:
    return sample(tiny_checkpoint, SamplingMeshConfig(), 1, 1)


def levels_apart(ours: Videos, others: Videos) -> float:
    """Return the largest mean difference of the first video of a stage, in 8-bit levels."""
    return max(
        float(np.abs(to_uint8(ours[stage][0]).astype(int) - to_uint8(others[stage][0])).mean()) for stage in others
    )


def test_in_a_batch_of_three(tiny_checkpoint: Path, alone: Videos) -> None:
    batch = sample(tiny_checkpoint, SamplingMeshConfig(), 1, 3, STAGES[:2])
    assert batch["interpolation"].shape == (3, 5, 8, 8, 3)
    assert levels_apart(alone, batch) <= LEVELS
    others = np.abs(to_uint8(batch["keyframes"][1:]).astype(int) - to_uint8(alone["keyframes"]))
    assert others.mean() > 10  # other prompts and seeds make other videos, so the bound above is meaningful


def test_a_batch_of_three_on_eight_devices(tiny_checkpoint: Path, alone: Videos) -> None:
    sharded = sample(tiny_checkpoint, SamplingMeshConfig(data=2, fsdp=4), 8, 3)
    assert sharded["superres_latent"].shape == (3, 5, 24, 24, 3)
    assert levels_apart(alone, sharded) <= LEVELS


def test_one_video_on_eight_devices(tiny_checkpoint: Path, alone: Videos) -> None:
    sharded = sample(tiny_checkpoint, SamplingMeshConfig(guidance=2, height=4), 8, 1)
    assert levels_apart(alone, sharded) <= LEVELS


def test_branches_of_guidance_that_run_sequentially(tiny_checkpoint: Path, alone: Videos) -> None:
    config = dataclasses.replace(tiny_config.settings(), memory_limit_gb=1e-6)
    cascade = Cascade.load(tiny_checkpoint, config, devices=jax.devices()[:1])
    assert compile_stage(cascade.spec, "keyframes").need.sequential_guidance
    videos = cascade.sample(PROMPTS[:1], SEEDS[:1], stages=["keyframes"])
    np.testing.assert_allclose(videos["keyframes"], alone["keyframes"], atol=1e-4)


def test_a_dry_run_reads_no_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = dataclasses.replace(tiny_config.settings(), checkpoint=str(tmp_path / "none"), memory_limit_gb=1e-6)
    print_memory(config, Request(prompts=(), stages=("keyframes",)))
    head, columns, text, keyframes, most, together = capsys.readouterr().out.splitlines()
    assert head.startswith("8 x cpu, mesh data=8")
    assert "float32" in head
    assert columns.split()[-3:] == ["weights", "working", "together"]
    assert text.startswith("text_t5")
    assert text.endswith("runs block by block, more than memory_limit_gb")
    assert keyframes.endswith("guidance branches run sequentially, more than memory_limit_gb")
    assert float(most.split()[-1]) == pytest.approx(float(keyframes.split()[3]), abs=1e-3)
    assert together.startswith("all networks")
    assert together.endswith("resident_weights=auto: one stage is loaded at a time")
    assert not list(tmp_path.iterdir())


def test_bfloat16_is_near_float32(tiny_checkpoint: Path, alone: Videos) -> None:
    """Accelerators use bfloat16 by default; Flax's norms in half precision need the standard type promotion.

    It is set for all threads, since programs are compiled in the background.
    """
    config = dataclasses.replace(tiny_config.settings(), precision="bfloat16")
    cascade = Cascade.load(tiny_checkpoint, config, devices=jax.devices()[:1])
    strict = jax.config.values["jax_numpy_dtype_promotion"]
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    try:
        videos = cascade.sample(PROMPTS[:1], SEEDS[:1], stages=["keyframes"])
    finally:
        jax.config.update("jax_numpy_dtype_promotion", strict)
    difference = np.abs(videos["keyframes"] - alone["keyframes"])
    assert 0 < difference.mean() <= BFLOAT16


def test_one_keyframe_leaves_the_length_of_given_videos_free(tiny_checkpoint: Path) -> None:
    config = tiny_config.settings()
    config = dataclasses.replace(config, keyframes=dataclasses.replace(config.keyframes, num_frames=1))
    spec = Cascade.load(tiny_checkpoint, config, devices=jax.devices()[:1]).spec
    spec.check(["first_frame", "superres_pixel"], {"interpolation": np.zeros((1, 29, 8, 8, 3), np.float32)})


def test_given_videos_that_do_not_fit_are_refused(tiny_checkpoint: Path, alone: Videos) -> None:
    cascade = Cascade.load(tiny_checkpoint, tiny_config.settings(), devices=jax.devices()[:1])
    low, first = alone["interpolation"], alone["first_frame"]
    for stage, given, message in (
        ("superres_pixel", {"interpolation": low, "first_frame": np.repeat(first, 3, axis=1)}, "it must have 1"),
        ("superres_pixel", {"interpolation": low, "first_frame": first[:, :, :8]}, "is 16x8"),
        ("first_frame", {"interpolation": np.full_like(low, np.nan)}, "NaN or infinite"),
        ("superres_pixel", {"interpolation": low}, "needs the result of first_frame"),
        ("interpolation", {"keyframes": low[0]}, "has shape"),
    ):
        with pytest.raises(UserError, match=message):
            cascade.sample(PROMPTS[:1], SEEDS[:1], stages=[stage], given=given)  # type: ignore[list-item, arg-type]


def test_weights_are_sharded_over_fsdp(tiny_checkpoint: Path) -> None:
    cascade = Cascade.load(
        tiny_checkpoint, dataclasses.replace(tiny_config.settings(), mesh=SamplingMeshConfig(data=2, fsdp=4))
    )
    with cascade.network("keyframes") as network:
        leaves = jax.tree.leaves(network.weights)
        held = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
        whole = sum(leaf.nbytes for leaf in leaves)
    assert held < 0.27 * whole
    assert all(leaf.is_deleted() for leaf in leaves)


def test_two_processes(tiny_checkpoint: Path, alone: Videos, tmp_path: Path) -> None:
    address = free_address()
    command = [
        sys.executable,
        "sample.py",
        "--config",
        "tests/helpers/tiny_config.py",
        "--checkpoint",
        str(tiny_checkpoint),
    ]
    command += ["--stages", ",".join(IN_TWO_PROCESSES)]  # the other stages only add a minute of compilation
    command += [f"--prompt={prompt}" for prompt in PROMPTS[:2]] + ["--seed=5", f"--out={tmp_path}"]
    command += ["--config.mesh.data=2", "--config.mesh.fsdp=2", f"--coordinator_address={address}"]
    processes = [
        subprocess.Popen(
            [*command, "--num_processes=2", f"--process_id={number}"],
            cwd=Path(__file__).parents[2],
            env=environment(2),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    printed = [line for line in outputs[1].splitlines() if not line.startswith("[Gloo]")]
    assert printed == []  # only the first process prints, except for the lines of the collectives' library
    (directory,) = (path for path in tmp_path.iterdir() if path.name.startswith("a-red-circle"))
    videos = {
        stage: load_stage(directory / f"{number}_{stage}.safetensors", stage)[None]
        for number, stage in enumerate(IN_TWO_PROCESSES, start=1)
    }
    assert levels_apart(alone, videos) <= LEVELS


def test_meshes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"data=3 x fsdp=-1 x tensor=1 does not fit 8 devices"):
        make_mesh(MeshConfig(data=3, fsdp=-1))
    with pytest.raises(UserError, match="only one axis can be -1"):
        MeshConfig(data=-1, fsdp=-1)
    with pytest.raises(UserError, match="guidance=4 must be from 1 to 2"):
        SamplingMeshConfig(guidance=4)


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((4, 3, 8, 6), PartitionSpec(("data", "guidance"), None, ("height",))),
        ((2, 3, 8, 6), PartitionSpec(("data",), None, ("guidance", "height"))),
        ((4, 3, 8, 5, 6), PartitionSpec(("data", "guidance"), None, ("height",))),
    ],
)
def test_activations_are_sharded_by_batch_and_rows(shape: tuple[int, ...], spec: PartitionSpec) -> None:
    mesh = make_mesh(SamplingMeshConfig(data=2, guidance=2, height=2))
    with jax.set_mesh(mesh):
        sharded = jax.jit(constrain_activation)(np.zeros(shape, np.float32))
    assert sharded.sharding.is_equivalent_to(NamedSharding(mesh, spec), len(shape))


@pytest.mark.parametrize("windows", [1, 3])
def test_no_device_does_much_more_than_its_share(windows: int) -> None:
    """Uneven rows and the gathers of attention must not make a device compute much more."""
    architecture = UNetConfig.from_dict(UNET)
    graph, abstract = nnx.split(make_network("unet", architecture, dtype=np.float32, param_dtype=np.float32))
    mesh = make_mesh(SamplingMeshConfig(guidance=2, height=4))
    like = functools.partial(jax.ShapeDtypeStruct, sharding=replicated_sharding(mesh))
    weights = jax.tree.map(lambda leaf: like(leaf.shape, leaf.dtype), abstract)
    batch = 2 * windows
    sample, text = like((batch, 4, 18, 32, 3), np.float32), like((batch, 8, 32), np.float32)
    with jax.set_mesh(mesh):
        run = jax.jit(lambda weights, *inputs: nnx.merge(graph, weights)(*inputs))
        traced = run.trace(weights, sample, like((batch,), np.int32), text)
        cost = traced.lower().compile().cost_analysis()
    assert isinstance(cost, dict)
    assert cost["flops"] <= count_flops(traced.jaxpr.jaxpr) / 6


@pytest.mark.parametrize(
    ("shape", "fsdp", "spec"),
    [
        ((64, 32), 4, PartitionSpec("fsdp", None)),
        ((3, 3, 32, 32), 8, PartitionSpec(None, None, None, "fsdp")),
        ((3, 3, 32, 6), 4, PartitionSpec(None, None, "fsdp", None)),
        ((5, 7), 4, PartitionSpec()),
        ((64,), 4, PartitionSpec()),
    ],
)
def test_weights_are_sharded_along_their_widest_axis(shape: tuple[int, ...], fsdp: int, spec: PartitionSpec) -> None:
    assert weight_spec(("conv_in", "kernel"), shape, fsdp) == spec


@pytest.mark.parametrize(
    ("path", "shape", "spec"),
    [
        ("attentions/0/to_q/kernel", (64, 64), PartitionSpec("fsdp", "tensor")),
        ("attentions/0/to_out/kernel", (64, 64), PartitionSpec("tensor", "fsdp")),
        ("resnets/0/conv1/kernel", (3, 3, 32, 64), PartitionSpec(None, None, "fsdp", "tensor")),
        ("resnets/0/conv2/kernel", (3, 3, 64, 32), PartitionSpec(None, None, "tensor", "fsdp")),
        ("temp_convs/0/conv4/conv/kernel", (3, 1, 32, 32), PartitionSpec(None, None, "tensor", "fsdp")),
        ("transformer_blocks/0/ff/proj_in/kernel", (32, 256), PartitionSpec("fsdp", "tensor")),
        ("layer/0/SelfAttention/o/kernel", (7, 32), PartitionSpec(None, "fsdp")),  # 2 does not divide 7
        ("proj_in/kernel", (32, 64), PartitionSpec(None, "fsdp")),
        ("attentions/0/to_q/bias", (64,), PartitionSpec()),
    ],
)
def test_hidden_channels_are_sharded_over_tensor(path: str, shape: tuple[int, ...], spec: PartitionSpec) -> None:
    assert weight_spec(tuple(path.split("/")), shape, 4, 2) == spec
