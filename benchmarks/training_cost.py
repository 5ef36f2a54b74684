"""The cost of training all networks at full size, counted: `python -m benchmarks.training_cost`.

For every stage of configs/full.py, counts the operations of a training step: three times the network's forward pass,
and the forward passes of the frozen text encoder and autoencoder. Prints the device-hours of all steps at a model FLOP
utilisation (--utilisation) of the peak rates that the vendors state, and the memory of each device of a job of
--devices. Nothing is compiled and no weights are needed; it takes some minutes.

Rematerialised activations, which a utilisation leaves out by its definition, take up to a third of the time more; they
lower the utilisation that a job reaches.
"""

import sys
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks import table
from benchmarks.operations import PETA, TERA, Counter
from benchmarks.random_cascade import described_spec
from show1_jax.cascade.stages import AUTOENCODER
from show1_jax.checkpoints.networks import make_network
from show1_jax.cli import ArgumentParser, load_config, number_between, run_command
from show1_jax.config.config_file import Config
from show1_jax.config.sampling import STAGES, Stage
from show1_jax.diffusion.random_keys import new_key, numbered_keys
from show1_jax.errors import UserError
from show1_jax.nn.vae import Autoencoder
from show1_jax.training.dry_run import GB, activation_bytes, model_without_inputs, training_memory
from show1_jax.training.flops import PEAK_FLOPS, count_flops, model_flops
from show1_jax.training.objectives import encode_latents
from show1_jax.training.plan import Plan, make_plan

HOUR: Final = 3600
DEVICES: Final = {"v5e": "tpu v5 lite", "v5p": "tpu v5", "H100": "h100", "A100": "a100"}
"""Columns of the table: a device, and its name in `PEAK_FLOPS`."""
HEADER: Final = (
    "| stage | clips a step | of | network TFLOP a clip | frozen TFLOP a clip | steps | ZFLOP | "
    + " | ".join(f"{device} hours" for device in DEVICES)
    + " | GB each |"
)


class Cost(NamedTuple):
    """The operations of a stage's training.

    Attributes:
        clip: shape of a clip.
        batch_size: clips of a step.
        num_steps: steps of the whole training.
        network: operations for a clip that train the network.
        frozen: operations for a clip of the frozen networks.
    """

    clip: str
    batch_size: int
    num_steps: int
    network: float
    frozen: float

    @property
    def total(self) -> float:
        """Operations of the whole training."""
        return self.num_steps * self.batch_size * (self.network + self.frozen)

    def hours(self, peak: float, utilisation: float) -> float:
        """Return the device-hours of the whole training, on devices of a peak rate in operations per second."""
        return self.total / (peak * utilisation * HOUR)


def training_cost(plan: Plan, text_flops: float) -> Cost:
    """Return the cost of a stage's training.

    Args:
        plan: plan of the stage.
        text_flops: operations that encode a caption.
    """
    spec, training = plan.spec, plan.training
    return Cost(
        f"{spec.num_frames} x {spec.height} x {spec.width}",
        training.batch_size,
        training.num_steps,
        model_flops(plan, model_without_inputs(plan)) / training.batch_size,
        text_flops + (_encoder_flops(plan) if plan.is_latent else 0.0),
    )


def _encoder_flops(plan: Plan) -> float:
    """Return the operations that encode a clip into latents."""
    record = plan.frozen_record(AUTOENCODER)
    graph, weights = nnx.split(make_network(record.kind, plan.autoencoder(), dtype=plan.dtype))
    spec = plan.spec
    video = jax.ShapeDtypeStruct((1, spec.num_frames, spec.height, spec.width, 3), jnp.float32)
    keys = jax.eval_shape(lambda: numbered_keys(new_key(0), 1))

    def encode(weights: nnx.State, video: Any, keys: Any) -> Any:
        autoencoder = nnx.merge(graph, weights)
        assert isinstance(autoencoder, Autoencoder)
        return encode_latents(autoencoder, video, keys)

    return count_flops(jax.make_jaxpr(encode)(weights, video, keys).jaxpr)


def _text_flops(config: Config, stage: Stage) -> float:
    """Return the operations that encode a caption with the text encoder of a stage."""
    return next(Counter().parts(described_spec(config, jax.devices()[:1]), [stage])).flops


def _main(arguments: Sequence[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.training_cost", description=__doc__)
    parser.add_argument("--config", default="configs/full.py", metavar="FILE", help="settings")
    parser.add_argument("--utilisation", type=float, default=0.4, metavar="U", help="model FLOP utilisation, above 0")
    parser.add_argument(
        "--devices",
        type=number_between(1, 1_000_000),
        default=64,
        metavar="N",
        help="devices of the job whose memory is given",
    )
    parsed, overrides = parser.parse_known_args(arguments)
    if not 0 < parsed.utilisation <= 1:
        raise UserError(f"--utilisation={parsed.utilisation} must be above 0 and at most 1")
    config = load_config(parsed.config, overrides)
    sums = dict.fromkeys(DEVICES, 0.0)
    print(table.head(HEADER), flush=True)
    for stage in STAGES:
        plan = make_plan(config, stage, "accelerator")
        cost = training_cost(plan, _text_flops(config, stage))
        hours = {name: cost.hours(PEAK_FLOPS[kind], parsed.utilisation) for name, kind in DEVICES.items()}
        sums = {name: sums[name] + hours[name] for name in DEVICES}
        memory = training_memory(plan, parsed.devices, activation_bytes(plan)).total
        cells = [str(cost.batch_size), cost.clip, f"{cost.network / TERA:.2f}", f"{cost.frozen / TERA:.2f}"]
        cells += [f"{cost.num_steps:,}", f"{cost.total / PETA / 1e6:.2f}"]
        cells += [f"{hours[name]:,.0f}" for name in DEVICES]
        print(table.row(stage, *cells, f"{memory / GB:.1f}"), flush=True)
    print(table.row("all", *[""] * 6, *[f"{sums[name]:,.0f}" for name in DEVICES], ""))


if __name__ == "__main__":
    sys.exit(run_command("benchmarks.training_cost", lambda: _main(sys.argv[1:])))
