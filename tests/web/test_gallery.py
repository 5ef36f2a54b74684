"""The gallery lists the finished videos, and serves their files and no others."""

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from show1_jax.config.sampling import STAGES
from show1_jax.sampling.progress import Observer
from show1_jax.sampling.run_directory import RunDirectory
from show1_jax.web.gallery import Gallery
from show1_jax.web.requests import Form, Limits, make_task
from show1_jax.web.vocabulary import Vocabulary
from tests.helpers.web_pages import PROMPT, DrawnSampler, manifest_of, settings
from tests.helpers.web_waiting import directories


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return the run directories of three videos, in the order in which they were made."""
    config = settings(tmp_path_factory.mktemp("gallery") / "out")
    sampler, vocabulary = DrawnSampler(config), Vocabulary.of(config, manifest_of(config))
    forms = [
        Form(PROMPT, seed=1, negative="blur", guidance={"superres_latent": 2.0}),
        Form(PROMPT, seed=2, steps={"keyframes": 3}),
        Form(PROMPT, seed=3),
    ]
    paths = []
    for number, form in enumerate(forms):
        task = make_task(form, config, vocabulary, Limits())
        sampler.sample(task, Observer())
        paths.append(directories(task)[0].path)
        os.utime(paths[-1] / "run.json", (number, number))
    return paths


@pytest.fixture
def made(originals: list[Path], tmp_path: Path) -> list[Path]:
    """Return a copy of the run directories, which the test may change."""
    shutil.copytree(originals[0].parent, tmp_path / "out")
    return [tmp_path / "out" / path.name for path in originals]


def test_videos_are_listed_newest_first_with_their_settings(made: list[Path]) -> None:
    gallery = Gallery(made[0].parent)
    page = gallery.page(0, 2)
    assert [entry.seed for entry in page.entries] == [3, 2]
    assert (page.count, page.total, page.damaged) == (2, 3, ())
    entry = gallery.page(7, 2).entries[0]
    assert (entry.prompt, entry.seed, entry.negative, entry.stages) == (PROMPT, 1, "blur", STAGES)
    assert entry.guidance["superres_latent"] == 2.0
    assert entry.steps["keyframes"] == 2
    assert len(entry.finished) == len("2026-01-01 00:00")
    assert gallery.viewed(entry.name, "superres_latent") == "5_superres_latent_x4_lanczos.mp4"
    assert gallery.viewed(entry.name, "keyframes") == "1_keyframes.mp4"
    assert gallery.stage_file(entry.name, "keyframes", ".gif") == "1_keyframes.gif"


def test_damaged_and_foreign_directories_are_passed_over(made: list[Path]) -> None:
    out = made[0].parent
    (out / "evaluation").mkdir()
    (out / "notes.txt").write_text("mine")
    (made[0] / "run.json").write_text('{"format": ')
    for number, change in enumerate(({"prompt": 3}, {"seed": "1"}, {"config": 3})):
        other = out / f"changed-{number}-00000000"
        shutil.copytree(made[1], other)
        record = json.loads((other / "run.json").read_text())
        record["request"].update(change)
        (other / "run.json").write_text(json.dumps(record))
    (out / "link-1-00000000").symlink_to(made[1])
    page = Gallery(out).page(0, 20)
    assert [entry.name for entry in page.entries] == [made[2].name, made[1].name]
    assert set(page.damaged) == {made[0].name, *(f"changed-{number}-00000000" for number in range(3))}


def test_an_output_directory_that_does_not_exist_is_empty(tmp_path: Path) -> None:
    page = Gallery(tmp_path / "none").page(0, 5)
    assert (page.entries, page.count, page.total) == ((), 1, 0)


def test_files_that_a_killed_process_left_in_part_are_removed(made: list[Path]) -> None:
    out, partial = made[0].parent, ".3_first_frame.safetensors.0bc486d2"
    (out / "only-partial-1-00000000").mkdir()
    ours = [made[0] / partial, made[0] / ".run.json.00000000", out / "only-partial-1-00000000" / partial]
    others = [made[1] / ".notes", out / partial, made[1] / ".a.b.0bc486d"]
    in_use = made[2] / partial
    for path in [*ours, *others, in_use]:
        path.write_bytes(b"part")
    with RunDirectory(made[2]).locked():
        Gallery(out).clean()
    assert not [path for path in ours if path.exists()]
    assert not (out / "only-partial-1-00000000").exists()
    assert all(path.exists() for path in [*others, in_use])


def test_only_files_to_look_at_are_served(made: list[Path], tmp_path: Path) -> None:
    out, name = made[0].parent, made[0].name
    gallery = Gallery(out)
    served = {path.name for path in made[0].iterdir() if gallery.file(name, path.name) is not None}
    assert served == {path.name for path in made[0].iterdir() if path.suffix != ".safetensors"}
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    (made[1] / "contact_sheet.png").unlink()
    (made[1] / "contact_sheet.png").symlink_to(secret)
    (out / "link-1-00000000").symlink_to(made[0])
    (made[0] / "page.html").write_text("<script>")
    for place, file in [
        (made[1].name, "contact_sheet.png"),
        ("link-1-00000000", "run.json"),
        (name, "page.html"),
        (name, "../run.json"),
        ("..", "run.json"),
        (f"../{out.name}/{name}", "run.json"),
        ("", "run.json"),
        (name, "5_superres_latent.safetensors"),
    ]:
        assert gallery.file(place, file) is None, (place, file)
        assert gallery.version(place, file) == ""


@given(st.text(max_size=30), st.text(max_size=30))
def test_no_other_name_is_served(name: str, file: str) -> None:
    assert Gallery("/").file(name, file) is None
    assert Gallery("/").entry(name) is None
