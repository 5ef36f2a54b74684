"""Metrics files and the progress bar of a training run."""

import json
import math
import os
import re
import resource
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog

from show1_jax import progress
from show1_jax.errors import UserError
from show1_jax.training.run import metrics
from show1_jax.training.run.metrics import METRICS, MetricsWriter, read_metrics
from show1_jax.training.run.progress import TrainingBar


def write(workdir: Path, steps: range, resumed_step: int = 0, **values: float) -> None:
    writer = MetricsWriter(workdir, resumed_step=resumed_step, tensorboard=False)
    for step in steps:
        writer.write(step, {"loss": 1 / step, **values})
    writer.close()


def events(folder: Path) -> list[Event]:
    """Read the events of all files, in order of names; a record is a length, its checksum, data, its checksum."""
    found = []
    for path in sorted(folder.iterdir()):
        data, start = path.read_bytes(), 0
        while start < len(data):
            (length,) = struct.unpack_from("<Q", data, start)
            found.append(Event.FromString(data[start + 12 : start + 12 + length]))
            start += length + 16
    return found


# JSON lines


def test_a_line_is_written_immediately(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, tensorboard=False)
    before = time.time()
    values: dict[str, Any] = {"loss": np.float32(0.25), "learning_rate": 1e-5}
    writer.write(50, values)
    (line,) = read_metrics(tmp_path / METRICS)
    writer.close()
    assert line | {"time": 0} == {"step": 50, "time": 0, "loss": 0.25, "learning_rate": 1e-5}
    assert abs(line["time"] - before) < 60


def test_values_without_a_number_in_json(tmp_path: Path) -> None:
    values: dict[str, Any] = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1e308}
    write(tmp_path, range(1, 2), **values)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    line = json.loads((tmp_path / METRICS).read_text(), parse_constant=refuse)
    assert {name: line[name] for name in values} == {"a": "NaN", "b": "Infinity", "c": "-Infinity", "d": 1e308}
    (line,) = read_metrics(tmp_path / METRICS)
    assert all(line[name] == value or (math.isnan(line[name]) and math.isnan(value)) for name, value in values.items())


def test_a_resumed_run_has_each_step_once(tmp_path: Path) -> None:
    write(tmp_path, range(1, 8), run=1)
    write(tmp_path, range(5, 10), resumed_step=4, run=2)
    lines = read_metrics(tmp_path / METRICS)
    assert [(line["step"], line["run"]) for line in lines] == [(step, 1 + (step > 4)) for step in range(1, 10)]


@settings(max_examples=50)
@given(
    steps=st.lists(st.integers(1, 30), max_size=8),
    resumed_step=st.integers(0, 30),
    torn=st.binary(max_size=20),
)
def test_lines_that_a_killed_process_left(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], resumed_step: int, torn: bytes
) -> None:
    workdir = tmp_path_factory.mktemp("run")
    whole = [json.dumps({"step": step, "time": 0, "loss": 1.0}) + "\n" for step in steps]
    (workdir / METRICS).write_bytes("".join(whole).encode() + torn.replace(b"\n", b""))
    write(workdir, range(31, 33), resumed_step)
    kept = [step for step in steps if step <= resumed_step]
    assert [line["step"] for line in read_metrics(workdir / METRICS)] == [*kept, 31, 32]


def test_a_failure_while_cutting_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, range(1, 8))
    before = (tmp_path / METRICS).read_bytes()

    def fail(*paths: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match="No space left on device"):
        MetricsWriter(tmp_path, resumed_step=3)
    assert (tmp_path / METRICS).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [METRICS]


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Limit the size of files, in bytes, during the block."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


@pytest.mark.parametrize("tensorboard", [True, False])
def test_a_full_disk_is_one_line(tmp_path: Path, tensorboard: bool) -> None:
    """Every write raises the error, and none waits; closing raises nothing."""
    writer = MetricsWriter(tmp_path, tensorboard=tensorboard)
    with full_disk(20_000 if tensorboard else 10):
        for _ in range(2):
            with pytest.raises(UserError, match=r"cannot write .*\(File too large\); make room") as caught:
                writer.write(1, {f"name{number}": 1.0 for number in range(600)})
            assert "\n" not in str(caught.value)
        writer.close()
    assert (tmp_path / METRICS).stat().st_size > 10_000 * tensorboard


def test_an_image_on_a_full_disk(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "sheet.png")
    writer = MetricsWriter(tmp_path)
    with full_disk(10_000):
        with pytest.raises(UserError, match="File too large"):
            writer.images(1, {"samples": tmp_path / "sheet.png"})
        writer.close()


def test_all_processes_get_the_write_error_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def in_another_process(compute: Callable[[], None]) -> None:
        calls.append(compute)
        raise UserError("cannot write")

    writer = MetricsWriter(tmp_path)
    monkeypatch.setattr(metrics, "from_first_process", in_another_process)
    with pytest.raises(UserError, match="cannot write"):
        writer.write(1, {"loss": 1.0})
    with pytest.raises(UserError, match="cannot write"):
        writer.images(1, {})
    assert len(calls) == 2
    writer.close()


def test_nothing_to_cut_rewrites_nothing(tmp_path: Path) -> None:
    write(tmp_path, range(1, 4))
    before = (tmp_path / METRICS).stat().st_ino
    write(tmp_path, range(4, 5), resumed_step=3)
    assert (tmp_path / METRICS).stat().st_ino == before


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="choose another --workdir"):
        MetricsWriter(tmp_path / "file")


# TensorBoard and W&B


def test_tensorboard_shows_scalars_and_images(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "sheet.png")
    writer = MetricsWriter(tmp_path / "run")
    writer.write(3, {"loss/total": 0.5, "grad_norm": math.inf})
    writer.images(3, {"samples": tmp_path / "sheet.png"})
    writer.close()
    written = events(tmp_path / "run/tensorboard")
    shown = {value.tag: (event.step, value) for event in written for value in event.summary.value}
    assert {name: (step, value.simple_value) for name, (step, value) in shown.items() if name != "samples"} == {
        "loss/total": (3, 0.5),
        "grad_norm": (3, math.inf),
    }
    (tmp_path / "shown.png").write_bytes(shown["samples"][1].image.encoded_image_string)
    with Image.open(tmp_path / "shown.png") as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_tensorboard_replaces_the_steps_that_are_repeated(tmp_path: Path) -> None:
    for resumed_step in (0, 4):
        writer = MetricsWriter(tmp_path, resumed_step=resumed_step)
        writer.write(resumed_step + 1, {"loss": 1.0})
        writer.close()
    starts = [event.step for event in events(tmp_path / "tensorboard") if event.session_log.status == SessionLog.START]
    assert starts == [5]


def test_wandb_resumes_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    run = SimpleNamespace(
        log=lambda values, step: calls.append((step, values)), finish=lambda: calls.append("finished")
    )

    def init(**options: object) -> SimpleNamespace:
        calls.append(options)
        return run

    fake = SimpleNamespace(init=init, Image=lambda pixels: pixels.shape)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    Image.new("RGB", (4, 2)).save(tmp_path / "sheet.png")
    for step in (0, 5):
        options: dict[str, Any] = {"config": {"seed": 1}, "tensorboard": False, "wandb_project": "show1"}
        writer = MetricsWriter(tmp_path, resumed_step=step, **options)
        writer.write(step + 1, {"loss": 0.5})
        writer.images(step + 1, {"samples": tmp_path / "sheet.png"})
        writer.close()
    first, second = calls[0], calls[4]
    assert first == second
    assert isinstance(first, dict)
    assert (first["project"], first["resume"], first["config"]) == ("show1", "allow", {"seed": 1})
    assert calls[5:] == [(6, {"loss": 0.5}), (6, {"samples": (2, 4, 3)}), "finished"]


def test_wandb_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install 'show1_jax\[wandb\]'"):
        MetricsWriter(tmp_path, wandb_project="show1")


def fail(*_: object, **__: object) -> None:
    raise RuntimeError("api_key not configured (no-tty)\nTraceback: ...")


@pytest.mark.parametrize("moment", ["init", "log", "finish"])
def test_wandb_that_fails(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failure stops the run, except after its last step."""
    calls: dict[str, Callable[..., object]] = dict.fromkeys(("log", "finish"), lambda *_, **__: None)
    run = SimpleNamespace(**calls | {moment: fail})
    fake = SimpleNamespace(init=fail if moment == "init" else lambda **_: run)
    monkeypatch.setitem(sys.modules, "wandb", fake)

    def write_one() -> None:
        writer = MetricsWriter(tmp_path, wandb_project="show1")
        try:
            writer.write(1, {"loss": 0.5})
        finally:
            writer.close()

    if moment == "finish":
        write_one()
        assert capsys.readouterr().err == "warning: W&B has not saved everything (api_key not configured (no-tty))\n"
    else:
        with pytest.raises(UserError, match=r"^W&B fails \(api_key not configured \(no-tty\)\); `wandb login`, or"):
            write_one()


def test_other_processes_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "from_first_process", lambda compute: None)
    writer = MetricsWriter(tmp_path, wandb_project="show1")
    writer.write(1, {"loss": 1.0})
    writer.images(1, {"samples": tmp_path / "is not here either.png"})
    writer.close()
    assert not list(tmp_path.iterdir())


# The bar


def run_bar(num_steps: int, start: int = 0, seconds: float = 0.02) -> None:
    bar = TrainingBar(start + num_steps, start, frames_per_step=16)
    for step in range(start, start + num_steps):
        time.sleep(0.2 if step == start else seconds)
        bar.step_started()
        bar.update(loss=0.12345, data_wait_share=0.031)
    bar.say("saved")
    bar.close()


def test_bar_shows_progress_and_speed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LOG_INTERVAL", 0.0)
    run_bar(10, start=90)
    *lines, line, last = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"training: compiling \[00:00\]", lines[0])
    assert re.search(r"91/100 .*\? left\]", lines[1]), "the speed is unknown yet"
    pattern = r"training: 100%\|#+\| 100/100 \[.*left, ([\d.]+) steps/s, ([\d.]+) frames/s, (.*)\]"
    shown = re.fullmatch(pattern, last)
    assert shown, last
    assert line == "saved"
    # Speed of the steps after the first: at most their real speed; less on a busy machine.
    assert 1 < float(shown[1]) < 1 / 0.02
    assert float(shown[2]) == pytest.approx(16 * float(shown[1]), rel=0.02)
    assert shown[3] == "loss 0.1235, 3% waiting for data"


def test_a_log_has_a_line_every_half_minute(capsys: pytest.CaptureFixture[str]) -> None:
    assert progress.refresh_seconds() == 30
    run_bar(10)
    lines = capsys.readouterr().err.splitlines()
    # Compiling, the first step, the last step, and the line of `say`; nothing between them.
    assert len(lines) <= 4
    assert "\r" not in "".join(lines)


def test_other_processes_show_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    bar = TrainingBar(3, frames_per_step=1, shown=False)
    bar.step_started()
    bar.update(loss=1.0, data_wait_share=0.0)
    bar.say("saved")
    bar.close()
    assert capsys.readouterr() == ("", "")
