"""The operations of a video, counted: `python -m benchmarks.operations --config configs/fast.py`.

Traces every kind of denoising step of every stage at the config's sizes, the text encoders and the autoencoder, and
counts the operations of their matrix products and convolutions. Nothing is compiled and no weights are needed. With
--against, prints the share of another config's operations, too.
"""

import collections
import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import jax

from benchmarks import table
from benchmarks.random_cascade import described_spec
from show1_jax.cascade.denoise import StepKind, step_kinds
from show1_jax.cascade.programs import Program, as_sampled, autoencoder_programs, denoising_step, text_encoding
from show1_jax.cascade.spec import CascadeSpec
from show1_jax.cascade.stages import STAGE_TABLE, text_encoders
from show1_jax.cli import ArgumentParser, load_config, run_command
from show1_jax.config.sampling import AUTOENCODER, STAGES, CascadeConfig, Stage
from show1_jax.training.flops import count_flops

TERA: Final = 1e12
PETA: Final = 1e15
HEADER: Final = "| part | runs | TFLOP each | PFLOP |"


class Part(NamedTuple):
    """A program that sampling runs several times.

    Attributes:
        name: name of the part of the cascade, and of the kind of its steps.
        runs: number of runs for a video.
        flops: operations of a run.
    """

    name: str
    runs: int
    flops: float


class Counter:
    """Counts the operations of videos; a program is traced once for all configs that have it.

    The configs must have the same networks, sizes and mesh.
    """

    def __init__(self) -> None:
        self._counted: dict[object, float] = {}

    def parts(self, spec: CascadeSpec, stages: Sequence[Stage] = STAGES) -> Iterator[Part]:
        """Yield the parts of the sampling of one video."""
        for component, served in text_encoders(stages).items():
            negative = {spec.config.negative_text(stage) for stage in served} - {None}
            yield Part(component, 1 + len(negative), self._flops(spec, component, text_encoding, component))
        for stage in stages:
            windows, branches = (
                STAGE_TABLE[stage].num_windows(spec.config),
                spec.config.negative_text(stage) is not None,
            )
            for kind, steps in collections.Counter(step_kinds(spec.config.stage(stage), spec.sampler(stage))).items():
                make = functools.partial(denoising_step, kind=kind)
                flops = self._flops(spec, (stage, kind, branches), make, stage)
                yield Part(_name(stage, kind), windows * steps, flops)
            if STAGE_TABLE[stage].is_latent:
                yield Part(AUTOENCODER, 1, self._flops(spec, AUTOENCODER, autoencoder_programs, stage))

    def _flops(self, spec: CascadeSpec, key: object, make: Callable[..., Any], *arguments: object) -> float:
        """Return the operations of the programs that `make` returns, traced as sampling traces them."""
        if key not in self._counted:
            made = make(spec, *arguments)
            programs = [made] if isinstance(made, Program) else made
            with as_sampled(spec):
                self._counted[key] = sum(count_flops(program.trace().jaxpr.jaxpr) for program in programs)
        return self._counted[key]


def video_flops(parts: Iterable[Part]) -> float:
    """Return the operations of all parts."""
    return sum(part.runs * part.flops for part in parts)


def _name(stage: Stage, kind: StepKind) -> str:
    branches = "both branches" if kind.is_guided else "one branch"
    levels = f", {kind.fine_levels} of its levels" if kind.deep == "reused" else ""
    return f"{stage}: {branches}{levels}"


def _main(arguments: Sequence[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.operations", description=__doc__)
    parser.add_argument("--config", required=True, metavar="FILE", help="settings; --config.SETTING=VALUE changes one")
    parser.add_argument("--stages", default=",".join(STAGES), metavar="A,B")
    parser.add_argument("--against", metavar="FILE", help="config of the same networks to compare with")
    parsed, overrides = parser.parse_known_args(arguments)
    counter, stages = Counter(), CascadeConfig.parse_stages(parsed.stages)
    device = jax.devices()[:1]
    parts = list(counter.parts(described_spec(load_config(parsed.config, overrides), device), stages))
    print(table.head(HEADER))
    for part in parts:
        total = part.runs * part.flops / PETA
        print(table.row(part.name, str(part.runs), f"{part.flops / TERA:.3f}", f"{total:.3f}"))
    total = video_flops(parts)
    print(f"\nA video: {total / PETA:.2f} PFLOP")
    if parsed.against:
        other = video_flops(counter.parts(described_spec(load_config(parsed.against), device), stages))
        print(f"{total / other:.1%} of the {other / PETA:.2f} PFLOP of {parsed.against}")


if __name__ == "__main__":
    sys.exit(run_command("benchmarks.operations", lambda: _main(sys.argv[1:])))
