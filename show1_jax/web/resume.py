"""Tasks that follow one that was stopped or refused: the same videos continued from a stage, or replaced."""

import dataclasses
import re
from typing import Final

from show1_jax.cascade.stages import image_stages, uses_image
from show1_jax.config.sampling import STAGES, Stage
from show1_jax.errors import UserError
from show1_jax.files import user_path
from show1_jax.sampling.request import choose_stages
from show1_jax.sampling.run_directory import RunDirectory
from show1_jax.web.requests import Task, stage_name

_PICTURE: Final = "begins with a picture"
"""Words of the line that asks for `--image` again, of a video whose picture the page does not have."""


def unfinished_stage(task: Task | None) -> Stage | None:
    """Return the first stage that an unfinished video of a task lacks; None if none of them has finished a stage."""
    if task is None:
        return None
    return next((stage for directory in _directories(task) if (stage := _missing(directory)) is not None), None)


def continued(task: Task | None) -> Task:
    """Return the task that finishes those videos of a task that have finished the same stages.

    Raises:
        UserError: there is none.
    """
    stage = unfinished_stage(task)
    if task is None or stage is None:
        raise UserError("there is nothing to continue; sample the video again")
    unfinished = {
        prompt: directory
        for prompt, directory in zip(task.request.prompts, _directories(task), strict=True)
        if _missing(directory) == stage
    }
    stages = choose_stages(None, stage)
    request = dataclasses.replace(
        task.request,
        prompts=tuple(unfinished),
        stages=stages,
        resume=True,
        video=None,
        edit=None,
        image=task.request.image if uses_image(stages) else None,
        # a killed process may leave files of a stage without its result, which are no video of anyone
        overwrite=not any(directory.has(later) for directory in unfinished.values() for later in stages),
    )
    return task._replace(request=request)


def can_replace(problem: str | None) -> bool:
    """Return whether the line of a job that failed says that other files are in its place."""
    return problem is not None and "--overwrite" in problem


def refused_line(problem: str, task: Task) -> str:
    """Return the line of a job that failed for the page, which has buttons rather than flags, and shows no folders."""
    line = problem
    uploads = (path.parent for path in (task.request.video, task.request.image) if path is not None)
    for folder in (user_path(task.config.out), *uploads):
        line = line.replace(f"{folder}/", "")
    if _PICTURE in problem:
        later = STAGES[max(map(STAGES.index, image_stages())) + 1]
        return f"This video {_PICTURE}: continue it from {stage_name(later)} on."
    if not can_replace(problem):
        return line
    found = re.sub(r"^\S+: ", "", line).partition("; ")[0]
    return f"For this prompt and seed, {found}. Replace it, or take another seed."


def replaced(task: Task | None) -> Task:
    """Return the same task, which replaces the files of other requests.

    Raises:
        UserError: there is no task.
    """
    if task is None:
        raise UserError("there is nothing to replace; sample the video again")
    return task._replace(request=dataclasses.replace(task.request, overwrite=True))


def _directories(task: Task) -> list[RunDirectory]:
    return [RunDirectory.of(task.config.out, prompt) for prompt in task.request.prompts]


def _missing(directory: RunDirectory) -> Stage | None:
    """Return the first stage that a directory lacks, if it has the stages before and no record."""
    try:
        if directory.record() is not None:
            return None
    except UserError:
        return None
    has = [stage for stage in STAGES if directory.has(stage)]
    missing = next((stage for stage in STAGES if stage not in has), None)
    return missing if has and missing != STAGES[0] else None
