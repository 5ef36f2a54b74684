"""The command, with a small network: refusals, and equal results however the work was divided or interrupted."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from show1_jax.evaluation.metrics.gaussian import Gaussian, frechet_distance
from show1_jax.media.write import write_mp4
from tests.helpers import tiny_features
from tests.helpers.media_files import encode, moving_square
from tests.helpers.processes import environment, free_address

ROOT = Path(__file__).parents[2]
COUNT = 40


def folder_of(folder: Path, count: int, seed: int, num_frames: int = 17, fps: int = 8) -> Path:
    folder.mkdir()
    draw = np.random.default_rng(seed)
    for number in range(count):
        level = draw.integers(0, 200, (1, 1, 1, 3))
        frames = (moving_square(num_frames, 8, 8) // 2 + level).clip(0, 255).astype(np.uint8)
        write_mp4(folder / f"v{number}.mp4", frames, fps)
        (folder / f"v{number}.txt").write_text("a square " * (1 + number % 3))
    return folder


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    tiny_features.write_weights(folder)
    return folder


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory.mktemp("videos") / "a", COUNT, 1)


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory.mktemp("videos") / "b", COUNT + 3, 2)


def fvd(videos: Path, reference: Path, weights: Path, out: Path, *more: str) -> list[str]:
    of_sets = ["fvd", "--videos", str(videos), "--reference", str(reference)]
    return [*of_sets, "--weights", str(weights), "--out", str(out), *more]


def report_in(out: Path) -> dict[str, Any]:
    (path,) = out.glob("*.json")
    report: dict[str, Any] = json.loads(path.read_text())
    return report


@pytest.fixture(scope="session")
def expected(videos: Path, reference: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report that was made in one go."""
    out = tmp_path_factory.mktemp("expected")
    assert tiny_features.run(*fvd(videos, reference, weights, out)) == 0
    return out


def same_report(out: Path, expected: Path) -> None:
    ours, theirs = report_in(out), report_in(expected)
    assert ours["score"]["value"] == pytest.approx(theirs["score"]["value"], rel=1e-6)
    assert ours["settings"] == theirs["settings"]
    assert ours["sets"] == theirs["sets"]
    for path in expected.glob("*.md"):
        here = [line for line in (out / path.name).read_text().splitlines() if "version: devices" not in line]
        assert here == [line for line in path.read_text().splitlines() if "version: devices" not in line]


def start(arguments: list[str], num_devices: int = 1, **variables: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.tiny_features", *arguments],
        cwd=ROOT,
        env=environment(num_devices) | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_score_is_that_of_all_features(expected: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from show1_jax.evaluation.feature_files import FeatureFiles

    report = report_in(expected)
    rows = []
    for name, count in (("videos", COUNT), ("reference", COUNT + 3)):
        assert report["sets"][name]["clips"] == count
        files = FeatureFiles(expected / "features" / report["sets"][name]["features"], {}, count)
        rows.append(np.concatenate([clip for shard in files.read() for clip in shard.clips]))
    distance = frechet_distance(*(Gaussian.of(of_one) for of_one in rows))
    assert report["score"]["value"] == pytest.approx(distance, rel=1e-9)
    assert distance > 0.01


@pytest.mark.parametrize("more", [["--batch_size=1", "--num_workers=1"], ["--batch_size=23"]])
def test_the_batch_size_changes_nothing(
    more: list[str], videos: Path, reference: Path, weights: Path, expected: Path, tmp_path: Path
) -> None:
    assert tiny_features.run(*fvd(videos, reference, weights, tmp_path, *more)) == 0
    same_report(tmp_path, expected)


@pytest.mark.parametrize("num_processes", [2, 4])
def test_several_processes_share_the_work(
    num_processes: int, videos: Path, reference: Path, weights: Path, expected: Path, tmp_path: Path
) -> None:
    address = [f"--coordinator_address={free_address()}", f"--num_processes={num_processes}"]
    arguments = fvd(videos, reference, weights, tmp_path, *address)
    processes = [start([*arguments, f"--process_id={number}"], num_devices=2) for number in range(num_processes)]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * num_processes, outputs
    assert [output.count("FVD ") for output in outputs] == [1] + [0] * (num_processes - 1)
    same_report(tmp_path, expected)


def test_a_killed_command_continues_with_what_is_missing(
    videos: Path, reference: Path, weights: Path, expected: Path, tmp_path: Path
) -> None:
    arguments = fvd(videos, reference, weights, tmp_path)
    killed = start([*arguments, "--batch_size=1", "--num_workers=1"], TINY_FEATURES_SECONDS="0.05")
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("features/*/*.safetensors")):
        assert killed.poll() is None, killed.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    assert not list(tmp_path.glob("*.json"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("features/*/*.safetensors")}
    assert tiny_features.run(*arguments) == 0
    same_report(tmp_path, expected)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_saved_features_are_used_again_and_settings_are_not_mixed(
    videos: Path, reference: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = fvd(videos, reference, weights, tmp_path)
    assert tiny_features.run(*arguments) == 0
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("features/*/*.safetensors")}
    capsys.readouterr()
    assert tiny_features.run(*arguments) == 0
    assert "features of" not in capsys.readouterr().err
    assert tiny_features.run(*arguments, "--num_frames=11") == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times
    reports = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert len({report["score"]["value"] for report in reports}) == len(reports) == 2


def test_a_line_and_a_table_have_the_settings(expected: Path, videos: Path) -> None:
    (table,) = (path.read_text() for path in expected.glob("*.md"))
    for part in (
        "16 frames, stride 1, first clip",
        "| features: kind | tiny_video |",
        str(videos),
        "version: jax",
        "lower is better",
    ):
        assert part in table


def test_clipsim_takes_captions(videos: Path, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "captions.json").write_text(
        json.dumps({f"v{number}": "x" * (number % 30 + 1) for number in range(COUNT)})
    )
    base = ["clipsim", "--videos", str(videos), "--weights", str(weights)]
    assert tiny_features.run(*base, "--out", str(tmp_path / "own")) == 0
    captions = ["--captions", str(tmp_path / "captions.json")]
    assert tiny_features.run(*base, *captions, "--out", str(tmp_path / "given")) == 0
    own, given = report_in(tmp_path / "own"), report_in(tmp_path / "given")
    assert own["score"]["value"] != given["score"]["value"]
    assert own["sets"]["videos"]["rows"] == COUNT * 17  # the frames of whole videos
    assert "CLIPScore" in own["score"]["parts"]


def test_some_unreadable_videos_are_named_and_too_many_are_refused(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path / "a", 3, 0)
    (folder / "cut.mp4").write_bytes((folder / "v0.mp4").read_bytes()[:200])
    encode(folder / "short.mp4", moving_square(1, 8, 8))
    arguments = ["flicker", "--videos", str(folder), "--out", str(tmp_path / "out")]
    assert tiny_features.run(*arguments, "--max_unreadable=0.4") == 0
    captured = capsys.readouterr()
    assert "warning: --videos: cut.mp4 is not scored: " in captured.err
    assert "warning: --videos: short.mp4 is not scored: it has 1 frames, and 2 are needed" in captured.err
    unreadable = report_in(tmp_path / "out")["sets"]["videos"]["unreadable"]
    assert set(unreadable) == {"cut.mp4", "short.mp4"}
    assert tiny_features.run(*arguments) == 2
    assert "1 of 5 videos cannot be scored, such as cut.mp4 (it is cut short)" in capsys.readouterr().err


BAD: list[tuple[str, str, list[str], str]] = [
    ("an empty folder", "fvd", ["--videos", "EMPTY"], "has no videos"),
    ("three videos", "fvd", ["--videos", "THREE"], "--videos has 3 clips; FVD needs at least 10"),
    ("clips too short", "fvd", ["--num_frames=10"], "--num_frames=10: FVD needs clips of at least 11 frames"),
    ("videos too short", "fvd", ["--num_frames=18"], "it has 17 frames, and 18 are needed"),
    ("unreadable", "fvd", ["--videos", "CUT"], "1 of 12 videos cannot be scored, such as cut.mp4"),
    ("other rates", "fvd", ["--videos", "FAST"], "--videos have 24 frames a second, --reference 8"),
    ("no weights", "fvd", ["--weights", ""], "python -m convert features tiny_video --from FILE --out DIR"),
    ("other weights", "fvd", ["--weights", "checkpoints/demo"], "the checkpoint has no component 'tiny_video'"),
    ("no checkpoint", "fvd", ["--weights", "EMPTY"], "no checkpoint"),
    ("no reference", "fvd", ["--reference", ""], "give the second as --reference"),
    ("no captions", "clipsim", ["--videos", "CUT"], "12 of 12 videos have no caption, the first is cut.mp4"),
    ("no folder", "fvd", ["--videos", "missing"], "there is no "),
    ("two lengths", "fvd", ["--num_frames=16", "--whole"], "--whole and --num_frames exclude each other"),
    ("two rates", "fvd", ["--fps=8", "--stride=2"], "--fps and --stride exclude each other"),
    ("no such metric", "fvdd", [], "invalid choice: 'fvdd'"),
    ("a flag of others", "flicker", ["--captions=a.txt"], "unrecognized arguments: --captions=a.txt"),
]


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("bad")
    (folder / "empty").mkdir()
    folder_of(folder / "three", 3, 0)
    folder_of(folder / "fast", 11, 0, fps=24)
    folder_of(folder / "cut", 11, 0)
    (folder / "cut/cut.mp4").write_bytes((folder / "cut/v0.mp4").read_bytes()[:200])
    for path in (folder / "cut").glob("*.txt"):
        path.unlink()
    return {name: str(folder / name.lower()) for name in ("EMPTY", "THREE", "FAST", "CUT")}


@pytest.mark.parametrize(("metric", "changes", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input_is_one_line(
    metric: str,
    changes: list[str],
    message: str,
    videos: Path,
    reference: Path,
    weights: Path,
    places: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = {"--videos": str(videos), "--weights": str(weights), "--reference": str(reference)}
    given = (
        given
        if metric.startswith("fvd")
        else {name: given[name] for name in ("--videos", "--weights")[: 1 + (metric == "clipsim")]}
    )
    pairs = dict(zip(changes[::2], changes[1::2], strict=False)) if changes and "=" not in changes[0] else {}
    given |= {name: places.get(value, value) for name, value in pairs.items()}
    flags = [part for name, value in given.items() if value for part in (name, value)]
    extra = [] if pairs else changes
    assert tiny_features.run(metric, *flags, "--out", str(tmp_path / "out"), *extra) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = [line for line in captured.err.splitlines() if line.startswith("evaluation: ")]
    assert message in line
    assert not list(tmp_path.glob("out/*.json"))


def test_sets_of_different_frame_rates_are_compared_on_request(
    reference: Path, weights: Path, places: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fast = Path(places["FAST"])
    for more in (["--any_frame_rate"], ["--fps=8", "--num_frames=11", "--videos", str(reference)]):
        assert tiny_features.run(*fvd(fast, reference, weights, tmp_path, *more)) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert "(24 frames a second) against 43 clips of" in first
    assert "(8 frames a second); 16 frames, stride 1, first clip; tiny_video" in first
    assert "11 frames, 8 frames a second, first clip" in second
    assert second.startswith("FVD 0.00 ")


@pytest.mark.parametrize(("flag", "other"), [("--out", "--features"), ("--features", "--out")])
def test_a_folder_that_cannot_be_written_is_refused_before_any_video_is_read(
    flag: str, other: str, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    places = [flag, str(tmp_path / "file/in"), other, str(tmp_path / "other")]
    assert tiny_features.run("flicker", "--videos", str(videos), *places) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"cannot write in {tmp_path}/file (Not a directory); choose another" in line
    assert flag in line


def test_the_help_names_every_metric(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tiny_features.run("--help")
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("fvd", "clipsim", "flicker"))
