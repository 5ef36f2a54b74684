"""The cascade against the recorded run of the original, stage by stage and as a whole, in float32."""

import numpy as np
import pytest

from show1_jax.cascade.cascade import Cascade
from show1_jax.cascade.stages import STAGE_TABLE
from show1_jax.config.sampling import STAGES, Stage
from show1_jax.media.frames import to_uint8
from tests.helpers.recorded import NAMES, RecordedRun, relative_error

pytestmark = pytest.mark.usefixtures("_compiled_as_shipped")
TOLERANCE: dict[Stage, float] = dict.fromkeys(STAGES, 1e-4) | {"superres_pixel": 1e-3}


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_from_recorded_inputs(cascade: Cascade, run: RecordedRun, stage: Stage) -> None:
    videos = cascade.sample(
        [run.settings["prompt"]],
        stages=[stage],
        given={needed: run.stage(needed) for needed in STAGE_TABLE[stage].inputs},
        noise=run.noise,
    )
    assert relative_error(videos[stage], run.stage(stage)) <= TOLERANCE[stage]


def test_whole_cascade(cascade: Cascade, run: RecordedRun) -> None:
    videos = cascade.sample([run.settings["prompt"]], noise=run.noise)
    assert list(videos) == list(NAMES)
    difference = np.abs(to_uint8(videos["superres_latent"][0]).astype(int) - run.trace["stage/final_uint8"])
    assert difference.mean() <= 0.05
    assert (difference <= 1).mean() >= 0.999
