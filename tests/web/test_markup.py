"""HTML of the page: every text of users is escaped, addresses are relative, bars and times say what they should."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from show1_jax.config.config_file import Config
from show1_jax.config.sampling import STAGES, Stage
from show1_jax.web import markup
from show1_jax.web.gallery import Gallery, Page
from show1_jax.web.jobs import JobView, VideoView
from show1_jax.web.markup import Markup
from show1_jax.web.requests import Task
from show1_jax.web.uploads import Upload
from show1_jax.web.worker import Health, Worker
from tests.helpers.web_pages import PROMPT
from tests.helpers.web_waiting import directories, ended

HOSTILE = "<img src=x onerror=alert(1)>\"'&"
SHARES: tuple[tuple[Stage, float], ...] = (("keyframes", 0.25), ("interpolation", 0.75))
VIEW = JobView("running", SHARES, (VideoView("a-1-00000000", HOSTILE, 1),))


def tags(html: str) -> set[str]:
    return set(re.findall(r"<(\w+)", html))


@given(st.text(max_size=40) | st.just(HOSTILE))
def test_texts_of_users_are_escaped(text: str) -> None:
    upload = Upload("a", Path("a"), text, 3, b"")
    for html in (
        markup.refusal(text, [text]),
        markup.chips([text], text),
        markup.upload_card(upload),
        markup.status(dataclasses.replace(VIEW, state="failed", problem=text), Health()),
    ):
        assert tags(html) <= {"div", "p", "button", "img", "strong"}
        assert html.count("<img") == (1 if "upload" in html[:20] else 0)


def test_results_escape_the_prompt(config: Config) -> None:
    html = Markup(Gallery(config.out), config).results(VIEW)
    assert "<img" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"state": "waiting", "place": 1}, "Next in the queue"),
        ({"state": "waiting", "place": 4}, "Waiting: number 4 in the queue"),
        ({}, "Starting"),
        ({"stage": "keyframes"}, "Keyframes: loading and compiling"),
        ({"stage": "keyframes", "step": 2, "steps": 5, "share": 0.1, "seconds_left": 31.0}, "10% · about 30 s left"),
        ({"stage": "keyframes", "step": 2, "steps": 5}, "Keyframes: step 2 of 5"),
        ({"stopping": True}, "Stopping"),
        ({"state": "stopped"}, "nothing was kept"),
        ({"state": "done"}, "Done"),
        ({"state": "done", "made_before": True}, "Made before"),
        ({"state": "failed", "problem": "no disk"}, "no disk"),
    ],
)
def test_the_headline_says_what_happens(changes: dict[str, object], expected: str) -> None:
    view = dataclasses.replace(VIEW, **changes)  # type: ignore[arg-type]
    assert expected in markup.status(view, Health())


def test_the_bar_is_divided_into_stages() -> None:
    html = markup.status(dataclasses.replace(VIEW, stage="interpolation", share=0.4), Health(loaded=True))
    assert 'aria-valuenow="40"' in html
    assert re.findall(r'<span style="width:([\d.]+)%"', html) == ["100.0", "20.0"]
    assert "Interpolation: starting" in html
    for groups, filled in (
        ((1, 1), ["100.0", "100.0", "0.0", "0.0"]),
        ((2,), ["100.0", "33.3"]),
        ((1, 3), ["100.0", "100.0", "100.0", "11.1"]),
    ):
        several = dataclasses.replace(VIEW, groups=groups, share=0.5)
        assert re.findall(r'<span style="width:([\d.]+)%"', markup.status(several, Health())) == filled
    picture: tuple[tuple[Stage, float], ...] = (("keyframes", 0.5), ("first_frame", 0.0), ("superres_pixel", 0.5))
    half = dataclasses.replace(VIEW, stages=picture, groups=(1, 1), share=0.25)
    assert re.findall(r'<span style="width:([\d.]+)%"', markup.status(half, Health())) == [
        *("100.0", "100.0", "0.0"),
        *("0.0", "0.0", "0.0"),
    ]


def test_durations_are_rounded() -> None:
    seconds = (0.0, 4.9, 7.0, 62.0, 89.0, 91.0, 600.0, 9000.0)
    assert [markup.duration(value) for value in seconds] == [
        "a few seconds",
        "a few seconds",
        "about 5 s",
        "about 60 s",
        "about 90 s",
        "about 2 min",
        "about 10 min",
        "about 2.5 h",
    ]


def test_finished_videos_have_their_files(worker: Worker, task: Callable[..., Task], config: Config) -> None:
    one = task()
    job = worker.submit(one)
    view = ended(worker, job.id)
    gallery, name = Gallery(config.out), directories(one)[0].path.name
    shown = Markup(gallery, config)
    html = shown.results(view)
    assert re.findall(r'data-stage="(\w+)"', html) == ["superres_latent", *STAGES]
    addresses = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert all(address.startswith(f"outputs/{name}/") for address in addresses)
    files = [address.split("/")[-1].partition("?")[0] for address in re.findall(r'href="([^"]+)"', html)]
    assert files == [
        *("5_superres_latent.mp4", "5_superres_latent_x4_lanczos.mp4", "5_superres_latent.gif"),
        *("contact_sheet.png", "run.json"),
    ]
    small = re.findall(r'<img class="thumb pixels" src="[^"]*/\d_(\w+)\.gif\?', html)
    assert small == list(STAGES[:4]), "mp4 mixes the colours of neighbouring pixels"
    assert html.count("autoplay loop muted playsinline") == 2
    partly = dataclasses.replace(
        view, state="running", videos=(dataclasses.replace(view.videos[0], stages=STAGES[:1]),)
    )
    html = shown.results(partly)
    assert "href" not in html
    assert html.count('class="coming"') == 4
    entry = gallery.entry(name)
    assert entry is not None
    assert "contact_sheet.png" in shown.detail(entry)
    cards = shown.gallery(gallery.page(0, 5))
    assert f'data-value="{name}"' in cards
    assert PROMPT in cards


def test_an_empty_gallery_and_damaged_videos_are_said(config: Config) -> None:
    shown = Markup(Gallery(config.out), config)
    assert "no videos yet" in shown.gallery(Page((), 0, 1, 0, ()))
    assert "a-1-00000000" in shown.gallery(Page((), 0, 1, 1, ("a-1-00000000",)))
    assert "appears here" in shown.results(None)


def test_the_words_of_the_world_are_shown() -> None:
    html = markup.world_words()
    for word in ("large", "purple", "triangle", "stays still", "navy"):
        assert f"<span>{word}</span>" in html
