"""Made-up copies of datasets in the layout in which they are unpacked, and videos as sample.py writes them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from show1_jax.cascade.prompts import Prompt
from show1_jax.config.config_file import Config
from show1_jax.config.sampling import STAGES
from show1_jax.evaluation.protocols.ucf101 import class_prompts
from show1_jax.media.frames import from_uint8
from show1_jax.media.stage_files import save_stage
from show1_jax.media.write import write_mp4
from show1_jax.sampling.run_directory import RunDirectory, describe_request
from show1_jax.sampling.run_record import RECORD, Record
from tests.helpers.media_files import encode, moving_square

SIZE = 24, 32
"""Height and width."""
NUM_FRAMES = 20


def write_ucf101(
    folder: Path, counts: Mapping[str, int], *, lists: str = "ucfTrainTestlist", videos: bool = False
) -> Path:
    """Write `UCF-101/CLASS/*.avi` and both lists.

    Args:
        folder: folder of the dataset.
        counts: number of videos of each class.
        lists: name of the folder of the lists.
        videos: encode videos; otherwise the files are empty.
    """
    names = [f"{name}/v_{name}_g{number:02}_c01.avi" for name, count in counts.items() for number in range(count)]
    for number, name in enumerate(names):
        path = folder / "UCF-101" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if videos:
            encode(path, moving_square(NUM_FRAMES + number, *SIZE), "mpeg4", fps=25)
        else:
            path.touch()
    (folder / lists).mkdir()
    numbers = {name: number for number, name in enumerate(class_prompts(), start=1)}
    lines = [f"{name} {numbers[name.partition('/')[0]]}\r\n" for name in names]
    (folder / lists / "trainlist01.txt").write_text("".join(lines), newline="")
    (folder / lists / "testlist01.txt").write_text("".join(f"{name}\r\n" for name in names), newline="")
    return folder


def msrvtt_values(captions: Mapping[str, Sequence[str]], splits: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the content of MSR-VTT's file for the captions of some videos; they are test videos by default."""
    pairs = [(name, text) for name, texts in captions.items() for text in texts]
    return {
        "info": {"year": "2017"},
        "videos": [
            {"id": number, "video_id": name, "category": 3, "split": (splits or {}).get(name, "test")}
            for number, name in enumerate(captions)
        ],
        "sentences": [
            {"sen_id": 140_200 + number, "video_id": name, "caption": text} for number, (name, text) in enumerate(pairs)
        ],
    }


def write_msrvtt(
    folder: Path,
    captions: Mapping[str, Sequence[str]],
    *,
    file: str = "test_videodatainfo.json",
    inner: str = "TestVideo",
    videos: bool = False,
) -> Path:
    """Write MSR-VTT's file and `VIDEO_ID.mp4` in a folder in it; without `videos` the videos are empty files."""
    (folder / inner).mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(json.dumps(msrvtt_values(captions)))
    for number, name in enumerate(captions):
        path = folder / inner / f"{name}.mp4"
        if videos:
            write_mp4(path, moving_square(NUM_FRAMES + number, *SIZE), 30)
        else:
            path.touch()
    return folder


def write_sampled(out: Path, video: Prompt, config: Config | None = None, weights: str = "0") -> RunDirectory:
    """Write the last stage of a video of noise with its record, as sample.py does, without GIF and pictures."""
    run = RunDirectory.of(out, video)
    checkpoint: Mapping[str, str] = {STAGES[-1]: weights}
    request = describe_request(config or Config(), video, precision="float32", checkpoint=checkpoint)
    noise = np.random.default_rng(video.seed).integers(0, 256, (NUM_FRAMES, *SIZE, 3), np.uint8)
    save_stage(run.stage_file(STAGES[-1]), from_uint8(noise), STAGES[-1])
    write_mp4(run.stage_file(STAGES[-1], ".mp4"), noise, 8)
    (run.path / RECORD).write_bytes(Record(request, STAGES, {}).to_bytes())
    return run
