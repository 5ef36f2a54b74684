"""The reports of `--version` and `--devices`."""

import importlib.metadata
import inspect
import re

import jax
import pytest

from show1_jax import parallel
from show1_jax.commands import environment, sample


def test_versions_are_those_of_the_installed_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    sample.sample(["sample.py", "--config", "no such file", "--version"])
    lines = dict(line.split(" ", 1) for line in capsys.readouterr().out.splitlines())
    names = ["jax", "jaxlib", "flax", "orbax-checkpoint", "numpy"]
    assert list(lines) == ["show1-jax", "Python", *names, "platform"]
    assert all(lines[name] == importlib.metadata.version(name) for name in names)


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert {"show1-jax from a checkout", "flax not installed"} <= set(environment.versions())


def test_devices_of_a_cpu_share_the_memory_of_the_host(capsys: pytest.CaptureFixture[str]) -> None:
    assert environment.report("sample", ["sample.py", "--devices"])
    *lines, note = capsys.readouterr().out.splitlines()
    sizes = {re.fullmatch(r"device \d: cpu, cpu, ([\d.]+) GB", line)[1] for line in lines}  # type: ignore[index]
    assert len(lines) == len(jax.devices()) > 1
    assert len(sizes) == 1
    assert note == "the memory of the host is divided by the number of its CPU devices"


def test_devices_of_an_accelerator_have_their_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Accelerator:
        platform = "gpu"
        device_kind = "A card"

        def __init__(self, stats: dict[str, int] | None):
            self.stats = stats

        def memory_stats(self) -> dict[str, int] | None:
            return self.stats

    found = [Accelerator({"bytes_limit": 79_500_000_000}), Accelerator(None)]
    monkeypatch.setattr(parallel, "all_devices", lambda: found)
    monkeypatch.setattr(parallel, "device_bytes", inspect.unwrap(parallel.device_bytes))  # without checks of types
    assert environment.devices() == ["device 0: gpu, A card, 79.5 GB", "device 1: gpu, A card, memory unknown"]


def test_one_dash_is_enough(capsys: pytest.CaptureFixture[str]) -> None:
    assert environment.report("sample", ["sample.py", "-version"])
    assert capsys.readouterr().out.startswith("show1-jax ")


def test_other_command_lines_have_no_report() -> None:
    assert not environment.report("sample", ["--version", "--prompt=--devices"])
