"""sample.py from the user's own video: results, the record, resuming and skipping."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from show1_jax.cascade.cascade import Cascade
from show1_jax.cascade.prompts import Prompt
from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.config.sampling import STAGES
from show1_jax.media.frames import fit, from_uint8
from show1_jax.sampling.run_directory import RunDirectory
from tests.helpers.sample_runs import PROMPT, SEED, Sampler, snapshot, stage_bytes

STEPS = "--config.keyframes.num_steps=4"
KEYFRAMES = ("--from_stage=keyframes", "--stages=keyframes", STEPS)


@pytest.fixture
def own(sampler: Sampler) -> Path:
    path = sampler.folder / "own.npy"
    np.save(path, np.random.default_rng(0).uniform(-1, 1, (30, 20, 40, 3)).astype(np.float32))
    return path


def request_of(sampler: Sampler) -> dict[str, object]:
    record = sampler.run.record()
    assert record is not None
    return dict(record.request)


def forbid_sampling(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Cascade, "sample_batches", lambda *_, **__: pytest.fail("sampled again"))


def test_strength_0_is_the_fitted_video_of_every_prompt(
    sampler: Sampler, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No network is loaded. It is finished, and another strength or video is another video."""
    monkeypatch.setattr(CheckpointSet, "load", lambda *_, **__: pytest.fail("a network is loaded"))
    prompts = ["a red fox", "a blue fox", PROMPT]
    unchanged = (*KEYFRAMES, f"--video={own}", "--strength=0")
    assert sampler(*unchanged, "--batch_size=2", prompts=prompts) == 0
    fitted = fit(np.load(own)[np.linspace(0, 29, 3).round().astype(int)], 8, 8)
    for text in prompts:
        run = RunDirectory.of(sampler.folder / "out", Prompt(text, seed=SEED))
        np.testing.assert_array_equal(run.load("keyframes"), fitted)
    files = snapshot(sampler.folder)
    with monkeypatch.context() as patch:
        forbid_sampling(patch)
        assert sampler(*unchanged, prompts=prompts) == 0
    assert snapshot(sampler.folder) == files
    other = sampler.folder / "other.npy"
    np.save(other, -np.load(own))
    assert "a video with another edit.strength" in sampler.refusal(*KEYFRAMES, f"--video={own}", "--strength=0.5")
    assert "a video with another edit.video" in sampler.refusal(*KEYFRAMES, f"--video={other}", "--strength=0")
    assert "another edit.inversion_iterations, edit.inversion_steps, " in sampler.refusal("--stages=keyframes", STEPS)


def test_later_stages_resume_from_an_inverted_video(
    sampler: Sampler, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They need no flag of the start, and the record keeps it."""
    inverted = ("--from_stage=keyframes", "--invert", "--inversion_steps=3", f"--video={own}", STEPS)
    assert sampler(*inverted, "--stages=keyframes") == 0
    edit = request_of(sampler)["edit"]
    assert isinstance(edit, dict)
    assert edit == {
        "stage": "keyframes",
        "strength": 1.0,
        "inversion_steps": 3,
        "inversion_iterations": 1,
        "video": edit["video"],
    }
    assert sampler("--from_stage=interpolation", "--stages=interpolation", STEPS) == 0
    record = sampler.run.record()
    assert record is not None
    assert record.stages == ("keyframes", "interpolation")
    assert record.request["edit"] == edit
    forbid_sampling(monkeypatch)
    assert sampler(*inverted, "--stages=keyframes,interpolation") == 0
    assert sampler("--from_stage=interpolation", "--stages=interpolation", STEPS) == 0
    path = sampler.run.path / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": "other"}))
    assert "format is not" in sampler.refusal("--from_stage=interpolation", "--stages=interpolation", STEPS)


def test_a_killed_edit_is_finished_without_its_flags_and_recorded(
    sampler: Sampler, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sampler(*KEYFRAMES, f"--video={own}", "--strength=0") == 0
    edit = request_of(sampler)["edit"]
    for name in ("run.json", "contact_sheet.png"):  # as after a kill between two stages
        (sampler.run.path / name).unlink()

    def interpolate(cascade: Cascade, batches: object, *, on_stage: Callable[..., None], **_: object) -> None:
        on_stage(0, "interpolation", np.zeros((1, 5, 8, 8, 3), np.float32))

    monkeypatch.setattr(Cascade, "sample_batches", interpolate)
    assert sampler("--from_stage=interpolation", "--stages=interpolation", STEPS) == 0
    assert request_of(sampler)["edit"] == edit


def test_an_edit_that_is_impossible_leaves_the_old_files(sampler: Sampler, own: Path) -> None:
    start = (*KEYFRAMES, f"--video={own}")
    assert sampler(*start, "--strength=0") == 0
    said = sampler.refusal(*start, "--invert", "--inversion_steps=1001", "--overwrite")
    assert "inversion_steps=1001 must be at most 1000, the timesteps of stage keyframes" in said


def test_the_video_gives_the_conditions_of_its_stage(sampler: Sampler, own: Path) -> None:
    start = ("--from_stage=superres_pixel", "--stages=superres_pixel", f"--video={own}", "--strength=0.4")
    assert sampler(*start) == 0  # 0.4 of one step: the video itself
    frames = np.load(own)[np.linspace(0, 29, 5).round().astype(int)]
    assert set(stage_bytes(sampler.run)) == {"interpolation", "first_frame", "superres_pixel"}
    np.testing.assert_array_equal(sampler.run.load("interpolation"), fit(frames, 8, 8))
    np.testing.assert_array_equal(sampler.run.load("first_frame"), fit(frames[:1], 16, 16))
    np.testing.assert_array_equal(sampler.run.load("superres_pixel"), fit(frames, 16, 16))


def test_a_video_that_stands_for_the_first_frame_has_one_frame(sampler: Sampler, own: Path) -> None:
    every_window = "--config.first_frame.frames=window_starts"
    given = ("--from_stage=first_frame", "--stages=first_frame", f"--video={own}", "--strength=0.4", every_window)
    assert sampler(*given) == 0
    np.testing.assert_array_equal(sampler.run.load("first_frame"), fit(np.load(own)[:1], 16, 16))


def test_a_dry_run_states_the_memory_of_the_inversion_and_of_what_runs_alone(
    sampler: Sampler, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sampler(*KEYFRAMES, f"--video={own}", "--invert", "--dry_run") == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert float(rows["inversion"][0]) == float(rows["keyframes"][0]) > 0
    assert 0 < float(rows["inversion"][1]) <= float(rows["keyframes"][1])  # which has two branches of guidance
    assert sampler(*KEYFRAMES, f"--video={own}", "--strength=0", "--dry_run") == 0
    lines = capsys.readouterr().out
    assert "at most" in lines
    assert not {"keyframes", "text_t5"} & set(lines.split())
    assert not (sampler.folder / "out").exists()


def test_videos_begin_with_a_picture(sampler: Sampler, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is shown upright, stands for the first frame, and is part of the record; the same picture is skipped."""
    stages, begins = "--stages=keyframes,first_frame", f"--image={picture}"
    assert sampler(stages, "--config.keyframes.image_passes=1", begins) == 0
    pixels = np.asarray(Image.open(picture))[:, ::-1].transpose(1, 0, 2)  # as a viewer turns it
    first = fit(from_uint8(pixels[None]), 16, 16)
    np.testing.assert_allclose(sampler.run.load("first_frame"), first, atol=1e-6)
    np.testing.assert_allclose(sampler.run.load("keyframes")[:1], fit(first, 8, 8), atol=1e-6)
    image = request_of(sampler)["image"]
    forbid_sampling(monkeypatch)
    one_pass = "--config.keyframes.image_passes=1"
    same = picture.with_name("same.bmp")
    Image.fromarray(pixels).save(same)
    assert sampler(stages, one_pass, f"--image={same}") == 0
    other = picture.with_name("other.png")
    Image.fromarray(255 - pixels).save(other)
    assert "a video with another image" in sampler.refusal(stages, one_pass, f"--image={other}")
    assert "a video with another image" in sampler.refusal("--stages=keyframes", one_pass)
    resumed = ("--from_stage=interpolation", one_pass)
    for wrong in ((), (f"--image={other}",)):
        assert "begins with a picture; give the same one with --image" in sampler.refusal(*resumed, *wrong)
    assert sampler("--from_stage=first_frame", "--stages=first_frame", one_pass, begins) == 0
    assert sampler.run.start_of(("keyframes",)) == {"image": image}
    assert sampler.run.start_of(()) == {}
    (sampler.run.path / "run.json").unlink()
    for name in ("contact_sheet.png", *(f"3_first_frame{end}" for end in (".mp4", ".gif", ".safetensors"))):
        (sampler.run.path / name).unlink()
    assert "finish it with the same --image and --from_stage interpolation" in sampler.refusal(stages, one_pass, begins)
    for stage in ("interpolation", "first_frame"):
        sampler.run.stage_file(stage).touch()
    assert "finish it with --from_stage superres_pixel and without --image, or" in sampler.refusal(one_pass, begins)
    (sampler.run.path / "run.json").write_text("{")
    assert sampler.run.start_of(("keyframes",)) == {}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A photo that a camera turned: its EXIF orientation says so."""
    path = tmp_path / "photo.png"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 8  # a quarter turn to the left shows it upright
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8)).save(path, exif=exif)
    return path


def test_bad_pictures(sampler: Sampler, picture: Path) -> None:
    folder = picture.parent
    (folder / "cut.png").write_bytes(picture.read_bytes()[:200])
    (folder / "text.jpg").write_text("no picture")
    (folder / "empty.png").write_bytes(b"")
    frame = Image.new("RGB", (8, 8))
    frame.save(folder / "moving.webp", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")])
    for name, said in (
        ("none.png", "there is no"),
        ("cut.png", "cannot read the image"),
        ("text.jpg", "it is not one of PNG, JPEG"),
        ("empty.png", "cannot read the image"),
        ("moving.webp", "it has several frames"),
        (".", "cannot read the image"),
    ):
        assert said in sampler.refusal("--stages=keyframes", f"--image={folder / name}")
    begins = f"--image={picture}"
    assert "--image or --video, not both" in sampler.refusal(
        begins, f"--video={picture}", "--from_stage=keyframes", "--strength=0.5"
    )
    assert "used by keyframes and first_frame; run one" in sampler.refusal(begins, "--stages=interpolation")


@pytest.mark.parametrize("stage", STAGES)
def test_bad_videos_and_strengths(sampler: Sampler, stage: str) -> None:
    path = sampler.folder / "short.npy"
    np.save(path, np.zeros((0, 8, 8, 3), np.float32))
    start = (f"--from_stage={stage}", f"--video={path}")
    assert "short.npy" in sampler.refusal(*start, "--strength=0.5")
    assert "strength=2 must be from 0" in sampler.refusal(*start, "--strength=2")
    assert "--strength=much" in sampler.refusal(*start, "--strength=much")
    assert "there is no" in sampler.refusal(start[0], "--video=none.mp4", "--strength=0.5")
