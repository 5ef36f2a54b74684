"""Whole videos: twice in this process, and in new ones with an empty or a full compilation cache, or a memory limit."""

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.accelerator.setting import Setting, few_steps
from benchmarks.accelerator.steps import Results
from benchmarks.random_cascade import random_cascade
from benchmarks.sampling import peak_gb
from benchmarks.start import PARTS, count_programs
from benchmarks.videos import PROMPTS
from show1_jax.cascade.cascade import Cascade, HostVideo
from show1_jax.cli import ArgumentParser, run_command
from show1_jax.config.config_file import Config
from show1_jax.config.running import run_config_file
from show1_jax.config.sampling import STAGES, Stage
from show1_jax.errors import UserError
from show1_jax.runtime import enable_compilation_cache

VIDEO: Final = "A whole video with random weights"
PROCESSES: Final = "New processes: one video, with few steps in each stage"
STEPS_OF_A_START: Final = 2
"""Steps of every stage in new processes: the programs are those of a whole video."""


def whole_video(setting: Setting) -> Results:
    """Sample a video twice in this process; the second time, programs and weights are there.

    The first time, programs that were compiled before are taken from the cache. Weights stay on the devices if all of
    them fit.
    """
    yield from _sample_twice(setting.cascade, "released")


def fast_video(setting: Setting) -> Results:
    """Sample a video twice with the settings of configs/fast.py.

    Raises:
        UserError: the networks are not those of configs/full.py.
    """
    if setting.config_file.name != "full.py":
        raise UserError(f"configs/fast.py is a recipe for configs/full.py, not for {setting.config_file.name}")
    fast = Config.from_dict(run_config_file(str(setting.config_file.with_name("fast.py"))).to_dict())
    stages: dict[str, Any] = {stage: fast.stage(stage) for stage in STAGES}
    changed = setting.cascade.with_config(dataclasses.replace(setting.spec.config, **stages))
    yield from _sample_twice(changed, "fast")


def _sample_twice(cascade: Cascade, recipe: str) -> Results:
    with cascade:
        for run in ("first", "second"):
            for row in sample_stages(cascade):
                yield VIDEO, {"recipe": recipe, "run": run, **row}


def sample_stages(cascade: Cascade) -> list[dict[str, Any]]:
    """Sample a video and return the seconds and the range of every stage's result.

    If sampling stops, the last row has the reason: values that are not finite with the stage and the step where they
    first arise, or any other error. The stages before it are known all the same.
    """
    rows: list[dict[str, Any]] = []
    started = before = time.perf_counter()

    def on_stage(stage: Stage, video: HostVideo) -> None:
        nonlocal before
        now = time.perf_counter()
        extent = f"{video.min():.3g} to {video.max():.3g}"
        rows.append({"stage": stage, "seconds": now - before, "values": extent, "peak GB": peak_gb()})
        print(f"{stage}: {now - before:.1f} s", flush=True)  # a killed run has no rows of its video
        before = now

    try:
        cascade.sample([PROMPTS[0]], [0], on_stage=on_stage)
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {str(error)[:300]}"
        return [*rows, {"stage": "stopped", "seconds": time.perf_counter() - started, "values": reason}]
    total = {"stage": "all", "seconds": time.perf_counter() - started, "values": "all finite", "peak GB": peak_gb()}
    return [*rows, total]


def starts(setting: Setting) -> Results:
    """Start a process with an empty compilation cache, and another one with the programs of the first."""
    with tempfile.TemporaryDirectory() as cache:
        for name in ("empty", "full"):
            yield PROCESSES, {"compilation cache": name, **_new_process(setting, Path(cache))}


def memory_limit(setting: Setting, limit_gb: float) -> Results:
    """Start a process with a memory limit; it compiles to learn what fits, and so has the programs in its cache."""
    with tempfile.TemporaryDirectory() as cache:
        yield PROCESSES, {"compilation cache": "empty", **_new_process(setting, Path(cache), limit_gb)}


def _new_process(setting: Setting, cache: Path, limit_gb: float = 0.0) -> dict[str, Any]:
    report = cache / "report.json"
    flags = ["--config", str(setting.config_file), "--cache", str(cache / "compiled"), "--report", str(report)]
    command = [sys.executable, "-m", __name__, *flags, "--memory_limit_gb", str(limit_gb)]
    started = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise UserError(f"the new process failed: {done.stderr[-300:]}")
    found: dict[str, Any] = json.loads(report.read_text())
    return {"memory limit GB": limit_gb or "none", "process s": seconds, **found}


def _sample_in_this_process(config: Config, cache: str, report: Path) -> None:
    rows: list[dict[str, Any]] = []
    enable_compilation_cache(cache)
    counts = count_programs(lambda: rows.extend(sample_stages(random_cascade(few_steps(config, STEPS_OF_A_START)))))
    last = rows[-1]
    parts = {f"{part} s": counts[part] for part in PARTS}
    found = {"sampling s": last["seconds"], **parts, "fetched": counts["fetched"], "compiled": counts["compiled"]}
    report.write_text(json.dumps(found | {"peak GB": peak_gb(), "values": last["values"]}))


def _main(arguments: Sequence[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.accelerator.videos", description="Used by benchmarks.gpu.")
    for name in ("config", "cache", "report"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--memory_limit_gb", type=float, default=0.0)
    parsed = parser.parse_args(arguments)
    config = Config.from_dict(run_config_file(parsed.config).to_dict())
    config = dataclasses.replace(config, memory_limit_gb=parsed.memory_limit_gb)
    _sample_in_this_process(config, parsed.cache, Path(parsed.report))


if __name__ == "__main__":
    sys.exit(run_command("benchmarks.accelerator.videos", lambda: _main(sys.argv[1:])))
