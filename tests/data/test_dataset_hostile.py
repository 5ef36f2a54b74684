"""Untrusted datasets: no code of them runs, and no content of them causes a traceback."""

import copy
import functools
import json
import math
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from show1_jax.config.training import DataConfig
from show1_jax.data import decode, videos
from show1_jax.data import records as data_records
from show1_jax.data.__main__ import main
from show1_jax.data.building import builder
from show1_jax.data.clips import training_clips
from show1_jax.data.dataset import features, is_dataset, read_dataset
from show1_jax.data.failures import VideoError
from show1_jax.data.names import MAX_CAPTION
from show1_jax.data.records import RecordFile, Records, too_large
from show1_jax.data.spec import ClipDraw, ClipSpec
from show1_jax.data.videos import VideoSource
from show1_jax.errors import UserError
from show1_jax.media.write import write_mp4

SHARD = "captioned_videos-train.array_record-00000-of-00001"
SPEC, DRAW = ClipSpec(num_frames=2, fps=2, height=8, width=8), ClipDraw(0.5, 0.5)
JSON_FILES = ("features.json", "dataset_info.json", "metadata.json")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset of three videos."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "videos").mkdir()
    write_mp4(folder / "videos/a.mp4", np.zeros((33, 16, 16, 3), np.uint8), 8)
    for name in ("a", "b", "c"):
        if name != "a":
            shutil.copy(folder / "videos/a.mp4", folder / f"videos/{name}.mp4")
        (folder / f"videos/{name}.txt").write_text(f"caption {name}")
    builder.build(folder / "videos", folder / "dataset")
    return folder / "dataset"


@pytest.fixture
def dataset(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "dataset"))


def change(folder: Path, name: str, edit: Callable[[Any], Any]) -> None:
    value = json.loads((folder / name).read_text())
    edited = edit(value)
    (folder / name).write_text(json.dumps(value if edited is None else edited))


def refusal(folder: Path) -> str:
    """Return the error line with which training refuses a dataset."""
    with pytest.raises(UserError) as raised:
        training_clips(DataConfig(path=str(folder), num_validation=1), SPEC, batch_size=1, rows=[0])
    assert "\n" not in str(raised.value)
    return str(raised.value)


# Code

EVIL = "evil_features_module"
NAMED = f"{EVIL}.Feature"
TEXT = {"pythonClassName": NAMED, "text": {}}
LEGACY = {"type": NAMED, "content": {}, "proto_cls": ""}


def of_features(found: dict[str, Any]) -> dict[str, Any]:
    features: dict[str, Any] = found["featuresDict"]["features"]
    return features


EVIL_FEATURES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "root": lambda found: found.update(pythonClassName=NAMED),
    "caption": lambda found: of_features(found)["caption"].update(pythonClassName=NAMED),
    "one_more": lambda found: of_features(found).update(more=TEXT),
    "in_a_sequence": lambda found: of_features(found).update(
        caption={
            "pythonClassName": "tensorflow_datasets.core.features.sequence_feature.Sequence",
            "sequence": {"feature": TEXT, "length": "-1"},
        }
    ),
    "snake_case": lambda found: of_features(found)["video"].update(python_class_name=NAMED),
    "legacy": lambda found: LEGACY,
    "legacy_inside": lambda found: {
        "type": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
        "content": {"caption": LEGACY},
    },
    "proto_cls": lambda found: LEGACY | {"proto_cls": f"{EVIL}.Feature", "content": "{}"},
    "both_forms": lambda found: found.update(LEGACY),
    "json_feature": lambda found: of_features(found).update(
        caption={"pythonClassName": NAMED, "jsonFeature": {"json": "{}"}}
    ),
}


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of a file that exists once the evil module, which Python can find, was imported."""
    marker = tmp_path / "it_ran"
    (tmp_path / f"{EVIL}.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, EVIL, raising=False)
    return marker


@pytest.mark.parametrize("spelling", EVIL_FEATURES)
def test_no_module_is_imported_that_a_dataset_names(dataset: Path, marker: Path, spelling: str) -> None:
    change(dataset, "features.json", EVIL_FEATURES[spelling])
    assert "features.json" in refusal(dataset)
    assert not marker.exists()
    assert EVIL not in sys.modules


def test_the_command_that_encodes_captions_imports_none(
    dataset: Path, marker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(dataset, "features.json", EVIL_FEATURES["caption"])
    arguments = ["--checkpoint", str(tmp_path), "--component", "text_t5", "--out", str(tmp_path / "out")]
    assert main(["encode_text", *arguments, "--data", str(dataset)]) == 2
    assert "features.json has other features than `build` writes" in capsys.readouterr().err
    assert not marker.exists()


def test_the_module_of_the_builder_is_not_imported(dataset: Path, marker: Path) -> None:
    change(dataset, "dataset_info.json", lambda info: info.update(moduleName=EVIL, configName="x"))
    shutil.copy(marker.parent / f"{EVIL}.py", dataset / "captioned_videos.py")
    assert len(VideoSource.open(dataset)) == 3
    assert not marker.exists()


def test_exporting_imports_no_module_that_a_folder_names(
    dataset: Path, marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", type(sys)("tensorflow"))
    change(dataset, "features.json", EVIL_FEATURES["caption"])
    change(dataset, "dataset_info.json", lambda info: info.update(name="shared_videos"))
    shutil.copytree(dataset, tmp_path / "data/shared_videos/1.0.0")
    data = ["--fps", "25", "--out", str(tmp_path / "out"), "--data_dir", str(tmp_path / "data")]
    for name in ("shared_videos", "shared_videos:1.0.0", "shared_videos/x", "mnist:1.0.0", "kaggle:x", "../data", ""):
        assert main(["export", name, *data]) == 2
        assert "catalogue" in capsys.readouterr().err
    assert not marker.exists()


# Files


@pytest.mark.parametrize("name", [*JSON_FILES, SHARD])
@pytest.mark.parametrize("swap", ["link", "loop", "fifo", "folder", "device", "gone"])
def test_only_files_of_the_folder_itself_are_read(dataset: Path, tmp_path: Path, name: str, swap: str) -> None:
    path = dataset / name
    os.rename(path, tmp_path / "elsewhere")
    swaps: dict[str, Callable[[], None]] = {
        "link": lambda: path.symlink_to(tmp_path / "elsewhere"),
        "loop": lambda: path.symlink_to(path.name),
        "fifo": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "device": lambda: path.symlink_to("/dev/zero"),
        "gone": lambda: None,
    }
    swaps[swap]()
    message = refusal(dataset)
    assert "is not a dataset of show1_jax" in message or f"is damaged ({name}" in message


@pytest.mark.parametrize(
    "edit",
    [
        lambda info: info.update(fileFormat="tfrecord"),
        lambda info: info.update(version="2.0.0"),
        lambda info: info.update(splits=None),
        lambda info: info["splits"].append(info["splits"][0]),
        lambda info: info["splits"][0].update(name="../../train"),
        lambda info: info["splits"][0].update(filepathTemplate="/etc/{DATASET}"),
        lambda info: info["splits"][0].update(shardLengths=["3", "3"]),
        lambda info: info["splits"][0].update(shardLengths=[str(10**15)]),
        lambda info: info["splits"][0].update(shardLengths=["-1"]),
        lambda info: info["splits"][0].update(shardLengths=[3]),
        lambda info: info["splits"][0].update(shardLengths={}),
        lambda info: info["splits"][0].update(numBytes="1"),
        lambda info: {"name": "captioned_videos"},
    ],
)
def test_other_records_than_built_ones_are_refused(dataset: Path, edit: Callable[[Any], Any]) -> None:
    change(dataset, "dataset_info.json", edit)
    assert "is damaged (" in refusal(dataset)


@pytest.mark.parametrize(
    "metadata",
    [
        {"sha256": 3, "shortest_seconds": 4.0},
        {"sha256": "x" * 64, "shortest_seconds": 4.0},
        {"sha256": "0" * 64, "shortest_seconds": math.nan},
        {"sha256": "0" * 64, "shortest_seconds": math.inf},
        {"sha256": "0" * 64, "shortest_seconds": -1},
        {"sha256": "0" * 64, "shortest_seconds": True},
        {"sha256": "0" * 64, "shortest_seconds": 10**400},
        {"sha256": "0" * 64},
        [],
    ],
)
def test_other_metadata_than_built_ones_are_refused(dataset: Path, metadata: Any) -> None:
    change(dataset, "metadata.json", lambda _: metadata)
    assert "is damaged (metadata.json" in refusal(dataset)


@given(st.data())
@settings(max_examples=200)
def test_any_json_is_a_dataset_or_refused(built: Path, tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    folder = tmp_path_factory.mktemp("any")
    for path in built.iterdir():
        os.link(path, folder / path.name)
    name = data.draw(st.sampled_from(JSON_FILES))
    value = json.loads((built / name).read_text())
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=4,
    )
    edited = replace_one(value, data.draw(st.integers(0, 30)), data.draw(values))
    (folder / name).unlink()
    (folder / name).write_text(json.dumps(edited))
    try:
        read_dataset(folder)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017


def replace_one(value: Any, number: int, new: Any) -> Any:
    """Replace the value at one position of a JSON document, counted over all positions."""
    places: list[tuple[Any, Any]] = []

    def walk(inner: Any) -> None:
        for key in list(inner) if isinstance(inner, dict) else range(len(inner)) if isinstance(inner, list) else ():
            places.append((inner, key))
            walk(inner[key])

    edited = copy.deepcopy(value)
    walk(edited)
    inner, key = places[number % len(places)]
    inner[key] = new
    return edited


def test_what_another_tfds_writes_about_a_feature_is_no_difference(dataset: Path) -> None:
    """Descriptions are free text; those of older datasets call a video an mp4."""
    change(dataset, "features.json", lambda found: of_features(found)["video"].update(description="The mp4 file."))
    assert len(VideoSource.open(dataset)) == 3


# Records

VIDEO = {"name": "a", "caption": "a caption", "video": b"no video", "start": 0.0, "duration": 4.0, "fps": 8.0}


def source_of(path: Path, *records: bytes) -> VideoSource:
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    all_records = Records([RecordFile(str(path), len(records))], videos._MAX_RECORD_BYTES)
    return VideoSource(all_records, range(len(records)), "0" * 64, 4.0)


def example(**fields: Any) -> bytes:
    """Return a tf.Example with any lists of values, or without a field."""
    from tensorflow_datasets.proto import tf_example_pb2

    message = tf_example_pb2.Example.FromString(features().serialize_example(VIDEO))
    for name, value in fields.items():
        if value is None:
            del message.features.feature[name]
        elif isinstance(value, list):
            message.features.feature[name].bytes_list.value[:] = value
        elif isinstance(value, float):
            message.features.feature[name].float_list.value[:] = [value]
        else:
            message.features.feature[name].int64_list.value[:] = [value]
    data: bytes = message.SerializeToString()
    return data


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (b"noise", "its record is damaged"),
        (b"", "its record is damaged"),
        (functools.partial(example, caption=None), "its record is damaged"),
        (functools.partial(example, duration=None), "its record is damaged"),
        (functools.partial(example, caption=[b"caf\xe9"]), "a text is not UTF-8"),
        (functools.partial(example, name=[b"\xff"]), "a text is not UTF-8"),
        (functools.partial(example, caption=[b"a", b"b"]), "its record is damaged"),
        (functools.partial(example, caption=[]), "its record is damaged"),
        (functools.partial(example, caption=[b"x" * (MAX_CAPTION + 1)]), "its caption has more than 10,000"),
        (functools.partial(example, video=7), "its record is damaged: no video"),
        (functools.partial(example, duration=math.nan), "the duration is nan"),
        (functools.partial(example, duration=math.inf), "the duration is inf"),
        (functools.partial(example, start=1e30), "the start is 1"),
        (functools.partial(example, start=-math.inf), "the start is -inf"),
        (functools.partial(example, duration=[b"four"]), "its record is damaged"),
        (functools.partial(example), "Invalid data"),
        (functools.partial(example, duration=-5.0), "Invalid data"),
    ],
)
def test_a_record_that_was_not_built_is_a_video_that_cannot_be_read(
    tmp_path: Path, record: bytes | Callable[[], bytes], says: str
) -> None:
    source = source_of(tmp_path / "shard", record if isinstance(record, bytes) else record())
    with pytest.raises(VideoError, match=says) as raised:
        source.clip(0, SPEC, DRAW)
    assert "\n" not in str(raised.value)
    assert source.name(0).isprintable()
    assert all(len(caption) <= MAX_CAPTION for caption in source.captions())


def test_a_decoder_that_raises_anything_is_a_video_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OverflowError("Python int too large\nto convert")

    monkeypatch.setattr(decode, "each_frame_at", fail)
    with pytest.raises(VideoError, match="cannot be decoded: OverflowError: Python int too large to convert"):
        source_of(tmp_path / "shard", example()).clip(0, SPEC, DRAW)


def test_a_name_is_one_printable_line(tmp_path: Path) -> None:
    source = source_of(tmp_path / "shard", example(name=[b"\x1b[2J\n" + b"x" * 5000]))
    assert source.name(0).isprintable()
    assert len(source.name(0)) < 250


def test_a_record_that_would_fill_the_memory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros are compressed to a thousandth; the other records are still read."""
    monkeypatch.setattr(videos, "_MAX_RECORD_BYTES", 1 << 20)
    source = source_of(tmp_path / "shard", example(), bytes(8 << 20), example(), bytes(1 << 20))
    assert (tmp_path / "shard").stat().st_size < 1 << 18
    messages = {}
    for position in range(4):
        with pytest.raises(VideoError) as raised:
            source.clip(position, SPEC, DRAW)
        messages[source._index(position)] = str(raised.value)
    assert messages[1] == "its record is damaged: it declares more than 1,048,576 bytes"
    assert all("declares" not in messages[index] for index in (0, 2, 3))


def test_sizes_are_found_in_files_of_many_blocks(tmp_path: Path) -> None:
    """With chunk headers that block headers interrupt, and with tiny records."""
    rng = random.Random(0)
    sizes = [rng.choice([0, 1, 30, 1000, 70_000]) for _ in range(600)]
    for number in (100, 300, 599):
        sizes[number] = 100_000 + number
    source = source_of(tmp_path / "shard", *map(rng.randbytes, sizes))
    file = RecordFile(str(tmp_path / "shard"), len(sizes))
    assert [len(source.records[index]) for index in range(len(sizes))] == sizes
    for number in range(-1, 600, 7):
        limit = 100_000 + number
        assert too_large(file, limit) == {index for index, size in enumerate(sizes) if size > limit}
    source.records.check_counts()


def test_a_file_with_an_index_that_would_fill_the_memory_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source_of(tmp_path / "shard", *[b""] * 500)
    file = RecordFile(str(tmp_path / "shard"), 500)
    assert too_large(file, 0) == set()
    with pytest.raises(ValueError, match="more records than 100"):
        too_large(RecordFile(file.filename, 100), 0)
    monkeypatch.setattr(data_records, "_INDEX_BYTES", 1)
    with pytest.raises(ValueError, match=r"declares an index of 3,\d{3} bytes"):
        too_large(file, 0)


def test_damage_in_a_file_costs_no_record_that_is_whole(tmp_path: Path) -> None:
    rng = random.Random(0)
    contents = [rng.randbytes(2000) for _ in range(100)]
    source_of(tmp_path / "whole", *contents)
    whole = (tmp_path / "whole").read_bytes()
    for seed in range(60):
        rng = random.Random(seed)
        data = bytearray(whole)
        place = rng.randrange(len(data) // 2)
        data[place : place + 10] = rng.randbytes(10)
        (tmp_path / "damaged").write_bytes(data)
        records = Records([RecordFile(str(tmp_path / "damaged"), 100)], 4000)
        lost = 0
        for index, content in enumerate(contents):
            try:
                assert records[index] == content
            except Exception:  # ArrayRecord raises many types
                lost += 1
        assert lost <= 2


def test_is_dataset_trusts_no_file(tmp_path: Path) -> None:
    for content in ("[" * 100_000, '{"name": ["captioned_videos"]}', "[1]", "3", '{"name": 1e400}', "\x00"):
        (tmp_path / "dataset_info.json").write_text(content)
        assert not is_dataset(tmp_path)
    (tmp_path / "dataset_info.json").unlink()
    os.mkfifo(tmp_path / "dataset_info.json")
    assert not is_dataset(tmp_path)
