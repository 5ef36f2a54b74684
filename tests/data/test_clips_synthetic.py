"""The synthetic world through the functions that training calls, on machines without the video libraries."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from show1_jax.config.training import DataConfig
from show1_jax.data.clips import ClipBatch, training_clips, validation_clips
from show1_jax.data.spec import ClipSpec
from show1_jax.data.synthetic.world import SyntheticWorld
from show1_jax.errors import UserError
from tests.helpers.clip_batches import assert_equal, read_batches

SPEC = ClipSpec(num_frames=3, fps=2, height=10, width=16)
CONFIG = DataConfig(name="synthetic", num_synthetic=10, num_validation=5, seed=3)
BATCH = 4


def batches(config: DataConfig, num: int, rows: range = range(BATCH), spec: ClipSpec = SPEC) -> list[ClipBatch]:
    return read_batches(training_clips(config, spec, batch_size=BATCH, rows=rows), num)


def test_the_world_needs_no_video_libraries() -> None:
    code = (
        "import sys\n"
        "for name in ('av', 'tensorflow_datasets', 'PIL'): sys.modules[name] = None\n"
        "from show1_jax.data.clips import *\n"
        "config = DataConfig(name='synthetic', num_synthetic=4, num_validation=1)\n"
        "spec = ClipSpec(2, 2, 10, 16)\n"
        "clips = training_clips(config, spec, batch_size=2, rows=[0, 1])\n"
        "assert next(clips).video.shape == (2, 2, 10, 16, 3)\n"
        "assert len(list(validation_clips(config, spec, batch_size=1, rows=[0]))) == 1\n"
        "clips.close()\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_clips_are_the_worlds_at_starts_on_the_frame_grid() -> None:
    world = SyntheticWorld(10, 3)
    index_of = {world.caption(index): index for index in range(10)}
    starts = set()
    for batch in batches(CONFIG, 10):
        for clip, caption in zip(batch.video, batch.captions, strict=True):
            possible = [world.clip(index_of[caption], 3, 2, 10, 16, start / 2) for start in range(6)]
            starts |= {start for start in range(6) if np.array_equal(clip, possible[start])}
    assert starts == set(range(6))


def test_keyframes_fit_exactly() -> None:
    (batch,) = batches(CONFIG, 1, spec=ClipSpec(8, 2, 10, 16))
    np.testing.assert_array_equal(batch.video[0][-1], batches(CONFIG, 1, spec=ClipSpec(8, 2, 10, 16))[0].video[0][-1])
    world = SyntheticWorld(10, 3)
    index = [world.caption(index) for index in range(10)].index(batch.captions[0])
    np.testing.assert_array_equal(batch.video[0], world.clip(index, 8, 2, 10, 16, 0.0))
    with pytest.raises(UserError, match="the synthetic world"):
        training_clips(CONFIG, ClipSpec(9, 2, 10, 16), batch_size=1, rows=[0])


def test_processes_workers_and_resuming_change_nothing() -> None:
    whole = batches(CONFIG, 6)
    halves = batches(CONFIG, 6, range(2)), batches(replace(CONFIG, num_workers=1), 6, range(2, 4))
    joined = [
        ClipBatch(np.concatenate([one.video, other.video]), one.captions + other.captions)
        for one, other in zip(*halves, strict=True)
    ]
    assert_equal(joined, whole)
    iterator = training_clips(CONFIG, SPEC, batch_size=BATCH, rows=range(BATCH))
    first = [next(iterator), next(iterator)]
    state = json.loads(json.dumps(iterator.get_state()))
    next(iterator)
    iterator.set_state(state)
    assert_equal([*first, *(next(iterator) for _ in range(4))], whole)
    iterator.close()


def test_workers_live_on_when_the_job_is_asked_to_stop() -> None:
    iterator = training_clips(replace(CONFIG, num_workers=1), SPEC, batch_size=BATCH, rows=range(BATCH))
    next(iterator)
    workers = multiprocessing.active_children()
    assert workers
    for number in (signal.SIGINT, signal.SIGTERM):
        for worker in workers:
            assert worker.pid is not None
            os.kill(worker.pid, number)
    assert len([next(iterator) for _ in range(20)]) == 20
    iterator.close()
    assert not any(worker.is_alive() for worker in workers)


def test_how_many_clips_show_two_things_is_a_setting() -> None:
    config = replace(CONFIG, pairs=1.0)
    captions = [text for batch in batches(config, 5) for text in batch.captions]
    captions += next(iter(validation_clips(config, SPEC, batch_size=8, rows=range(8)))).captions[:5]
    assert all(" and a " in caption for caption in captions)
    usual = training_clips(CONFIG, SPEC, batch_size=BATCH, rows=range(BATCH))
    changed = training_clips(config, SPEC, batch_size=BATCH, rows=range(BATCH))
    assert usual.fingerprint != changed.fingerprint
    usual.close()
    changed.close()


def test_an_epoch_has_every_scene_and_validation_others() -> None:
    captions = [text for batch in batches(CONFIG, 5) for text in batch.captions]
    world = SyntheticWorld(10, 3)
    every = sorted(world.caption(index) for index in range(10))
    assert sorted(captions[:10]) == sorted(captions[10:]) == every
    kept = SyntheticWorld(5, 3, first=10)
    (batch,) = validation_clips(CONFIG, SPEC, batch_size=8, rows=range(8))
    assert batch.captions[:5] == [kept.caption(index) for index in range(5)]
    assert batch.valid.tolist() == [True] * 5 + [False] * 3


def test_too_few_scenes_are_refused() -> None:
    with pytest.raises(UserError, match="10 clips are left to train on"):
        training_clips(CONFIG, SPEC, batch_size=11, rows=[0])
