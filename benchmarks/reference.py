"""Our networks compared with PyTorch's: `python -m benchmarks.reference --config configs/demo.py --compile`.

For every network of a config, times one call of the size of a denoising step: the conditional and unconditional
branches; one window if the stage has windows; one frame, encoded and decoded, for the autoencoder; two texts for the
text encoders. Ours is a compiled program; PyTorch's is eager and, with --compile, also compiled; both have the same
device and weights. They run alternately, so that a slow minute of the machine slows all of them. A ratio above 1 means
that ours is faster by that factor. The last column is the norm of the outputs' difference over the norm of our output.

`small_pixel_unet` is not in any config: a pixel UNet that CPUs run in about a second.

`--check` runs PyTorch's networks on the weights and inputs of the original's recorded run instead, with the tolerance
of the tests of our networks. Both require PyTorch; the latent UNet and the autoencoder require diffusers.
"""

import functools
import gc
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from safetensors.numpy import load_file

from benchmarks import table
from benchmarks.machine import describe_machine
from benchmarks.random_cascade import described_spec
from convert.reader import open_weights
from convert.released import RELEASED_STAGES, read_architecture
from convert.rules import ReleasedTensor, released_tensors
from convert.tables import KINDS
from show1_jax.cascade.programs import clip_shape
from show1_jax.checkpoints.networks import kind_of, make_network
from show1_jax.cli import ArgumentParser, load_config, run_command
from show1_jax.config.config_file import Config
from show1_jax.config.sampling import AUTOENCODER, STAGES
from show1_jax.errors import UserError
from show1_jax.nn.config import Architecture, UNetConfig
from show1_jax.nn.vae import Autoencoder
from show1_jax.parallel.weights import to_state
from show1_jax.runtime import exact_float32, weight_formats, with_weight_formats
from show1_jax.text.encoders import TEXT_ENCODERS, encoder_of_kind
from show1_jax.text.tokenizers import MAX_LENGTH

TOLERANCE: Final = 3e-5
"""Tolerance of `--check`; see tests/checkpoints/test_networks_parity.py."""
GOLDEN: Final = Path(__file__).parent.parent / "tests" / "golden"


def _unet_call(name: str, *more: str) -> tuple[tuple[str, ...], str]:
    return tuple(f"unet/{name}/{part}" for part in ("sample", "timestep", "text", *more)), f"unet/{name}/output"


RECORDED: Final = {
    "keyframes": _unet_call("base"),
    "interpolation": _unet_call("interpolation"),
    "first_frame": _unet_call("image_sr", "noise_level"),
    "superres_pixel": _unet_call("sr1", "noise_level"),
    "superres_latent": _unet_call("sr2"),
    "vae": (("vae/image",), "vae/decoded"),
    "text_t5": (("text/t5_ids", "text/t5_mask"), "text/t5_prompt"),
    "text_clip": (("text/clip_ids",), "text/clip"),
}
"""Names of the inputs and the output of every network's recorded call."""
HEADER: Final = (
    "| network | input | dtype | PyTorch | ours ms (median, min to max) | PyTorch ms | PyTorch / ours | difference |"
)
CHECK_HEADER: Final = "| network | difference |"
SMALL_PIXEL_UNET: Final = UNetConfig(
    in_channels=3,
    out_channels=6,
    block_out_channels=(64, 128, 192),
    layers_per_block=(1, 1, 1),
    attention_levels=(False, True, True),
    down_head_dim=(32, 32, 32),
    mid_head_dim=32,
    up_head_dim=(32, 32, 32),
    cross_attention_dim=192,
    cross_attention_norm=True,
    text_dim=512,
    text_embedding_heads=8,
)


@dataclass(frozen=True)
class NetworkCase:
    """A network to compare, and the size of its call.

    Attributes:
        kind: kind of network, as checkpoints name it.
        architecture: architecture of the network.
        size: frames, height and width of its input; None for text encoders.
    """

    kind: str
    architecture: Any
    size: tuple[int, ...] | None = None

    @property
    def batch_size(self) -> int:
        """Batch of the call: two branches of guidance, or 1 for the autoencoder, which runs on single frames."""
        return 1 if self.kind == "vae" else 2

    @property
    def is_image(self) -> bool:
        """True if PyTorch's network has no time axis."""
        return self.kind == "vae" or (self.kind == "unet" and not self.architecture.temporal)

    def inputs(self) -> tuple[np.ndarray, ...]:
        """Return random inputs in our layout."""
        rng, batch = np.random.default_rng(0), self.batch_size
        if self.size is None:
            ids = rng.integers(0, self.architecture.vocab_size, (batch, MAX_LENGTH), np.int32)
            return (ids, np.ones_like(ids)) if encoder_of_kind(self.kind).takes_mask else (ids,)
        video = rng.standard_normal((batch, *self.size, self.architecture.in_channels), np.float32)
        if self.kind == "vae":
            return (video,)
        text = rng.standard_normal((batch, MAX_LENGTH, self.architecture.raw_text_dim), np.float32)
        levels = (np.full(batch, 250, np.int32),) if self.architecture.noise_level_embedding else ()
        return (video, np.full(batch, 500, np.int32), text, *levels)

    def to_torch_layout(self, array: np.ndarray) -> np.ndarray:
        """Return a video as channels-first video or images, and any other array unchanged."""
        if array.ndim != 5:
            return array
        return rearrange(array, "b 1 h w c -> b c h w" if self.is_image else "b t h w c -> b c t h w")

    def describe_input(self) -> str:
        """Return the size of the call as text."""
        if self.size is None:
            return f"{self.batch_size} x {MAX_LENGTH} tokens"
        frames, height, width = self.size
        return f"{self.batch_size} x {frames} of {width}x{height}"


@dataclass
class TimedNetwork:
    """One way to run a network, and the seconds of its calls."""

    run: Callable[[], Any]
    """Function that runs the network and waits for the output."""
    seconds: list[float] = field(default_factory=list)

    def time_call(self) -> None:
        """Run and time one call."""
        start = time.perf_counter()
        self.run()
        self.seconds.append(time.perf_counter() - start)


def network_cases(config: Config | None) -> dict[str, NetworkCase]:
    """Return the networks to compare, by name: those of the config at the sizes that it samples, and the small UNet."""
    found = {"small_pixel_unet": NetworkCase("unet", SMALL_PIXEL_UNET, (8, 20, 32))}
    if config is None:
        return found
    spec = described_spec(config)
    for stage in (stage for stage in STAGES if stage in config.architecture):
        found[stage] = NetworkCase("unet", spec.architecture(stage), clip_shape(spec, stage)[:3])
    for name in (name for name in (*TEXT_ENCODERS, AUTOENCODER) if name in config.architecture):
        frame = (1, config.superres_latent.height, config.superres_latent.width)
        found[name] = NetworkCase(kind_of(name), spec.architecture(name), frame if name == AUTOENCODER else None)
    return found


class Comparison(NamedTuple):
    """Seconds of the calls of one way to run PyTorch's network and of ours, which ran alternately."""

    how: str
    ours: list[float]
    theirs: list[float]
    difference: float
    """Norm of the outputs' difference over the norm of our output."""

    @property
    def ratios(self) -> list[float]:
        """PyTorch's seconds over ours, call by call."""
        return [theirs / ours for theirs, ours in zip(self.theirs, self.ours, strict=True)]


def compare(
    case: NetworkCase, dtype: str, pairs: int, *, compiled: bool, channels_last: bool = False
) -> list[Comparison]:
    """Time a network of ours and PyTorch's, eager and, if `compiled`, compiled.

    Args:
        case: network and size of its call.
        dtype: dtype of weights and activations.
        pairs: timed calls of each.
        compiled: compare with `torch.compile` as well.
        channels_last: store PyTorch's 2-D convolutions with channels last, which tensor cores need.

    Raises:
        UserError: PyTorch's network is not available here.
    """
    import torch

    from benchmarks.torch_networks import call_network

    network = _torch_network(case.architecture, dtype)
    if channels_last:
        for module in network.modules():  # one by one: networks with 3-D convolutions refuse it as a whole
            if isinstance(module, torch.nn.Conv2d):
                module.to(memory_format=torch.channels_last)
    inputs = case.inputs()
    placed = [jnp.asarray(array) for array in inputs]
    program, weights = _our_network(case, network, dtype, placed)
    moved = [_to_torch(case.to_torch_layout(array), dtype) for array in inputs]

    def run_torch(call: Callable[..., Any]) -> Any:
        output = call(network, *moved)
        if output.is_cuda:
            torch.cuda.synchronize()
        return output

    ours = TimedNetwork(lambda: jax.block_until_ready(program(weights, *placed)))
    others = {"eager": TimedNetwork(functools.partial(run_torch, call_network))}
    if compiled:
        torch.compiler.reset()  # drops what was compiled for the previous network
        others["compiled"] = TimedNetwork(functools.partial(run_torch, torch.compile(call_network, dynamic=False)))
    candidates = (ours, *others.values())
    with exact_float32(dtype), torch.inference_mode():
        expected = case.to_torch_layout(np.asarray(ours.run()))
        differences = {how: relative_difference(_to_numpy(other.run()), expected) for how, other in others.items()}
        for candidate in candidates:
            candidate.run()  # once more, as some choose their kernels late
        for candidate in candidates * pairs:
            candidate.time_call()
    return [Comparison(how, ours.seconds, other.seconds, differences[how]) for how, other in others.items()]


def comparison_row(name: str, case: NetworkCase, dtype: str, found: Comparison) -> str:
    """Return a comparison as a line of the table."""
    times = (table.spread(found.ours, 1e3, 1), table.spread(found.theirs, 1e3, 1), table.spread(found.ratios, 1, 2))
    return table.row(name, case.describe_input(), dtype, found.how, *times, f"{found.difference:.1e}")


def _torch_network(architecture: Architecture, dtype: str) -> Any:
    """Return PyTorch's network with its initial random weights, which are the same in every run."""
    import torch

    from benchmarks.torch_networks import make_network

    torch.cuda.empty_cache()  # frees the memory of the previous network
    torch.manual_seed(0)
    with torch.device(_torch_device()):
        return make_network(architecture).to(getattr(torch, dtype)).eval()


def _our_network(
    case: NetworkCase, network: Any, dtype: str, inputs: Sequence[jax.Array]
) -> tuple[Callable[..., Any], nnx.State]:
    """Return our network as a compiled program of weights and inputs, and PyTorch's weights in the layouts it reads."""
    import torch

    graph, shapes = nnx.split(make_network(case.kind, case.architecture, dtype=dtype, param_dtype=dtype))
    initial = network.state_dict()

    def place(source: ReleasedTensor) -> jax.Array:
        tensor: Any = source.to_ours(initial[source.key])  # einops accepts PyTorch's tensors as well as arrays
        # PyTorch copies: with copy=True, some releases of JAX read a GPU's memory as if it were the host's.
        return jnp.from_dlpack(tensor.clone(memory_format=torch.contiguous_format))

    weights = {path: place(source) for path, source in released_tensors(shapes, KINDS[case.kind].table).items()}

    def forward(weights: nnx.State, *inputs: Any) -> Any:
        network: Any = nnx.merge(graph, weights)
        return network.decode(network.encode(*inputs)[0]) if isinstance(network, Autoencoder) else network(*inputs)

    program = with_weight_formats(jax.jit(forward), jax.default_backend(), 1 + len(inputs))
    with exact_float32(dtype):
        compiled = program.lower(shapes, *inputs).compile()
    return compiled, jax.device_put(to_state(shapes, weights), weight_formats(compiled))


def check() -> None:
    """Print the differences of PyTorch's networks, with the original's weights, from the original's recorded run.

    Raises:
        UserError: a difference is larger than the tolerance of our networks.
    """
    trace = load_file(GOLDEN / "trace.safetensors")
    print(table.head(CHECK_HEADER), flush=True)
    failed = []
    for stage in RELEASED_STAGES.values():
        for part in stage.parts:
            folder = GOLDEN / "checkpoints" / stage.folder
            try:
                network = _torch_network(read_architecture(stage, part, folder)[0], "float32")
            except UserError as error:
                print(table.row(part.component, f"not checked: {error}"), flush=True)
                continue
            difference = _recorded_difference(network, open_weights(folder / part.folder), part.component, trace)
            print(table.row(part.component, f"{difference:.1e}"), flush=True)
            if not difference <= TOLERANCE:
                failed.append(part.component)
    if failed:
        raise UserError(f"farther than {TOLERANCE} from the recorded run: {', '.join(failed)}")


def _recorded_difference(
    network: Any, weights: Mapping[str, np.ndarray], component: str, trace: Mapping[str, np.ndarray]
) -> float:
    import torch

    from benchmarks.torch_networks import call_network

    network.load_state_dict({key: torch.tensor(array) for key, array in weights.items()}, strict=True)
    names, output = RECORDED[component]
    inputs = [_to_torch(trace[name], "float32") for name in names]
    with torch.inference_mode():
        return relative_difference(_to_numpy(call_network(network, *inputs)), trace[output])


def relative_difference(array: np.ndarray, expected: np.ndarray) -> float:
    """Return the norm of the difference over the norm of `expected`, in float64."""
    array, expected = array.astype(np.float64), expected.astype(np.float64)
    if array.shape != expected.shape:
        raise ValueError(f"shapes differ: {array.shape} and {expected.shape}")
    return float(np.linalg.norm(array - expected) / np.linalg.norm(expected))


def _to_torch(array: np.ndarray, dtype: str) -> Any:
    import torch

    tensor = torch.tensor(array, device=_torch_device())
    return tensor.to(getattr(torch, dtype) if tensor.is_floating_point() else torch.int64)


def _to_numpy(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.float().cpu().numpy())


def _torch_device() -> str:
    """Return PyTorch's name of JAX's device."""
    return "cuda" if jax.default_backend() == "gpu" else "cpu"


def start_torch() -> str:
    """Set PyTorch up for a fair comparison, with the same precision and all threads, and return a description.

    Raises:
        UserError: PyTorch is not installed, or cannot run on JAX's device.
    """
    if importlib.util.find_spec("torch") is None:
        raise UserError("PyTorch is not installed; run `pip install torch diffusers`")
    import torch

    if jax.default_backend() not in ("cpu", "gpu"):
        raise UserError("PyTorch is timed on CPUs and GPUs; to compare on the CPU set JAX_PLATFORMS=cpu")
    if _torch_device() == "cuda" and not torch.cuda.is_available():
        raise UserError("JAX has a GPU and PyTorch has none; install its CUDA build, or set JAX_PLATFORMS=cpu")
    torch.set_num_threads(os.cpu_count() or 1)
    torch.backends.cudnn.benchmark = True  # XLA also tries several convolution algorithms
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return f"PyTorch on {_torch_device()} with {torch.get_num_threads()} threads"


def _main(arguments: Sequence[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.reference", description=__doc__)
    parser.add_argument("--config", metavar="FILE", help="config of the networks to compare")
    parser.add_argument("--networks", type=lambda text: text.split(","), metavar="A,B", help="default: all")
    parser.add_argument("--pairs", type=int, default=5, help="timed calls of each network")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--compile", action="store_true", help="compare with torch.compile as well")
    parser.add_argument("--channels_last", action="store_true", help="PyTorch's 2-D convolutions with channels last")
    parser.add_argument("--check", action="store_true", help="check PyTorch's networks on the recorded run instead")
    parsed = parser.parse_args(arguments)
    if parsed.pairs < 1:
        raise UserError(f"--pairs={parsed.pairs} must be at least 1")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # before JAX starts, as PyTorch also needs memory
    config = load_config(parsed.config) if parsed.config else None
    known = network_cases(config)
    names = parsed.networks or list(known)
    if unknown := sorted(set(names) - known.keys()):
        raise UserError(f"no network {', '.join(unknown)}; there are {', '.join(known)}")
    settings = start_torch()
    installed = [name for name in ("torch", "diffusers") if importlib.util.find_spec(name)]
    print(f"{describe_machine('transformers', *installed)}; {settings}\n", flush=True)
    if parsed.check:
        check()
        return
    print(table.head(HEADER), flush=True)
    for name in names:
        case = known[name]
        try:
            found = compare(
                case, parsed.dtype, parsed.pairs, compiled=parsed.compile, channels_last=parsed.channels_last
            )
            for comparison in found:
                print(comparison_row(name, case, parsed.dtype, comparison), flush=True)
        except UserError as error:
            print(table.row(name, case.describe_input(), parsed.dtype, f"not measured: {error}", *[""] * 4), flush=True)
        gc.collect()


if __name__ == "__main__":
    sys.exit(run_command("benchmarks.reference", lambda: _main(sys.argv[1:])))
