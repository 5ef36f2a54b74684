"""sample.py with the smallest cascade, as tests run it."""

import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import pytest

from show1_jax.cascade.cascade import Cascade
from show1_jax.cascade.prompts import Prompt
from show1_jax.cli import run_command
from show1_jax.commands import sample
from show1_jax.config.sampling import STAGES, Stage
from show1_jax.sampling.run_directory import RunDirectory
from tests.helpers import tiny_config

PROMPT, SEED = "a red fox in the snow", 7


class Sampler:
    """sample.py with the tiny config, a checkpoint, one device, and its output under `folder`."""

    def __init__(self, checkpoint: Path, folder: Path, capsys: pytest.CaptureFixture[str] | None = None):
        self.checkpoint, self.folder, self.capsys = checkpoint, folder, capsys

    def __call__(self, *arguments: str, prompts: Sequence[str] = (PROMPT,)) -> int:
        """Run the command for some prompts and return its exit code."""
        argv = [
            *("sample.py", "--config", tiny_config.__file__, "--out", str(self.folder / "out"), f"--seed={SEED}"),
            *(f"--checkpoint={self.checkpoint}", *(f"--prompt={text}" for text in prompts), *arguments),
        ]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Cascade, "of", functools.partial(Cascade.of, devices=jax.devices()[:1]))
            return run_command("sample", lambda: sample.sample(argv))

    def refusal(self, *arguments: str) -> str:
        """Return the one line on stderr with which the command is refused; the folder must not change."""
        assert self.capsys is not None
        before, _ = snapshot(self.folder), self.capsys.readouterr()
        assert self(*arguments) == 2
        captured = self.capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("sample: ")
        assert captured.err.count("\n") == 1
        assert snapshot(self.folder) == before
        return captured.err

    @property
    def run(self) -> RunDirectory:
        return RunDirectory.of(self.folder / "out", Prompt(PROMPT, seed=SEED))


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): (path.is_file() and path.read_bytes()) or None for path in folder.rglob("*")}


def stage_bytes(run: RunDirectory) -> dict[Stage, bytes]:
    return {stage: run.stage_file(stage).read_bytes() for stage in STAGES if run.has(stage)}
