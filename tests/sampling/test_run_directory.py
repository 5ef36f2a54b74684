"""Run directories: their files, when a video is skipped, refused or replaced, and that it is resumed bit for bit."""

import contextlib
import copy
import errno
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from show1_jax.cascade.cascade import Cascade
from show1_jax.cascade.conditions import SAMPLING
from show1_jax.cascade.prompts import Prompt
from show1_jax.config.config_file import Config
from show1_jax.config.sampling import STAGES, Stage
from show1_jax.errors import UserError
from show1_jax.files import locked_folder
from show1_jax.media.frames import fit
from show1_jax.media.stage_files import load_stage, save_stage
from show1_jax.sampling import job
from show1_jax.sampling.progress import StageBars
from show1_jax.sampling.run_directory import RunDirectory
from show1_jax.sampling.run_record import Record, differences
from tests.helpers.sample_runs import PROMPT, SEED, Sampler, snapshot, stage_bytes

LONG = "a fox " * 80
FILES = {
    "contact_sheet.png",
    "run.json",
    "5_superres_latent_x4_lanczos.mp4",
    *(f"{n}_{stage}.{suffix}" for n, stage in enumerate(STAGES, 1) for suffix in ("safetensors", "mp4", "gif")),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> RunDirectory:
    """The run directory of a finished video; tests must not change it."""
    sampler = Sampler(tiny_checkpoint, tmp_path_factory.mktemp("finished"))
    assert sampler() == 0
    return sampler.run


@pytest.fixture
def copied(sampler: Sampler, finished: RunDirectory) -> Sampler:
    """A sampler whose output contains a copy of the finished video."""
    shutil.copytree(finished.path, sampler.run.path)
    return sampler


def record_of(run: RunDirectory) -> Record:
    record = run.record()
    assert record is not None
    return record


def unfinish(run: RunDirectory, start: Stage) -> None:
    """Remove the files that an interruption in stage `start` would not have written."""
    run.remove(STAGES[STAGES.index(start) :])


def test_layout(finished: RunDirectory) -> None:
    assert {path.name for path in finished.path.iterdir()} == FILES
    shapes = {stage: finished.load(stage).shape for stage in STAGES}
    assert shapes == {
        "keyframes": (3, 8, 8, 3),
        "interpolation": (5, 8, 8, 3),
        "first_frame": (1, 16, 16, 3),
        "superres_pixel": (5, 16, 16, 3),
        "superres_latent": (5, 24, 24, 3),
    }


def test_record(finished: RunDirectory, tiny_checkpoint: Path) -> None:
    record = json.loads((finished.path / "run.json").read_text())
    request, made = record["request"], record["made"]
    assert (request["prompt"], request["seed"], request["precision"]) == (PROMPT, SEED, "float32")
    assert request["negative_prompts"]["keyframes"] == ""
    assert request["negative_prompts"]["superres_latent"] == request["config"]["negative_prompt"] != ""
    assert Config.from_dict(request["config"]).superres_latent.num_steps == 2
    assert set(request["checkpoint"]) == {*STAGES, "text_t5", "text_clip", "vae"}
    assert all(len(value) == 64 for value in request["checkpoint"].values())
    assert made["versions"]["jax"] == jax.__version__
    assert made["mesh"] == {"data": 1, "fsdp": 1, "tensor": 1, "guidance": 1, "height": 1}
    assert made["devices"] == "1 x cpu"
    assert request["config"]["checkpoint"] == str(tiny_checkpoint)
    assert set(made["times"]) == set(record["stages"]) == set(record["results"]) == set(STAGES)


def test_the_paths_of_videos_and_how_to_view_them_are_printed(
    sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler.folder = sampler.folder / "a folder"
    monkeypatch.setattr(platform, "node", lambda: "node0")
    assert sampler("--stages=keyframes", "--videos_per_prompt=2", "--batch_size=1") == 0
    assert sampler.capsys is not None
    folders = [RunDirectory.of(sampler.folder / "out", Prompt(PROMPT, seed=seed)).path for seed in (SEED, SEED + 1)]
    assert sampler.capsys.readouterr().out.splitlines() == [
        f"[1/2] {folders[0]}: {PROMPT}",
        f"done: {folders[0]}/1_keyframes.mp4 (all stages: contact_sheet.png beside it)",
        f"[2/2] {folders[1]}: {PROMPT}",
        f"done: {folders[1]}/1_keyframes.mp4 (all stages: contact_sheet.png beside it)",
        f"to look at it, open '{folders[1]}/1_keyframes.mp4' in a video player or a browser; "
        f"from another computer: scp node0:'{folders[1]}/1_keyframes.mp4' .",
    ]
    assert sampler("--stages=keyframes") == 0
    assert f"to look at it, open '{folders[0]}/1_keyframes.mp4'" in sampler.capsys.readouterr().out


def test_a_finished_video_is_skipped(copied: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cascade, "sample_batches", lambda *_, **__: pytest.fail("sampled again"))
    before = snapshot(copied.folder)
    assert copied("--config.compilation_cache=") == copied("--stages=keyframes,interpolation") == 0
    assert copied("--from_stage=superres_latent") == copied("--overwrite") == 0
    assert copied.capsys is not None
    assert copied.capsys.readouterr().out.count("done already, skipped\n") == 4
    assert snapshot(copied.folder) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config.first_frame.num_steps=3"], "a video with another config.first_frame.num_steps; "),
        (["--config.output.fps=9"], "a video with another config.output.fps; "),
        (["--negative_prompt=dull"], "a video with another negative_prompts.superres_latent; "),
        (["--from_stage=superres_latent", "--config.superres_latent.strength=1"], "another config.superres_latent.str"),
        (["--config.precision=bfloat16"], "a video with another precision; replace it with --overwrite"),
    ],
)
def test_another_video_is_refused(copied: Sampler, arguments: list[str], said: str) -> None:
    assert said in copied.refusal(*arguments)


def test_a_video_with_other_weights_is_refused(copied: Sampler) -> None:
    path = copied.run.path / "run.json"
    record = json.loads(path.read_text())
    record["request"]["checkpoint"]["vae"] = "0" * 64
    path.write_text(json.dumps(record))
    assert "another checkpoint.vae; " in copied.refusal()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not valid JSON (Expecting value"),
        ("{", "not valid JSON"),
        ("[]", "no JSON object"),
        ('"show1_jax.run.v1"', "no JSON object"),
        ("{}", "format is not 'show1_jax.run.v1'"),
        ('{"format": "show1_jax.run.v1"}', "request must be an object"),
        ("[" * 10000, "nested more than 64 deep"),
        ('"\\ud800"', "not valid Unicode"),
    ],
)
def test_a_damaged_record_is_named(copied: Sampler, text: str, said: str) -> None:
    path = copied.run.path / "run.json"
    path.write_text(text)
    line = copied.refusal()
    assert line.startswith(f"sample: {path}: ")
    assert said in line
    assert line.endswith("; replace the video with --overwrite, or choose another place with --out\n")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("format", "show1_jax.run.v2", "format is not 'show1_jax.run.v1'"),
        ("request", None, "request must be an object"),
        ("request", {"config": None}, "request.config must be an object"),
        ("request", {"config": []}, "request.config must be an object"),
        ("stages", None, "stages must be a list of keyframes,"),
        ("stages", "keyframes", "stages must be a list"),
        ("stages", ["keyframes", "last"], "stages must be a list"),
        ("stages", [["keyframes"]], "stages must be a list"),
        ("stages", {"keyframes": 1}, "stages must be a list"),
        ("results", [], "results must be an object"),
        ("results", {"last": "0" * 64}, "results has 'last', which is not a stage"),
        ("results", {"keyframes": None}, "results.keyframes must be a hexadecimal SHA-256"),
        ("results", {"keyframes": "0" * 63 + "g"}, "results.keyframes must be a hexadecimal SHA-256"),
        ("files", ["1_keyframes.mp4"], "files must be an object"),
        ("files", {"1_keyframes.mp4": 3}, "files.1_keyframes.mp4 must be"),
        ("made", "today", "made must be an object"),
    ],
)
def test_an_edited_record_is_named_with_its_field(copied: Sampler, field: str, value: Any, said: str) -> None:
    path = copied.run.path / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    line = copied.refusal("--from_stage=superres_latent")
    assert line.startswith(f"sample: {path}: {said}")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100)
@given(data=st.data())
def test_any_edit_of_a_record_is_one_line_or_another_video(
    tmp_path_factory: pytest.TempPathFactory, finished: RunDirectory, data: st.DataObject
) -> None:
    """Edits are at any depth; a value that is compared with the request may have any type."""
    values = json.loads((finished.path / "run.json").read_text())
    request, stages = values["request"], [stage for stage in STAGES if stage in values["stages"]]
    edited = copy.deepcopy(values)
    place, names = edited, list(edited)
    for _ in range(data.draw(st.integers(0, 3))):
        inner = [name for name in names if isinstance(place[name], dict) and place[name]]
        if not inner:
            break
        place = place[data.draw(st.sampled_from(inner))]
        names = list(place)
    place[data.draw(st.sampled_from(names) | st.text(max_size=5))] = data.draw(VALUES)
    run = RunDirectory(tmp_path_factory.mktemp("edited") / "run")
    shutil.copytree(finished.path, run.path, copy_function=os.link)
    (run.path / "run.json").unlink()
    (run.path / "run.json").write_text(json.dumps(edited))
    with contextlib.suppress(UserError):
        is_done = run.is_done(request, stages, {})
        record = record_of(run)
        names = differences(record.request, request)
        assert is_done == (not names and set(stages) <= set(record.stages))


def test_overwrite_replaces_a_damaged_record(copied: Sampler, finished: RunDirectory) -> None:
    (copied.run.path / "run.json").write_text('{"format": "show1_jax.run.v1", "request": {}}')
    assert copied("--overwrite", "--from_stage=superres_latent") == 0
    assert stage_bytes(copied.run) == stage_bytes(finished)
    assert record_of(copied.run).stages == ("superres_latent",)


@pytest.mark.parametrize("name", ["run.json", "contact_sheet.png", "1_keyframes.safetensors", "5_superres_latent.gif"])
@pytest.mark.parametrize("arguments", [["--overwrite"], ["--overwrite", "--from_stage=superres_latent"]])
def test_a_folder_with_the_name_of_a_file_is_refused_before_anything_is_removed(
    copied: Sampler, name: str, arguments: list[str]
) -> None:
    (copied.run.path / name).unlink()
    (copied.run.path / name).mkdir()
    assert copied.refusal() != ""
    if name != "1_keyframes.safetensors" or len(arguments) == 1:
        assert f"{name} is a folder, not a file" in copied.refusal(*arguments)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:10])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def swap(path: Path) -> None:
    """Replace a file with an intact file of another video."""
    if path.suffix == ".safetensors":
        stage = path.stem.split("_", 1)[1]
        save_stage(path, load_stage(path) * np.float32(0.5), stage)
    else:
        path.write_bytes(path.read_bytes() + b"x")


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("change", [cut, empty, swap, remove])
@pytest.mark.parametrize(
    "name", ["1_keyframes.safetensors", "2_interpolation.mp4", "5_superres_latent.gif", "contact_sheet.png"]
)
def test_a_file_that_differs_from_the_record_is_refused(
    copied: Sampler, change: Callable[[Path], None], name: str
) -> None:
    change(copied.run.path / name)
    line = copied.refusal()
    assert str(copied.run.path / name) in line
    assert "sample" in line


def test_older_records_have_no_hashes_of_files(copied: Sampler) -> None:
    path = copied.run.path / "run.json"
    record = json.loads(path.read_text())
    del record["files"]
    path.write_text(json.dumps(record))
    assert copied() == 0
    empty(copied.run.path / "1_keyframes.mp4")
    assert "1_keyframes.mp4 is damaged or was changed" in copied.refusal()


def test_a_stage_of_another_video_is_not_resumed_from(copied: Sampler) -> None:
    """It is refused although it is intact and all files that would be written are missing."""
    for path in copied.run.existing(STAGES[1:]):
        path.unlink()
    swap(copied.run.stage_file("keyframes"))
    assert "1_keyframes.safetensors is not the one that run.json records" in copied.refusal(
        "--from_stage=interpolation"
    )
    assert copied("--from_stage=interpolation", "--overwrite") == 0
    assert record_of(copied.run).stages == STAGES[1:]


def test_two_runs_do_not_write_one_video(copied: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cascade, "sample_batches", lambda *_, **__: pytest.fail("sampled"))
    before = snapshot(copied.folder)
    with locked_folder(copied.run.path):
        assert copied("--overwrite", "--from_stage=superres_latent", "--negative_prompt=dull") == 2
    assert copied.capsys is not None
    last = copied.capsys.readouterr().err.splitlines()[-1]
    assert last == f"sample: {copied.run.path}: another process is writing there; wait until it has ended"
    assert snapshot(copied.folder) == before


def test_a_video_that_another_run_has_finished_meanwhile_is_skipped(
    sampler: Sampler, finished: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs plan the same video; the second one begins with it after the first one has finished it."""
    monkeypatch.setattr(Cascade, "sample_batches", lambda *_, **__: pytest.fail("sampled"))
    monkeypatch.setattr(job, "_print_warnings", lambda *_: shutil.copytree(finished.path, sampler.run.path))
    assert sampler() == 0
    assert sampler.capsys is not None
    assert sampler.capsys.readouterr().out.startswith(f"{sampler.run.path}: done already, skipped\nto look")


def test_a_stage_that_was_changed_while_sampling_is_not_recorded(
    sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StageBars, "close", lambda _: swap(sampler.run.stage_file("keyframes")))
    assert sampler("--stages=keyframes") == 2
    assert not (sampler.run.path / "run.json").exists()


def test_two_runs_with_one_output_folder_sample_different_prompts(sampler: Sampler) -> None:
    with locked_folder(RunDirectory.of(sampler.folder / "out", Prompt("another", seed=SEED)).path):
        assert sampler("--stages=keyframes") == 0


def test_folder_names_that_are_not_unicode_are_recorded(sampler: Sampler) -> None:
    sampler.folder = sampler.folder / "caf\udce9"
    assert sampler("--stages=keyframes") == 0
    assert sampler("--stages=keyframes") == 0
    assert sampler.capsys is not None
    assert "done already, skipped" in sampler.capsys.readouterr().out


def test_overwrite_replaces_only_files_of_the_video(copied: Sampler, finished: RunDirectory) -> None:
    note = copied.run.path / "note.txt"
    note.write_text("mine")
    assert copied("--overwrite", "--stages=keyframes", "--config.output.keyframes_fps=4") == 0
    names = {path.name for path in copied.run.path.iterdir()}
    assert names == {"note.txt", "run.json", *(name for name in FILES if name[0] in "1c")}
    assert note.read_text() == "mine"
    assert record_of(copied.run).stages == ("keyframes",)
    assert stage_bytes(copied.run) == {"keyframes": stage_bytes(finished)["keyframes"]}


@pytest.mark.parametrize("start", STAGES[1:])
def test_resuming_from_a_saved_stage_is_bit_identical(copied: Sampler, finished: RunDirectory, start: Stage) -> None:
    unfinish(copied.run, start)
    assert f"finish it with --from_stage {start}, or " in copied.refusal()
    assert copied(f"--from_stage={start}") == 0
    assert stage_bytes(copied.run) == stage_bytes(finished)
    record = record_of(copied.run)
    assert record.stages == STAGES[STAGES.index(start) :]
    assert record.results == record_of(finished).results


def test_stage_by_stage_gives_the_same_video(sampler: Sampler, finished: RunDirectory) -> None:
    assert sampler("--stages=keyframes,interpolation") == 0
    assert sampler("--from_stage=first_frame") == 0
    record = record_of(sampler.run)
    assert record.stages == STAGES
    assert not differences(record.request, record_of(finished).request)
    assert stage_bytes(sampler.run) == stage_bytes(finished)


def test_records_from_before_a_setting_existed_count_as_made_with_its_default(finished: RunDirectory) -> None:
    """Names are stated here: what older versions wrote never changes."""
    request = record_of(finished).request
    older = copy.deepcopy(dict(request))
    for stage in STAGES:
        for name in ("guidance_min_timestep", "guidance_max_timestep", "deep_every", "fine_levels"):
            del older["config"][stage][name]
    assert differences(older, request) == differences(request, older) == []
    request["config"]["keyframes"]["deep_every"] = 2
    assert differences(older, request) == ["config.keyframes.deep_every"]


def test_overwrite_from_a_stage_keeps_the_stages_before(copied: Sampler, finished: RunDirectory) -> None:
    arguments = ["--from_stage=superres_latent", "--negative_prompt=dull"]
    assert copied(*arguments, "--overwrite") == 0
    before, after = stage_bytes(finished), stage_bytes(copied.run)
    assert {stage for stage in STAGES if before[stage] != after[stage]} == {"superres_latent"}
    assert record_of(copied.run).stages == ("superres_latent",)
    assert record_of(copied.run).request["negative_prompts"]["superres_latent"] == "dull"


def test_missing_and_damaged_stage_files(copied: Sampler) -> None:
    unfinish(copied.run, "superres_pixel")
    file = copied.run.stage_file("first_frame")
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    assert "cannot read stage file" in copied.refusal("--from_stage=superres_pixel")
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "damaged" in copied.refusal("--from_stage=superres_pixel")
    file.unlink()
    said = copied.refusal("--from_stage=superres_pixel")
    assert "3_first_frame.safetensors; run stage first_frame of this prompt and seed first" in said


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A disk that is full for files whose name contains one of the strings in the returned list."""
    parts: list[str] = []

    def fsync(number: int) -> None:
        if any(part in os.readlink(f"/proc/self/fd/{number}") for part in parts):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    return parts


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs to know the names of open files")
def test_after_a_full_disk_finished_stages_can_be_resumed_from(
    sampler: Sampler, finished: RunDirectory, full_disk: list[str]
) -> None:
    assert sampler.capsys is not None
    full_disk.append("first_frame.safetensors")
    assert sampler() == 2
    assert "No space left on device): make room" in sampler.capsys.readouterr().err
    left = {path.name for path in sampler.run.path.iterdir()}
    assert left == {name for name in FILES if name[0] in "12"} | {"3_first_frame.mp4", "3_first_frame.gif"}
    full_disk.clear()
    assert sampler("--from_stage=first_frame", "--overwrite") == 0
    assert stage_bytes(sampler.run) == stage_bytes(finished)


def test_ctrl_c(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    stages: dict[Any, Any] = SAMPLING
    monkeypatch.setitem(stages, "interpolation", interrupted)
    assert sampler() == 130
    assert sampler.capsys is not None
    assert sampler.capsys.readouterr().err.splitlines()[-1].endswith("sample: interrupted")
    assert set(stage_bytes(sampler.run)) == {"keyframes"}
    assert "run.json" not in {path.name for path in sampler.run.path.iterdir()}


def test_a_user_s_video_replaces_each_possible_stage(sampler: Sampler) -> None:
    own = np.random.default_rng(0).uniform(-1, 1, (30, 20, 40, 3)).astype(np.float32)
    path = sampler.folder / "own.npy"
    np.save(path, own)
    expected: dict[Stage, np.ndarray] = {
        "interpolation": fit(own[np.linspace(0, 29, 3).round().astype(int)], 8, 8),
        "first_frame": fit(own[np.linspace(0, 29, 5).round().astype(int)], 8, 8),
        "superres_latent": fit(own[np.linspace(0, 29, 5).round().astype(int)], 16, 16),
    }
    stands_for: dict[Stage, Stage] = {
        "interpolation": "keyframes",
        "first_frame": "interpolation",
        "superres_latent": "superres_pixel",
    }
    for start, fitted in expected.items():
        assert sampler(f"--from_stage={start}", f"--video={path}", "--overwrite", f"--stages={start}") == 0
        assert set(stage_bytes(sampler.run)) == {stands_for[start], start}
        np.testing.assert_array_equal(sampler.run.load(stands_for[start]), fitted)
        assert record_of(sampler.run).made["video"] == str(path)
    assert sampler("--from_stage=superres_latent", f"--video={path}") == 0
    save_stage(sampler.folder / "other.safetensors", own * np.float32(0.5), "superres_pixel")
    said = sampler.refusal("--from_stage=superres_latent", f"--video={sampler.folder / 'other.safetensors'}")
    assert "a video of other stages or inputs" in said


def test_bad_videos_of_the_user(sampler: Sampler) -> None:
    path = sampler.folder / "short.npy"
    np.save(path, np.zeros((2, 8, 8, 3), np.float32))
    assert "3 frames are needed and the video has 2" in sampler.refusal("--from_stage=interpolation", f"--video={path}")
    assert "there is no" in sampler.refusal("--from_stage=interpolation", "--video=none.mp4")


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--config.superres_latent.height=25", "superres_latent cannot make 24x25 (width x height)"),
        ("--config.keyframes.num_frames=0", "num_frames=0 must be from 1"),
        ("--config.first_frame.noise_level=1000", "noise_level=1000 must be"),
        ("--config.mesh.data=3", "mesh"),
        ("--config.keyframes.num_steps=1001", "1001"),
        ("--from_stage=interpolation", "1_keyframes.safetensors; run stage keyframes of this prompt and seed first"),
    ],
)
def test_invalid_settings_of_a_stage_are_refused_first(sampler: Sampler, argument: str, said: str) -> None:
    assert said in sampler.refusal(argument)


def test_a_damaged_checkpoint_is_refused_first(sampler: Sampler) -> None:
    sampler.checkpoint = shutil.copytree(sampler.checkpoint, sampler.folder / "checkpoint")
    large = max((sampler.checkpoint / "vae" / "weights").rglob("*"), key=lambda path: path.stat().st_size)
    with large.open("r+b") as file:
        file.truncate(100)
    said = sampler.refusal()
    assert f"{large}: missing or truncated; convert again" in said
    shutil.rmtree(sampler.checkpoint / "text_clip" / "tokenizer")
    assert "text_clip" in sampler.refusal()


def test_no_writable_output_folder(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    (sampler.folder / "out").write_text("a file")
    assert "choose another place with --out" in sampler.refusal()

    def full(**_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (sampler.folder / "out").unlink()
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    assert "No space left on device" in sampler.refusal()


def test_a_prompt_that_is_cut_off_gives_a_warning(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cascade, "sample_batches", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    assert sampler("--prompt", LONG) == 130
    assert sampler.capsys is not None
    warnings = [line for line in sampler.capsys.readouterr().err.splitlines() if line.startswith("warning: the prompt")]
    first, second = (line.split("'")[0] for line in warnings)
    pixel = ", ".join(STAGES[:4])
    assert first == f"warning: the prompt is too long, its end is cut off for stages {pixel}: "
    assert second == "warning: the prompt is too long, its end is cut off for stage superres_latent: "
    assert all("fox" in line for line in warnings)


def test_every_video_has_its_own_directory(sampler: Sampler) -> None:
    sampled = ["--videos_per_prompt=2", "--batch_size=1", "--stages=keyframes"]
    assert sampler(*sampled, "--prompt", "another") == 0
    records = {path.parent: json.loads(path.read_text()) for path in sampler.folder.rglob("run.json")}
    asked = {(record["request"]["prompt"], record["request"]["seed"]) for record in records.values()}
    assert asked == {(prompt, seed) for prompt in (PROMPT, "another") for seed in (SEED, SEED + 1)}
    keyframes = [load_stage(folder / "1_keyframes.safetensors") for folder in records]
    assert len({video.tobytes() for video in keyframes}) == 4
