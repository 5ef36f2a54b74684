"""Export of TFDS's own video datasets, such as UCF-101, to the files that `build` reads.

Their features require TensorFlow, the extra `tfds-video`. The exported files and a dataset built from them do not.
"""

import importlib
import re
from pathlib import Path
from typing import Any, Final

import numpy as np

from show1_jax.data.names import one_line
from show1_jax.errors import UserError
from show1_jax.files import check_target, new_folder
from show1_jax.media.write import write_mp4
from show1_jax.progress import track

_NAME: Final = re.compile(r"(?P<name>\w+)(/(?P<config>[\w.+-]+))?(:(?P<version>\d+\.\d+\.\d+))?")


def export(name: str, out: Path, *, fps: float, split: str = "train", data_dir: Path | None = None) -> None:
    """Write every video of a TFDS dataset as an mp4, with its caption, or its class in words, in a `.txt` beside it.

    The dataset is downloaded and prepared if necessary.

    Args:
        name: name of the dataset in TFDS, e.g. "ucf101/ucf101_1".
        out: folder to make.
        fps: frames a second of the videos, which TFDS does not record; 25 for UCF-101.
        split: split of the dataset.
        data_dir: folder of TFDS's datasets; None: the default of TFDS.

    Raises:
        UserError: TensorFlow is missing; the dataset or the split does not exist, or has no videos or captions; `out`
            exists or cannot be written. After an error, `out` contains no partial export.
    """
    check_target(out)
    try:
        importlib.import_module("tensorflow")
    except ImportError as error:
        raise UserError(
            f"TFDS's video datasets need TensorFlow: pip install 'show1-jax[tfds-video]' ({error})"
        ) from None
    import tensorflow_datasets as tfds

    parts = _NAME.fullmatch(name)
    if not parts:
        raise UserError(f"{name!r} is not a TFDS name such as ucf101/ucf101_1; see its catalogue")
    try:  # not `tfds.builder`: it also reads a folder, whose files can name modules to import
        dataset = tfds.builder_cls(parts["name"])(config=parts["config"], version=parts["version"], data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError, AssertionError) as error:
        raise UserError(f"TFDS has no dataset {name} ({str(error).splitlines()[0]}); see its catalogue") from None
    features = dict(dataset.info.features.items())
    text = next((key for key in ("caption", "label") if key in features), None)
    if not isinstance(features.get("video"), tfds.features.Video) or text is None:
        raise UserError(f"{name} has no video with a caption or label, but {', '.join(features)}; choose another")
    dataset.download_and_prepare()
    if split not in dataset.info.splits:
        raise UserError(f"{name} has no split {split}; choose one of {', '.join(dataset.info.splits)}")
    examples = tfds.as_numpy(dataset.as_dataset(split=split))
    with new_folder(out) as folder:
        total = dataset.info.splits[split].num_examples
        for number, example in enumerate(track(examples, "exporting", total, unit=" videos")):
            video = np.broadcast_to(example["video"], (*example["video"].shape[:3], 3))
            write_mp4(folder / f"{number:07}.mp4", video, fps)
            (folder / f"{number:07}.txt").write_text(_words(features[text], example[text]) + "\n", encoding="utf-8")


def _words(feature: Any, value: Any) -> str:
    """Return a caption unchanged, or the name of a class, such as ApplyEyeMakeup, as words."""
    if isinstance(value, bytes):
        return one_line(value.decode(errors="replace"))
    name = str(feature.int2str(int(value)))
    return re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", name).lower()
