"""The measurements of an accelerator run on a CPU, on a bare machine, and a failure of one loses no other."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from jax.sharding import Mesh
from jax.typing import DTypeLike

from benchmarks import gpu
from benchmarks.accelerator import videos
from benchmarks.accelerator.kernels import kind_of_kernel
from benchmarks.accelerator.report import FAILED, LEFT_OUT, MEASURED, Measurement, Report, Row, run_all
from benchmarks.accelerator.setting import Setting
from benchmarks.accelerator.videos import sample_stages
from benchmarks.random_cascade import ByteTokenizer, described_spec
from show1_jax.cascade.cascade import Cascade
from show1_jax.checkpoints.networks import LoadedNetwork, random_network
from show1_jax.config.config_file import Config
from show1_jax.config.running import run_config_file
from show1_jax.config.sampling import STAGES
from show1_jax.errors import UserError
from show1_jax.parallel.weights import WeightPath
from tests.helpers import tiny_config
from tests.helpers.processes import without_modules

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "tests" / "helpers" / "tiny_config.py"
MISSING = ("array_record", "av", "ftfy", "grain", "ml_collections", "tensorflow_datasets")


def test_the_command_on_a_bare_machine(tmp_path: Path) -> None:
    chosen = "rates,steps:keyframes,variants:threshold,options:keyframes,encoders:text_clip,starts"
    flags = ["--config", str(CONFIG), "--out", str(tmp_path / "out"), "--only", chosen, "--minutes=1", "--steps=2"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *flags],
        cwd=ROOT,
        env=without_modules(tmp_path, *MISSING),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    status = {line["measurement"]: line["status"] for line in lines}
    assert status == dict.fromkeys(chosen.split(",")[:-1], MEASURED) | {"starts": LEFT_OUT}
    rows = {(line["measurement"], line["table"]): line for line in lines if line["status"] == "part"}
    step = rows["steps:keyframes", "Denoising steps"]
    assert len(step["step ms"]) == 2
    assert step["GFLOP"] > 0
    kernels = rows["steps:keyframes", "Milliseconds of a step by kind of kernel"]
    assert kernels["conv"] > 0
    assert kernels["kernels"] > 10
    assert (tmp_path / "out" / "kernels_keyframes.txt").read_text().count(" ms ") > 10
    thresholds = [line for line in lines if line["table"] == "Threshold, variants"]
    assert {line["variant"] for line in thresholds} == {"counted", "sorted"}
    assert all(line["difference"] < 1e-6 for line in thresholds)
    assert "- `starts`: needs about 90 s" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--minutes=0"], "--minutes=0.0 must be above 0"),
        (["--minutes=nan"], "--minutes=nan must be above 0"),
        (["--steps=0"], "--steps=0 must be at least 1"),
        (["--config", str(CONFIG), "--only=stepz"], "no measurement stepz; the groups are rates, steps"),
        (["--config", "nowhere.py"], "there is no config nowhere.py"),
    ],
)
def test_bad_input(tmp_path: Path, flags: list[str], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        gpu._main([*flags, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_every_stage_and_variant_is_measured(tmp_path: Path) -> None:
    names = [each.name for each in gpu.measurements(Setting(tiny_config.settings(), CONFIG, tmp_path, 1))]
    assert len(names) == len(set(names))
    for group in ("steps", "pytorch", "compiled", "batch", "options"):
        assert {f"{group}:{stage}" for stage in STAGES} <= set(names)


def test_a_video_is_sampled_twice_and_once_more_with_the_fast_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled: list[Cascade] = []

    def sample_nothing(cascade: Cascade) -> list[dict[str, Any]]:
        sampled.append(cascade)
        return [{"stage": "all", "seconds": 1.0}]

    monkeypatch.setattr(videos, "sample_stages", sample_nothing)
    full = ROOT / "configs" / "full.py"
    setting = Setting(Config.from_dict(run_config_file(str(full)).to_dict()), full, tmp_path, 1)
    rows = [row for _, row in (*videos.whole_video(setting), *videos.fast_video(setting))]
    assert [(row["recipe"], row["run"]) for row in rows] == [
        *(("released", "first"), ("released", "second")),
        *(("fast", "first"), ("fast", "second")),
    ]
    assert [cascade.spec.config.superres_pixel.num_steps for cascade in sampled] == [125, 125, 25, 25]
    with pytest.raises(UserError, match=r"a recipe for configs/full\.py, not for tiny_config\.py"):
        list(videos.fast_video(Setting(tiny_config.settings(), CONFIG, tmp_path, 1)))


def measurement(name: str, rows: int, error: Exception | None = None, seconds: float = 0) -> Measurement:
    def run() -> Iterator[tuple[str, Row]]:
        for number in range(rows):
            yield "Numbers", {"number": number, "ms": [1.0, 2.0, 9.0]}
        if error is not None:
            raise error

    return Measurement(name, seconds, run)


def test_results_are_kept(tmp_path: Path) -> None:
    found = [
        measurement("a", 1),
        measurement("b:x", 2, MemoryError("the device\nis full")),
        measurement("c", 1, seconds=1e6),
    ]
    report = Report(tmp_path, "machine")
    run_all(found, report, time.monotonic() + 10)
    assert report.finished == {"a"}
    text = (tmp_path / "report.md").read_text()
    assert "| 1 | 2 (1 to 9) |" in text
    assert "- `b:x`: MemoryError: the device is full" in text
    assert "- `c`: needs about 1000000 s" in text

    with report.results.open("a") as file:
        file.write('{"measurement": "killed')
    again = Report(tmp_path, "machine")
    ran: list[str] = []

    def noting(name: str) -> Callable[[], Iterator[tuple[str, Row]]]:
        return lambda: iter([("Numbers", {"number": ran.append(name) or 7})])  # type: ignore[func-returns-value]

    run_all([Measurement(name, 0, noting(name)) for name in ("a", "b:x", "c")], again, time.monotonic() + 10)
    assert ran == ["b:x", "c"]
    assert again.finished == {"a", "b:x", "c"}
    assert not {FAILED.capitalize(), LEFT_OUT.capitalize()} & set((tmp_path / "report.md").read_text().split())
    assert not Report(tmp_path, "another machine").lines


@pytest.mark.parametrize(
    ("kernel", "operation", "kind"),
    [
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc", "cudnn-conv-bias-activation.7", "conv"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16", "custom-call.3", "attention"),
        ("nvjet_sm90_tst_128x160_64x5_2x1_v_bz_NNT", "cublas-gemm.1", "matmul"),
        ("gemm_fusion_dot_968", "gemm_fusion_dot.968", "matmul"),
        ("wrapped_transpose_66", "wrapped_transpose.66", "transpose"),
        ("input_add_reduce_fusion_24", "input_add_reduce_fusion.24", "reduce"),
        ("input_concatenate_fusion_49", "input_concatenate_fusion.49", "concat"),
        ("loop_convert_fusion_5", "loop_convert_fusion.5", "fusion"),
        ("MemcpyD2D", "copy.4", "copy"),
        ("kernel_of_a_library", "convolution.1", "conv"),
        ("kernel_of_a_library", "custom-call.1", "other"),
    ],
)
def test_kinds_of_kernels(kernel: str, operation: str, kind: str) -> None:
    assert kind_of_kernel(kernel, operation) == kind


def test_the_first_value_that_is_not_finite_is_reported() -> None:
    spec = described_spec(tiny_config.settings(), jax.devices()[:1])

    def load(component: str, mesh: Mesh, dtype: DTypeLike, part: WeightPath = (), formats: Any = None) -> LoadedNetwork:
        network = random_network(spec.manifest.component(component), mesh, dtype, part)
        if component != "keyframes":
            return network
        return network._replace(weights=jax.tree.map(lambda leaf: leaf * jax.numpy.inf, network.weights))

    rows = sample_stages(Cascade(spec, load, lambda component: ByteTokenizer(77)))
    assert [row["stage"] for row in rows] == ["stopped"]
    assert rows[-1]["values"].startswith("stage keyframes, step 1 of 1 (timestep 999) gave values that are NaN")


def test_pytorch_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.accelerator import steps

    monkeypatch.setattr(steps.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="PyTorch is not installed"):
        next(steps.against_pytorch(Setting(tiny_config.settings(), CONFIG, tmp_path, 1), "keyframes", compiled=False))


def test_byte_tokenizer() -> None:
    ids, mask = ByteTokenizer(4)(["", "abcdef"])
    assert ids.tolist() == [[0, 0, 0, 0], [98, 99, 100, 101]]
    assert mask.tolist() == [[1, 0, 0, 0], [1, 1, 1, 1]]
    assert ByteTokenizer(4).cut_off("abcdef") == "ef"
