"""What follows a job that was stopped or refused."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from show1_jax.config.config_file import Config
from show1_jax.config.sampling import STAGES
from show1_jax.errors import UserError
from show1_jax.web.requests import Task
from show1_jax.web.resume import can_replace, continued, refused_line, replaced, unfinished_stage
from show1_jax.web.worker import Worker
from tests.helpers.web_pages import DrawnSampler
from tests.helpers.web_waiting import directories, ended, until


def test_a_stopped_job_continues_from_its_first_missing_stage(
    worker: Worker, sampler: DrawnSampler, task: Callable[..., Task]
) -> None:
    sampler.hold = "first_frame"
    sampler.gate.clear()
    one = task(videos=2)
    job = worker.submit(one)
    until(lambda: sampler.begun == ("first_frame", 1))
    worker.stop(job.id)
    sampler.gate.set()
    assert ended(worker, job.id).state == "stopped"
    assert unfinished_stage(one) == "first_frame"
    rest = continued(one)
    assert rest.request.prompts == one.request.prompts[:1]  # the second video was not begun
    assert rest.request.stages == STAGES[2:]
    before = directories(one)[0].load("interpolation")
    sampler.steps.clear()
    assert ended(worker, worker.submit(rest).id).state == "done"
    assert {stage for stage, _ in sampler.steps} == set(STAGES[2:])
    assert (directories(one)[0].load("interpolation") == before).all()
    assert directories(one)[0].record() is not None
    assert unfinished_stage(one) is None
    with pytest.raises(UserError, match="nothing to continue"):
        continued(one)
    with pytest.raises(UserError, match="nothing to continue"):
        continued(None)


def test_videos_that_were_sampled_together_continue_together(
    worker: Worker, sampler: DrawnSampler, task: Callable[..., Task], tmp_path: Path
) -> None:
    Image.new("RGB", (64, 40), "red").save(tmp_path / "photo.png")
    sampler.hold = "superres_pixel"
    sampler.gate.clear()
    one = task(videos=2, image=tmp_path / "photo.png")
    one = one._replace(request=dataclasses.replace(one.request, batch_size=2))
    job = worker.submit(one)
    until(lambda: sampler.begun == ("superres_pixel", 1))
    worker.stop(job.id)
    sampler.gate.set()
    view = ended(worker, job.id)
    assert [video.stages for video in view.videos] == [STAGES[:3]] * 2
    rest = continued(one)
    assert (rest.request.prompts, rest.request.stages, rest.request.image) == (one.request.prompts, STAGES[3:], None)
    assert ended(worker, worker.submit(rest).id).state == "done"
    for directory in directories(one):
        record = directory.record()
        assert record is not None
        assert "image" in record.request
    earlier = task(start="first_frame")
    problem = ended(worker, worker.submit(earlier).id).problem
    assert problem is not None
    assert refused_line(problem, earlier) == (
        "This video begins with a picture: continue it from pixel super-resolution on."
    )


def test_a_run_that_was_killed_between_the_files_of_a_stage_continues(
    worker: Worker, sampler: DrawnSampler, task: Callable[..., Task]
) -> None:
    one = task()
    ended(worker, worker.submit(one).id)
    directory = directories(one)[0]
    for name in ("run.json", "contact_sheet.png", "5_superres_latent.safetensors", "5_superres_latent_x4_lanczos.mp4"):
        (directory.path / name).unlink()
    rest = continued(one)
    assert (rest.request.stages, rest.request.overwrite) == (STAGES[4:], True)
    assert ended(worker, worker.submit(rest).id).state == "done"
    (directory.path / "run.json").unlink()
    directory.stage_file("first_frame").unlink()
    assert not continued(one).request.overwrite  # later stages are there: only the user may replace them


def test_another_video_in_its_place_can_be_replaced(worker: Worker, task: Callable[..., Task], config: Config) -> None:
    ended(worker, worker.submit(task()).id)
    other = task(guidance={"keyframes": 3.0})
    view = ended(worker, worker.submit(other).id)
    assert view.problem is not None
    assert can_replace(view.problem)
    line = refused_line(view.problem, other)
    assert line == (
        "For this prompt and seed, there is a video with another config.keyframes.guidance_scale. "
        "Replace it, or take another seed."
    )
    assert ended(worker, worker.submit(replaced(other)).id).state == "done"
    record = directories(other)[0].record()
    assert record is not None
    assert record.request["config"]["keyframes"]["guidance_scale"] == 3.0
    with pytest.raises(UserError, match="nothing to replace"):
        replaced(None)


def test_other_lines_stay_but_name_no_folder(task: Callable[..., Task], config: Config) -> None:
    one = task()
    line = refused_line(f"{config.out}/a-1: another process is writing there; wait until it has ended", one)
    assert line == "a-1: another process is writing there; wait until it has ended"
    assert not can_replace(line)
    assert not can_replace(None)
    uploaded = task(start="interpolation", video=Path("/tmp/page/uploads/token/mine.mp4"))
    assert refused_line("cannot read /tmp/page/uploads/token/mine.mp4: it is gone", uploaded) == (
        "cannot read mine.mp4: it is gone"
    )
