"""The worker: jobs in their order, progress, stopping, errors; all files are those of sample.py."""

import dataclasses
import errno
import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from show1_jax.config.config_file import Config
from show1_jax.config.sampling import STAGES, Stage
from show1_jax.errors import UserError
from show1_jax.web.jobs import JobView
from show1_jax.web.requests import Limits, Task
from show1_jax.web.worker import Worker
from tests.helpers.web_pages import PROMPT, DrawnSampler, drawn
from tests.helpers.web_waiting import directories, ended, until

MakeTask = Callable[..., Task]


def hidden_files(config: Config) -> list[Path]:
    """Return files that are written in part: they have a dot before their name."""
    return list(Path(config.out).rglob(".*"))


def test_a_job_makes_the_files_of_a_run_and_counts_every_step(
    worker: Worker, sampler: DrawnSampler, task: MakeTask
) -> None:
    one = task(videos=2)
    job = worker.submit(one)
    view = ended(worker, job.id)
    assert (view.state, view.share, view.problem) == ("done", 1.0, None)
    assert [video.stages for video in view.videos] == [STAGES, STAGES]
    assert [video.seed for video in view.videos] == [345, 346]
    assert len(sampler.steps) == 2 * 2 * len(STAGES)
    assert {name for _, name in sampler.samples} == {"background worker"}
    for directory, prompt in zip(directories(one), one.request.prompts, strict=True):
        record = directory.record()
        assert record is not None
        assert record.request["prompt"] == PROMPT
        for stage in STAGES:
            np.testing.assert_array_equal(directory.load(stage), drawn(one.config, stage, prompt))


def test_a_video_that_exists_is_shown_without_sampling(worker: Worker, sampler: DrawnSampler, task: MakeTask) -> None:
    ended(worker, worker.submit(task()).id)
    steps = len(sampler.steps)
    view = ended(worker, worker.submit(task()).id)
    assert (view.state, view.made_before, view.share) == ("done", True, 1.0)
    assert view.videos[0].stages == STAGES
    assert len(sampler.steps) == steps


def test_jobs_wait_in_their_order(worker: Worker, sampler: DrawnSampler, task: MakeTask) -> None:
    sampler.gate.clear()
    first, second, third = (worker.submit(task(seed=seed)) for seed in (1, 2, 3))
    until(lambda: sampler.begun)

    def place(name: str) -> tuple[str, int]:
        view = worker.view(name)
        assert view is not None
        return view.state, view.place

    assert [place(job.id) for job in (first, second, third)] == [("running", 0), ("waiting", 1), ("waiting", 2)]
    health = worker.health()
    assert (health.status, health.waiting, health.running) == ("ready", 2, 1)
    worker.stop(second.id)
    assert place(second.id) == ("stopped", 0)
    assert place(third.id) == ("waiting", 1)
    sampler.gate.set()
    assert ended(worker, third.id).state == "done"
    assert not directories(second.task)[0].path.exists()


@pytest.mark.parametrize("stage", ["keyframes", "superres_pixel"])
def test_a_job_stops_within_a_step_and_keeps_finished_stages(
    worker: Worker, sampler: DrawnSampler, task: MakeTask, config: Config, stage: Stage
) -> None:
    sampler.hold = stage
    sampler.gate.clear()
    one = task()
    job = worker.submit(one)
    until(lambda: sampler.begun == (stage, 1))
    worker.stop(job.id)
    view = worker.view(job.id)
    assert view is not None
    assert view.stopping
    sampler.gate.set()
    assert ended(worker, job.id).state == "stopped"
    assert sampler.steps[-1] == (stage, 1)  # the one that ran
    directory = directories(one)[0]
    assert [name for name in STAGES if directory.has(name)] == list(STAGES[: STAGES.index(stage)])
    assert directory.path.exists() == (stage != "keyframes")
    assert directory.record() is None if directory.path.exists() else True
    assert not hidden_files(config)
    with directory.locked():  # nobody holds it any more
        pass


@pytest.mark.parametrize(("batch_size", "groups"), [(2, (2, 1)), (4, (3,))])
def test_videos_of_a_request_are_sampled_together(
    worker: Worker, sampler: DrawnSampler, task: MakeTask, batch_size: int, groups: tuple[int, ...]
) -> None:
    begun, steps, views = threading.Event(), list[Stage](), list[JobView]()

    def look(stage: Stage, step: int) -> None:
        assert begun.wait(120)
        view = worker.view(job.id)
        assert view is not None
        steps.append(stage)
        views.append(view)

    sampler.cascade.wait = look
    one = task(videos=3)
    one = one._replace(request=dataclasses.replace(one.request, batch_size=batch_size))
    job = worker.submit(one)
    begun.set()
    assert ended(worker, job.id).share == 1.0
    assert steps == [stage for _ in groups for stage in STAGES for _ in range(2)]
    assert [view.stage for view in views] == steps  # also before its first step
    assert {view.groups for view in views} == {groups}
    assert [view.share for view in views] == sorted(view.share for view in views)
    records = [directory.record() for directory in directories(one)]
    assert [record.made["batch_size"] for record in records if record] == [size for size in groups for _ in range(size)]


def test_errors_are_lines_and_the_next_job_runs(
    worker: Worker,
    sampler: DrawnSampler,
    task: MakeTask,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended(worker, worker.submit(task()).id)
    other = ended(worker, worker.submit(task(steps={"keyframes": 3})).id)
    assert other.state == "failed"
    assert other.problem is not None
    assert "a video with another config.keyframes.num_steps" in other.problem
    with monkeypatch.context() as patch:
        patch.setattr(sampler, "sample", lambda *_: 1 // 0)
        view = ended(worker, worker.submit(task(seed=1)).id)
        full = OSError(errno.ENOSPC, "No space left on device", "video.mp4")
        patch.setattr(sampler, "sample", lambda *_: (_ for _ in ()).throw(full))
        lost = ended(worker, worker.submit(task(seed=1)).id)
    assert lost.problem == "video.mp4: No space left on device; check the path, its permissions and the disk"
    assert view.problem == "this is an error of the program; the terminal of the server has its details"
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert ended(worker, worker.submit(task(seed=2)).id).state == "done"


def test_a_full_queue_a_closed_and_a_failed_worker_refuse(
    sampler: DrawnSampler, task: MakeTask, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(sampler, Limits(waiting=1))
    waiting = worker.submit(task())
    with pytest.raises(UserError, match="1 requests are waiting already"):
        worker.submit(task(seed=1))

    def refuse(on_part: Callable[[str], None]) -> None:
        raise UserError("the checkpoint is damaged")

    monkeypatch.setattr(sampler, "prepare", refuse)
    worker.start()
    assert ended(worker, waiting.id).problem == "the checkpoint is damaged"
    with pytest.raises(UserError, match="the checkpoint is damaged"):
        worker.submit(task())
    assert worker.health().status == "failed"
    assert "web: the checkpoint is damaged" in capsys.readouterr().err
    assert worker.close(120)
    assert sampler.is_closed

    closed = Worker(DrawnSampler(task().config), Limits())
    assert closed.close(120)
    with pytest.raises(UserError, match="being stopped"):
        closed.submit(task())


def test_closing_stops_the_job_that_runs_and_those_that_wait(
    worker: Worker, sampler: DrawnSampler, task: MakeTask, config: Config
) -> None:
    sampler.gate.clear()
    first, second = worker.submit(task()), worker.submit(task(seed=1))
    until(lambda: sampler.begun)
    closing = threading.Thread(target=worker.close, args=(120,))
    closing.start()
    until(lambda: (view := worker.view(first.id)) and view.stopping)
    sampler.gate.set()
    closing.join(120)
    assert len(sampler.steps) == 1
    assert [ended(worker, job.id).state for job in (first, second)] == ["stopped", "stopped"]
    assert not hidden_files(config)
    assert worker.health().status == "closed"


def test_unknown_names_are_no_jobs(worker: Worker) -> None:
    assert worker.view("nothing") is None
    assert worker.view(None) is None
    assert worker.task(["a"]) is None
    worker.stop("nothing")


def test_twenty_jobs_finish_without_a_mistake_and_without_growing(
    worker: Worker, sampler: DrawnSampler, task: MakeTask
) -> None:
    prompts = ["a red circle moves right", "a small blue square grows", "a green triangle moves up"]
    tasks = [task(prompt=prompts[seed % 3], seed=seed) for seed in range(20)]
    sampler.gate.clear()
    jobs = [worker.submit(one) for one in tasks]
    sampler.gate.set()
    assert ended(worker, jobs[4].id).state == "done"  # what is made once is there
    early = resident_bytes()
    assert [ended(worker, job.id).state for job in jobs] == ["done"] * 20
    assert resident_bytes() - early < 32 << 20
    for one in tasks:
        prompt, directory = one.request.prompts[0], directories(one)[0]
        record = directory.record()
        assert record is not None
        assert (record.request["prompt"], record.request["seed"]) == (prompt.text, prompt.seed)
        np.testing.assert_array_equal(directory.load("superres_latent"), drawn(one.config, "superres_latent", prompt))


def resident_bytes() -> int:
    """Return the memory of this process, after the garbage is collected."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
