"""All that is worth knowing of an accelerator, in minutes: `python -m benchmarks.gpu --minutes 8 --out DIR`.

For whoever has an accelerator for a few minutes. It measures, in the order of what is worth knowing: the device's
rates; every stage's step against its floor, with its kernels; the same networks in PyTorch, if it is installed; a whole
video, and one of the fast recipe, each twice; the variants of attention, group norm and threshold; options of the
compiler; two videos in one batch; text encoders and autoencoder; training steps; new processes with an empty and a full
compilation cache, and with a memory limit. Of PyTorch and of the options, pixel super-resolution comes first and the
other stages later.

Weights are random, made on the host in seconds. A measurement starts only if its estimated time fits into the minutes
that are left. Every result is at once in DIR/results.jsonl and in DIR/report.md, which also lists what failed and what
was left out; DIR/kernels_STAGE.txt has the kernels of a step. The same command with the same DIR continues.

Without an accelerator it runs the demo's networks on the CPU. It needs JAX, Flax, Optax, Orbax, einops, jaxtyping,
safetensors and tqdm; neither ml_collections nor PyAV, Grain or TensorFlow Datasets. PyTorch's networks need torch, the
latent one diffusers.
"""

import functools
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # before JAX starts: other processes need memory, too

import jax

from benchmarks.accelerator import encoders, steps, training, variants, videos
from benchmarks.accelerator.report import Measurement, Report, run_all
from benchmarks.accelerator.setting import Setting
from benchmarks.accelerator.steps import Results
from benchmarks.machine import describe_commit, describe_machine
from show1_jax.cascade.stages import text_encoders
from show1_jax.cli import ArgumentParser, run_command
from show1_jax.config.config_file import Config
from show1_jax.config.running import run_config_file
from show1_jax.config.sampling import STAGES, Stage
from show1_jax.config.settings import Remat
from show1_jax.config.training import TrainedStage
from show1_jax.errors import UserError
from show1_jax.runtime import enable_compilation_cache

BY_WORK: Final[tuple[Stage, ...]] = ("superres_pixel", "superres_latent", "interpolation", "keyframes", "first_frame")
"""Stages by their share of a video's time, the largest first."""
CPU_SHARE: Final = 0.3
"""Time of a measurement of the demo on a CPU, as a share of the estimate for the full cascade on a GPU."""
CLIPS: Final[dict[TrainedStage, int]] = {"keyframes": 4, "superres_pixel": 1}
"""Clips in a batch of the measured training steps."""
MEMORY_LIMIT_GB: Final = 8.0


def measurements(setting: Setting) -> list[Measurement]:
    """Return all measurements, the most valuable first, with the seconds that they take on a CPU or an H200."""
    assert set(BY_WORK) == set(STAGES)
    call, first = functools.partial, BY_WORK[0]

    def train(remat: Remat) -> list[tuple[str, float, Callable[[], Results]]]:
        return [
            (f"training:{stage}:{remat}", 120, call(training.training_step, setting, stage, remat, clips))
            for stage, clips in CLIPS.items()
        ]

    found: list[tuple[str, float, Callable[[], Results]]] = [
        ("rates", 15, call(steps.device_rates, setting)),
        *((f"steps:{stage}", 65, call(steps.step, setting, stage)) for stage in BY_WORK),
        (f"pytorch:{first}", 75, call(steps.against_pytorch, setting, first, compiled=False)),
        ("video", 230, call(videos.whole_video, setting)),
        ("fast", 130, call(videos.fast_video, setting)),
        ("variants:attention", 60, call(variants.attentions, setting)),
        ("variants:norm", 20, call(variants.norms, setting)),
        ("variants:threshold", 10, call(variants.quantiles, setting)),
        (f"options:{first}", 140, call(steps.options, setting, first)),
        *(
            (f"pytorch:{stage}", 75, call(steps.against_pytorch, setting, stage, compiled=False))
            for stage in BY_WORK[1:]
        ),
        *((f"compiled:{stage}", 150, call(steps.against_pytorch, setting, stage, compiled=True)) for stage in BY_WORK),
        *((f"batch:{stage}", 70, call(steps.batch_of_two, setting, stage)) for stage in BY_WORK),
        *(
            (f"encoders:{component}", 40, call(encoders.text_encoder, setting, component))
            for component in text_encoders(STAGES)
        ),
        ("encoders:vae", 60, call(encoders.autoencoder, setting)),
        *train("full"),
        ("starts", 300, call(videos.starts, setting)),
        ("memory", 330, call(videos.memory_limit, setting, MEMORY_LIMIT_GB)),
        *train("dots"),
        *train("none"),  # last, as JAX keeps the memory that it once had, and the processes above need some
        *((f"options:{stage}", 140, call(steps.options, setting, stage)) for stage in BY_WORK[1:]),
    ]
    share = CPU_SHARE if setting.platform == "cpu" else 1.0
    return [Measurement(name, share * seconds, run) for name, seconds, run in found]


def select(found: Sequence[Measurement], names: str) -> list[Measurement]:
    """Return the measurements of a comma-separated list of groups or names; all if it is empty.

    Raises:
        UserError: a name is neither.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    known = {measurement.group for measurement in found} | {measurement.name for measurement in found}
    if unknown := sorted(set(wanted) - known):
        groups = ", ".join(dict.fromkeys(measurement.group for measurement in found))
        raise UserError(f"--only: no measurement {', '.join(unknown)}; the groups are {groups}")
    return [each for each in found if not wanted or each.group in wanted or each.name in wanted]


def _main(arguments: Sequence[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--minutes", type=float, default=8.0, metavar="N", help="time for all measurements (8)")
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu"), metavar="DIR", help="folder of the results")
    parser.add_argument("--config", metavar="FILE", help="settings; default: configs/full.py, on CPUs configs/demo.py")
    parser.add_argument("--only", default="", metavar="A,B", help="groups of measurements, such as steps,variants")
    parser.add_argument("--steps", type=int, default=8, metavar="N", help="timed steps of every program (8)")
    parsed = parser.parse_args(arguments)
    if not 0 < parsed.minutes <= 24 * 60:
        raise UserError(f"--minutes={parsed.minutes} must be above 0 and at most 1440")
    if parsed.steps < 1:
        raise UserError(f"--steps={parsed.steps} must be at least 1")
    deadline = time.monotonic() + 60 * parsed.minutes
    folder = Path(__file__).resolve().parents[1] / "configs"
    path = parsed.config or str(folder / ("demo.py" if jax.default_backend() == "cpu" else "full.py"))
    config = Config.from_dict(run_config_file(path).to_dict())
    setting = Setting(config, Path(path), parsed.out, parsed.steps)
    chosen = select(measurements(setting), parsed.only)
    heading = f"{describe_machine()}, {describe_commit()}, {Path(path).name}, {setting.spec.dtype}"
    report = Report(parsed.out, heading)
    print(report.heading, flush=True)
    enable_compilation_cache(str(parsed.out / "compiled"))  # the video takes the programs of the steps from it
    run_all(chosen, report, deadline)
    print(f"written: {parsed.out / 'report.md'} and {report.results}", flush=True)


if __name__ == "__main__":
    sys.exit(run_command("benchmarks.gpu", lambda: _main(sys.argv[1:])))
