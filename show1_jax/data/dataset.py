"""The files of a dataset of `build`, as TFDS writes them, and a reader that trusts none of them.

TFDS is not given a folder to read: it would import the modules that the folder's `features.json` names.
"""

import functools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from show1_jax.data.records import RecordFile, check_path, file_inside
from show1_jax.errors import FileError, UserError
from show1_jax.files import read_json

DATASET: Final = "captioned_videos"
SPLIT: Final = "train"
VERSION: Final = "1.0.0"
MAX_SECONDS: Final = 1e9
LEFT_OUT: Final = "left_out.tsv"
"""Where `build` names what is not in the dataset."""
REBUILD: Final = "build it with `python -m show1_jax.data build`"
_INFO, _FEATURES, _METADATA = "dataset_info.json", "features.json", "metadata.json"
_TEMPLATE: Final = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_SHARD: Final = re.compile(rf"{DATASET}-{SPLIT}\.array_record-\d{{5,}}-of-\d{{5,}}")
_MAX_JSON_BYTES: Final = 16 << 20
_MIN_RECORD_BYTES: Final = 32
"""Less than a record takes in its file."""


@dataclass(frozen=True)
class DatasetFiles:
    """What a dataset's folder holds.

    Attributes:
        shards: the files of its records, in order.
        sha256: of its names, captions and videos, as `build` says.
        shortest_seconds: duration of its shortest video.
    """

    shards: tuple[RecordFile, ...]
    sha256: str
    shortest_seconds: float


@functools.cache
def features() -> Any:
    """Return the TFDS features of a video."""
    import numpy as np
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
        {
            "name": tfds.features.Text(doc="Name of the video, unique."),
            "caption": tfds.features.Text(),
            "video": tfds.features.Tensor(shape=(), dtype=np.object_, doc="The file's bytes."),
            "start": tfds.features.Scalar(np.float64, doc="Time of the first frame on the file's clock, in seconds."),
            "duration": tfds.features.Scalar(np.float64, doc="Seconds until the last frame ends."),
            "fps": tfds.features.Scalar(np.float64, doc="Frames a second, on average."),
        }
    )


def is_dataset(folder: Path) -> bool:
    """Return whether a folder says that `build` made it."""
    try:
        return bool(_read(folder, _INFO)["name"] == DATASET)
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return False


def is_of_dataset(name: str) -> bool:
    """Return whether a file of this name belongs to a dataset."""
    return name in (_INFO, _FEATURES, _METADATA, LEFT_OUT) or bool(_SHARD.fullmatch(name))


def read_dataset(folder: Path) -> DatasetFiles:
    """Read what `build` says of a dataset, and check that its folder holds just that.

    Nothing but the JSON files is read, and these must be what TFDS writes for `features`.

    Raises:
        UserError: there is none, it is damaged, or has features that `build` does not write.
    """
    check_path(folder)
    if not os.path.isdir(folder):
        raise UserError(f"there is no dataset {folder}; {REBUILD}, and give its folder as data.path")
    try:
        if os.path.islink(folder / _INFO):
            file_inside(folder, _INFO)
        if not is_dataset(folder):
            raise UserError(f"{folder} is no dataset of show1_jax; {REBUILD}")
        _check_features(_read(folder, _FEATURES))
        shards = _shards(folder, _read(folder, _INFO))
        sha256, shortest_seconds = _metadata(_read(folder, _METADATA))
    except FileError as error:
        raise UserError(f"the dataset {folder} is damaged ({error.problem}); {REBUILD}") from error
    except OSError as error:
        reason = f"{Path(error.filename or folder).name}: {error.strerror}"
        raise UserError(f"the dataset {folder} is damaged ({reason}); {REBUILD}") from error
    except ValueError as error:
        raise UserError(f"the dataset {folder} is damaged ({error}); {REBUILD}") from error
    return DatasetFiles(shards, sha256, shortest_seconds)


def _read(folder: Path, name: str) -> Any:
    return read_json(file_inside(folder, name), REBUILD, max_bytes=_MAX_JSON_BYTES)


def _feature(kind: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"pythonClassName": f"tensorflow_datasets.core.features.{kind}", **content}


def _tensor(kind: str, dtype: str) -> dict[str, Any]:
    return _feature(kind, {"tensor": {"dtype": dtype, "encoding": "none", "shape": {}}})


_TEXT_FEATURE: Final = _feature("text_feature.Text", {"text": {}})
_NUMBER_FEATURE: Final = _tensor("scalar.Scalar", "float64")
_EXPECTED: Final = {
    "name": _TEXT_FEATURE,
    "caption": _TEXT_FEATURE,
    "video": _tensor("tensor_feature.Tensor", "string"),
    "start": _NUMBER_FEATURE,
    "duration": _NUMBER_FEATURE,
    "fps": _NUMBER_FEATURE,
}
"""The features in `features.json`, without their descriptions."""


def _check_features(found: Any) -> None:
    _require(isinstance(found, dict) and isinstance(found.get("featuresDict"), dict), "no features in features.json")
    each = found["featuresDict"].get("features")
    _require(isinstance(each, dict), "no features in features.json")
    plain = {
        name: {key: value for key, value in feature.items() if key != "description" or not isinstance(value, str)}
        for name, feature in each.items()
        if isinstance(feature, dict)
    }
    expected = _feature("features_dict.FeaturesDict", {"featuresDict": {"features": _EXPECTED}})
    same = found | {"featuresDict": found["featuresDict"] | {"features": plain}} == expected
    _require(same and len(plain) == len(each), "features.json has other features than `build` writes")


def _shards(folder: Path, info: dict[str, Any]) -> tuple[RecordFile, ...]:
    _require(info.get("version") == VERSION, f"dataset_info.json has not the version {VERSION}")
    _require(info.get("fileFormat") == "array_record", "dataset_info.json has not the file format array_record")
    splits: Any = info.get("splits")
    _require(isinstance(splits, list) and len(splits) == 1 and isinstance(splits[0], dict), "it has not one split")
    split = splits[0]
    _require(split.get("name") == SPLIT, f"its split is not {SPLIT}")
    _require(split.get("filepathTemplate") == _TEMPLATE, "dataset_info.json names other files than `build` writes")
    lengths: Any = split.get("shardLengths")
    _require(isinstance(lengths, list) and bool(lengths), "dataset_info.json has no shardLengths")
    shards, num_bytes = [], 0
    for number, length in enumerate(map(_count, lengths)):
        path = file_inside(folder, f"{DATASET}-{SPLIT}.array_record-{number:05}-of-{len(lengths):05}")
        size = path.lstat().st_size
        _require(length * _MIN_RECORD_BYTES <= size, f"{path.name} is too small for its {length} records")
        shards.append(RecordFile(str(path), length))
        num_bytes += size
    expected = num_bytes == _count(split.get("numBytes"))
    _require(expected, "its files do not have the sizes that they were written with")
    return tuple(shards)


def _metadata(found: Any) -> tuple[str, float]:
    _require(isinstance(found, dict), "metadata.json is not an object")
    sha256, seconds = found.get("sha256"), found.get("shortest_seconds")
    _require(isinstance(sha256, str) and bool(re.fullmatch("[0-9a-f]{64}", sha256)), "metadata.json has no sha256")
    is_time = type(seconds) in (int, float) and 0 <= seconds <= MAX_SECONDS
    _require(is_time, "metadata.json has no shortest_seconds")
    return sha256, float(seconds)


def _count(text: Any) -> int:
    """Return a number as Protocol Buffers write it in JSON."""
    _require(isinstance(text, str) and bool(re.fullmatch(r"[0-9]{1,18}", text)), f"{text!r:.40} is no number")
    return int(text)


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)
