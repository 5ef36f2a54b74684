"""URLs in every flag and setting that is a path: supported, or refused in one line, and never a local folder `gs:`."""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

import pytest

from convert import __main__ as convert
from convert.released import RELEASED_STAGES
from show1_jax.commands import sample, train
from show1_jax.config.config_file import Config
from show1_jax.config.training import TRAINED_STAGES
from show1_jax.data import __main__ as data
from show1_jax.errors import UserError
from show1_jax.evaluation import __main__ as evaluation
from show1_jax.evaluation.demo_world import alignment
from show1_jax.evaluation.protocols import command as protocols
from show1_jax.evaluation.scoring import score
from show1_jax.training import caption_encoders
from show1_jax.web import __main__ as web
from tests.helpers.buckets import BUCKET
from tests.helpers.gcs_server import GcsServer

ROOT: Final = Path(__file__).parent.parent
DEMO: Final = ["--config", str(ROOT / "configs/demo.py"), "--config.compilation_cache="]
OTHER_URLS: Final = ("hdfs://host/x", "gs:/bucket/x")
FILES, BUCKETS = "on a file system", "may be in a bucket"


def score_videos(arguments: list[str]) -> None:
    score(evaluation._request(evaluation._make_parser().parse_args(arguments)))


def run_protocol(arguments: list[str]) -> None:
    parsed = protocols._make_parser().parse_args(arguments)
    parsed.run(parsed)


RUN: Final[dict[str, Callable[[list[str]], object]]] = {
    "sample": lambda arguments: sample.sample(["sample.py", *DEMO, *arguments]),
    "train": lambda arguments: train.train(["train.py", *DEMO, *arguments]),
    "web": lambda arguments: web.run(["web", *DEMO, *arguments]),
    "data": data._run,
    "convert": convert._run,
    "evaluation": score_videos,
    "protocols": run_protocol,
    "alignment": alignment._main,
    "caption_encoders": caption_encoders.main,
}


class Place(NamedTuple):
    """A flag or an argument that is a path.

    Attributes:
        command: key of `RUN`.
        flag: its name; that of an argument without a flag is in capitals.
        kind: `FILES` or `BUCKETS`.
        words: subcommand and flags that are needed to have the path checked.
    """

    command: str
    flag: str
    kind: str
    words: tuple[str, ...] = ()

    def name(self) -> str:
        """Return the name of the tests."""
        return " ".join([self.command, *self.words[:1], self.flag])

    def run(self, url: str) -> None:
        """Run the command with a URL in this place."""
        own = [url] if self.flag.isupper() else [f"{self.flag}={url}"]
        RUN[self.command]([*self.words, *own])


def places(command: str, kind: str, flags: str, *words: str) -> list[Place]:
    return [Place(command, flag, kind, words) for flag in flags.split()]


CHECKPOINT: Final = str(ROOT / "checkpoints/demo")
PLACES: Final = [
    *places("sample", BUCKETS, "--out --config.out --checkpoint --config.checkpoint --prompts --image"),
    *places("sample", BUCKETS, "--adapter --config.adapter"),
    *places("sample", BUCKETS, "--video", "--from_stage=interpolation"),
    *places("sample", FILES, "--config"),
    *places("train", BUCKETS, "--workdir", "--stage=keyframes"),
    *places("train", BUCKETS, "--checkpoint --config.train.data.path --config.train.text.cache"),
    *places("train", BUCKETS, " ".join(f"--config.train.{stage}.init" for stage in TRAINED_STAGES)),
    *places("train", FILES, "--config --config.train.data.local_copies --config.train.text.local_copies"),
    *places("train", BUCKETS, "--config.train.data.path", "--config.train.data.name=files"),
    *places("web", FILES, "--out --config"),
    *places("web", BUCKETS, "--checkpoint"),
    *places("data", BUCKETS, "--out", "build"),
    *places("data", FILES, "--videos --captions", "build"),
    *places("data", FILES, "--out --data_dir", "export"),
    *places("data", BUCKETS, "--checkpoint --out --data", "encode_text"),
    *places("data", FILES, "--captions --local_copies", "encode_text"),
    *places("data", BUCKETS, "--out", "upload"),
    *places("data", FILES, "FOLDER", "upload"),
    *places("convert", FILES, "--from --config", "--out=x"),
    *places("convert", BUCKETS, "--out"),
    *places("convert", FILES, "--keyframes", "--out=x", "--stages=keyframes"),
    *places("convert", FILES, "--keyframes", "inflate", "--out=x"),
    *places("convert", BUCKETS, "--out", "inflate", "--keyframes=x"),
    *places("convert", BUCKETS, "CHECKPOINT", "merge", "--out=x"),
    *places("convert", BUCKETS, "--adapter", "merge", CHECKPOINT, "--out=x"),
    *places("convert", FILES, "--config", "merge", CHECKPOINT, "--out=x"),
    *places("convert", BUCKETS, "--out", "merge", CHECKPOINT),
    *places("convert", BUCKETS, "CHECKPOINT", "export", "--out=x"),
    *places("convert", BUCKETS, "--adapter", "export", CHECKPOINT, "--out=x"),
    *places("convert", FILES, "--out", "export"),
    *places("convert", BUCKETS, "--checkpoint", "import"),
    *places("convert", FILES, "SOURCE", "import"),
    *places("convert", BUCKETS, "--out", "import"),
    *places("convert", FILES, "--from", "features"),
    *places("convert", BUCKETS, "--out", "features"),
    *places("convert", BUCKETS, "CHECKPOINT", "verify"),
    *places("convert", FILES, "CHECKPOINT --contact_sheet", "card"),
    *places("convert", FILES, "CHECKPOINT", "push"),
    *places("convert", FILES, "CHECKPOINT", "upload"),
    *places("convert", BUCKETS, "--out", "upload"),
    *places("evaluation", BUCKETS, "--videos --reference --out --features", "fvd"),
    *places("evaluation", BUCKETS, "--captions", "clipsim"),
    *places("evaluation", BUCKETS, "--weights", "clipsim", "--videos=."),
    *places("evaluation", FILES, "--local_copies", "fvd"),
    *places("protocols", FILES, "--data --out", "ucf101", "prompts"),
    *places("protocols", FILES, "--data --samples", "ucf101", "score"),
    *places("alignment", FILES, "--out --config", *DEMO[:2], "--out=x"),
    *places("alignment", BUCKETS, "--checkpoint", *DEMO[:2], "--out=x"),
    *places("caption_encoders", FILES, "--out --config", *DEMO[:2], "--out=x"),
]
NOT_PATHS: Final = {
    *("--prompt", "--negative_prompt", "--shard", "--stage", "--stages", "--from_stage", "--devices", "--profile"),
    *("--wandb", "--host", "--coordinator_address", "--name", "--split", "--component", "--licence", "--variant"),
    *("--revision", "--message", "--metrics", "--kinds", "--classes", "NAME", "OWNER/NAME"),
    *("--config.negative_prompt", "--config.train.default_stage", "--config.train.data.caption"),
    *(f"--config.train.{stage}.{name}" for stage in TRAINED_STAGES for name in ("trainable", "lora.layers")),
}
"""Flags, arguments and settings of text that is no path."""
ELSEWHERE: Final = {
    "--config.compilation_cache",  # only a warning: tests/test_runtime_compilation_cache.py
    *(f"--{stage.name}" for stage in RELEASED_STAGES.values()),  # as --keyframes
    *("DIR", "FILE"),  # in the help, of FOLDER and SOURCE
    "--captions",  # of `protocols`, a name; the others are above
    *("--weights", "--config", "--adapter"),  # of `protocols` and `web`, read after other files; the others are above
}
PARSERS: Final[dict[str, Callable[[], list[argparse.ArgumentParser]]]] = {
    "data": lambda: [data._make_data_parser()],
    "convert": lambda: [getattr(convert, name)() for name in dir(convert) if name.endswith("_parser")],
    "evaluation": lambda: [evaluation._make_parser()],
    "protocols": lambda: [protocols._make_parser()],
    "alignment": lambda: [alignment._parser()],
}


def texts_of(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the flags and arguments of a parser and of its subcommands, without numbers, choices and switches."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from texts_of(subparser)
        elif action.nargs != 0 and action.choices is None and not is_number(action.type):
            yield action.option_strings[-1] if action.option_strings else str(action.metavar or action.dest.upper())


def is_number(parse: Any) -> bool:
    return parse in (int, float) or getattr(parse, "__qualname__", "").startswith("number_between")


def text_settings(settings: Any, prefix: str) -> Iterator[str]:
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from text_settings(value, f"{prefix}{field.name}.")
        elif field.type is str:
            yield f"{prefix}{field.name}"


@pytest.mark.parametrize("command", PARSERS)
def test_every_argument_of_a_command_is_in_the_table(command: str) -> None:
    listed = {place.flag for place in PLACES if place.command == command} | NOT_PATHS | ELSEWHERE
    assert not {name for parser in PARSERS[command]() for name in texts_of(parser)} - listed


@pytest.mark.parametrize(("command", "module"), [("sample", sample), ("train", train), ("web", web)])
def test_every_flag_and_setting_is_in_the_table(command: str, module: Any) -> None:
    values = module.define_flags()
    texts = {f"--{name}" for name in values if values[name].flag_type() in ("string", "multi string")}
    listed = {place.flag for place in PLACES if place.command == command} | NOT_PATHS | ELSEWHERE
    assert not texts - listed
    settings = {place.flag for place in PLACES} | NOT_PATHS | ELSEWHERE
    assert not set(text_settings(Config(), "--config.")) - settings


def refusal(place: Place, url: str, folder: Path) -> str:
    """Return the line of a refused URL; the command must leave nothing in the working directory."""
    with pytest.raises(UserError) as raised:
        place.run(url)
    assert "\n" not in str(raised.value)
    assert not any(folder.iterdir())
    return str(raised.value)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "gradio", ModuleType("gradio"))  # it takes seconds to import


@pytest.mark.parametrize("place", [place for place in PLACES if place.kind == FILES], ids=Place.name)
@pytest.mark.parametrize("url", ["gs://bucket/x", "s3://bucket/x"])
def test_a_bucket_is_refused_where_files_are_needed(place: Place, url: str, tmp_path: Path) -> None:
    assert f"{url}: buckets and URLs are not supported here" in refusal(place, url, tmp_path)


@pytest.mark.parametrize("place", [place for place in PLACES if place.kind == BUCKETS], ids=Place.name)
@pytest.mark.parametrize("url", OTHER_URLS)
def test_other_urls_are_refused_where_buckets_are_read(place: Place, url: str, tmp_path: Path) -> None:
    assert f"{url}: not a URL that is supported" in refusal(place, url, tmp_path)


READ: Final = [
    *places("sample", BUCKETS, "--checkpoint --adapter --image"),
    *places("sample", BUCKETS, "--video", "--from_stage=interpolation"),
    *places("train", BUCKETS, "--checkpoint", "--stage=interpolation", "--workdir=run"),
    *places(
        "train",
        BUCKETS,
        "--config.train.data.path",
        "--stage=autoencoder",
        "--workdir=run",
        "--config.train.data.name=videos",
    ),
    *places("train", BUCKETS, "--config.train.interpolation.init", "--stage=interpolation", "--workdir=run"),
    *places("data", BUCKETS, "--checkpoint", "encode_text", "--component=text_t5", "--synthetic=1", "--out=x"),
    *places("data", BUCKETS, "--data", "encode_text", f"--checkpoint={CHECKPOINT}", "--component=text_t5", "--out=x"),
    *places("convert", BUCKETS, "CHECKPOINT", "merge", "--out=x"),
    *places("convert", BUCKETS, "--adapter", "merge", CHECKPOINT, "--out=x"),
    *places("convert", BUCKETS, "CHECKPOINT", "export", "--out=x"),
    *places("convert", BUCKETS, "--adapter", "export", CHECKPOINT, "--out=x"),
    *places("convert", BUCKETS, "CHECKPOINT", "verify"),
    *places("evaluation", BUCKETS, "--videos", "flicker"),
    *places("evaluation", BUCKETS, "--reference", "fvd", "--videos=.", "--weights=w"),
]


@pytest.mark.parametrize("place", READ, ids=Place.name)
def test_what_is_not_in_the_bucket_is_one_line(place: Place, gcs: GcsServer, tmp_path: Path) -> None:
    assert f"gs://{BUCKET}/none" in refusal(place, f"gs://{BUCKET}/none", tmp_path)


def test_prompts_and_captions_that_are_not_in_the_bucket(gcs: GcsServer, tmp_path: Path) -> None:
    url = f"gs://{BUCKET}/none.txt"
    assert f"{url}: cannot be read (No such file" in refusal(Place("sample", "--prompts", BUCKETS), url, tmp_path)
