"""The files of a dataset that `build` wrote with TFDS, and a reader that does not trust them.

TFDS itself must not read a dataset's folder: it would import the modules that the folder's `features.json` names.
"""

import functools
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from show1_jax.data.records import RecordFile, file_inside
from show1_jax.data.transfer.record import RECORD
from show1_jax.errors import FileError, UserError
from show1_jax.files import check_utf8_path, read_json

DATASET: Final = "captioned_videos"
SPLIT: Final = "train"
VERSION: Final = "1.0.0"
MAX_SECONDS: Final = 1e9
LEFT_OUT: Final = "left_out.tsv"
"""File in which `build` lists the files and table rows that are not in the dataset."""
REBUILD: Final = "build it with `python -m show1_jax.data build`"
_INFO, _FEATURES, _METADATA = "dataset_info.json", "features.json", "metadata.json"
_TEMPLATE: Final = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_SHARD: Final = re.compile(rf"{DATASET}-{SPLIT}\.array_record-\d{{5,}}-of-\d{{5,}}")
_MAX_JSON_BYTES: Final = 16 << 20
_MIN_RECORD_BYTES: Final = 32
"""Lower bound of the bytes that a record takes in its file."""
_IMPORTING: Final = threading.Lock()


@dataclass(frozen=True)
class DatasetFiles:
    """Contents of a dataset's folder.

    Attributes:
        shards: files of the records, in order.
        sha256: hash of the names, captions and videos, as recorded by `build`.
        shortest_seconds: duration of the shortest video.
    """

    shards: tuple[RecordFile, ...]
    sha256: str
    shortest_seconds: float


def features() -> Any:
    """Return the TFDS features of a video.

    Only one thread imports TFDS: its lazy imports in two threads wait for each other forever in Python 3.11.
    """
    with _IMPORTING:
        return _features()


@functools.cache
def _features() -> Any:
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
    """Return whether the files of a folder say that `build` wrote it."""
    try:
        return bool(_read_json_file(folder, _INFO)["name"] == DATASET)
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return False


def is_of_dataset(name: str) -> bool:
    """Return whether a dataset's folder contains files of this name."""
    return name in (_INFO, _FEATURES, _METADATA, LEFT_OUT, RECORD) or bool(_SHARD.fullmatch(name))


def read_dataset(folder: Path) -> DatasetFiles:
    """Read the JSON files of a dataset, and check that its record files match them.

    No other file is read. The JSON files must have the content that TFDS writes for `features`.

    Raises:
        UserError: the dataset does not exist, is damaged, or has features that `build` does not write.
    """
    check_utf8_path(folder)
    if not os.path.isdir(folder):
        raise UserError(f"there is no dataset {folder}; {REBUILD}, and give its folder as data.path")
    try:
        if os.path.islink(folder / _INFO):
            file_inside(folder, _INFO)
        if not is_dataset(folder):
            raise UserError(f"{folder} is not a dataset of show1_jax; {REBUILD}")
        _check_features(_read_json_file(folder, _FEATURES))
        shards = _record_files(folder, _read_json_file(folder, _INFO))
        sha256, shortest_seconds = _parse_metadata(_read_json_file(folder, _METADATA))
    except FileError as error:
        raise UserError(f"the dataset {folder} is damaged ({error.problem}); {REBUILD}") from error
    except OSError as error:
        reason = f"{Path(error.filename or folder).name}: {error.strerror}"
        raise UserError(f"the dataset {folder} is damaged ({reason}); {REBUILD}") from error
    except ValueError as error:
        raise UserError(f"the dataset {folder} is damaged ({error}); {REBUILD}") from error
    return DatasetFiles(shards, sha256, shortest_seconds)


def _read_json_file(folder: Path, name: str) -> Any:
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
    _refuse_unless(
        isinstance(found, dict) and isinstance(found.get("featuresDict"), dict), "no features in features.json"
    )
    each = found["featuresDict"].get("features")
    _refuse_unless(isinstance(each, dict), "no features in features.json")
    plain = {
        name: {key: value for key, value in feature.items() if key != "description" or not isinstance(value, str)}
        for name, feature in each.items()
        if isinstance(feature, dict)
    }
    expected = _feature("features_dict.FeaturesDict", {"featuresDict": {"features": _EXPECTED}})
    same = found | {"featuresDict": found["featuresDict"] | {"features": plain}} == expected
    _refuse_unless(same and len(plain) == len(each), "features.json has other features than `build` writes")


def _record_files(folder: Path, info: dict[str, Any]) -> tuple[RecordFile, ...]:
    _refuse_unless(info.get("version") == VERSION, f"the version in dataset_info.json is not {VERSION}")
    _refuse_unless(info.get("fileFormat") == "array_record", "the file format in dataset_info.json is not array_record")
    splits: Any = info.get("splits")
    _refuse_unless(
        isinstance(splits, list) and len(splits) == 1 and isinstance(splits[0], dict), "it must have one split"
    )
    split = splits[0]
    _refuse_unless(split.get("name") == SPLIT, f"its split is not {SPLIT}")
    _refuse_unless(
        split.get("filepathTemplate") == _TEMPLATE, "dataset_info.json names other files than `build` writes"
    )
    lengths: Any = split.get("shardLengths")
    _refuse_unless(isinstance(lengths, list) and bool(lengths), "dataset_info.json has no shardLengths")
    shards, num_bytes = [], 0
    for number, length in enumerate(map(_count, lengths)):
        path = file_inside(folder, f"{DATASET}-{SPLIT}.array_record-{number:05}-of-{len(lengths):05}")
        size = path.lstat().st_size
        _refuse_unless(length * _MIN_RECORD_BYTES <= size, f"{path.name} is too small for its {length} records")
        shards.append(RecordFile(str(path), length))
        num_bytes += size
    expected = num_bytes == _count(split.get("numBytes"))
    _refuse_unless(expected, "the sizes of its files have changed")
    return tuple(shards)


def _parse_metadata(found: Any) -> tuple[str, float]:
    _refuse_unless(isinstance(found, dict), "metadata.json is not an object")
    sha256, seconds = found.get("sha256"), found.get("shortest_seconds")
    _refuse_unless(
        isinstance(sha256, str) and bool(re.fullmatch("[0-9a-f]{64}", sha256)), "metadata.json has no sha256"
    )
    is_time = type(seconds) in (int, float) and 0 <= seconds <= MAX_SECONDS
    _refuse_unless(is_time, "metadata.json has no shortest_seconds")
    return sha256, float(seconds)


def _count(text: Any) -> int:
    """Return the number in a string, which is how Protocol Buffers write 64-bit integers in JSON."""
    _refuse_unless(isinstance(text, str) and bool(re.fullmatch(r"[0-9]{1,18}", text)), f"{text!r:.40} is not a number")
    return int(text)


def _refuse_unless(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)
