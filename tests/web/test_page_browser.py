"""The page in a real browser: a double of the cascade draws the videos, everything else is real."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser

from show1_jax.config.config_file import Config
from show1_jax.config.sampling import STAGES
from show1_jax.web.guard import Credentials
from show1_jax.web.requests import Limits
from tests.helpers.browser import Visitor, chromium
from tests.helpers.media_files import encode, numbered
from tests.helpers.web_pages import PROMPT, DrawnSampler, served, settings

pytestmark = pytest.mark.browser
LIMITS = Limits(upload_bytes=1 << 20)
DONE = "#new-status .status.done"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def page_config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return settings(tmp_path_factory.mktemp("page") / "out")


@pytest.fixture(scope="module")
def page_sampler(page_config: Config) -> DrawnSampler:
    return DrawnSampler(page_config)


@pytest.fixture(scope="module")
def address(page_config: Config, page_sampler: DrawnSampler) -> Iterator[str]:
    with served(page_config, page_sampler, limits=LIMITS) as address:
        yield address


@pytest.fixture
def drawing(page_sampler: DrawnSampler) -> Iterator[DrawnSampler]:
    """The double behind the page, which waits for nothing at the end of the test."""
    yield page_sampler
    page_sampler.hold = None
    page_sampler.gate.set()
    page_sampler.steps.clear()


@pytest.fixture
def visitor(browser: Browser, address: str) -> Iterator[Visitor]:
    visitor = Visitor(browser, address).open()
    yield visitor
    visitor.context.close()
    assert not visitor.elsewhere
    assert not visitor.errors


def hold(drawing: DrawnSampler, stage: str) -> None:
    """Let the double wait before the steps of a stage."""
    drawing.hold = stage  # type: ignore[assignment]
    drawing.gate.clear()


def test_the_stages_come_one_by_one_and_the_video_can_be_downloaded(
    visitor: Visitor, drawing: DrawnSampler, page_config: Config, tmp_path: Path
) -> None:
    hold(drawing, "interpolation")
    visitor.sample(PROMPT, 1)
    visitor.wait("#new-results .thumb[data-stage=keyframes]")
    assert visitor.stages() == ["keyframes"]
    visitor.wait("#new-status >> text=Interpolation")
    bar = visitor.wait("#new-status [role=progressbar]")
    assert 0 < int(bar.get_attribute("aria-valuenow")) < 90
    assert visitor.page.is_disabled("#new-sample")
    drawing.gate.set()
    visitor.wait(DONE)
    assert visitor.stages() == list(STAGES)
    player = visitor.wait("#new-results video.player[data-stage=superres_latent]")
    visitor.page.wait_for_function("video => video.readyState >= 2 && !video.paused", arg=player)
    assert player.evaluate("video => [video.loop, video.autoplay, video.videoWidth]") == [True, True, 576]
    directory = next(Path(page_config.out).glob("*-1-*"))
    for text, file in (("MP4", ".mp4"), ("GIF", ".gif"), ("run.json", "run.json")):
        with visitor.page.expect_download() as download:
            visitor.page.click(f"#new-results .files a:text-is('{text}')")
        download.value.save_as(tmp_path / file)
        name = "run.json" if file == "run.json" else f"5_superres_latent{file}"
        assert (tmp_path / file).read_bytes() == (directory / name).read_bytes()


def test_stop_stops_within_a_step_and_the_rest_can_be_made_later(visitor: Visitor, drawing: DrawnSampler) -> None:
    hold(drawing, "first_frame")
    visitor.sample(PROMPT, 2)
    visitor.wait("#new-status >> text=First frame")
    visitor.page.click("#new-stop")
    visitor.wait("#new-status >> text=Stopping")
    drawing.gate.set()
    visitor.wait("#new-status .status.stopped")
    assert drawing.steps.count(("first_frame", 1)) == 1
    assert ("first_frame", 2) not in drawing.steps
    assert visitor.stages() == ["keyframes", "interpolation"]
    drawing.steps.clear()
    visitor.page.click("#new-continue")
    visitor.wait(DONE)
    assert {stage for stage, _ in drawing.steps} == set(STAGES[2:])


def test_a_page_that_is_loaded_again_finds_its_run(visitor: Visitor, drawing: DrawnSampler) -> None:
    hold(drawing, "superres_pixel")
    visitor.sample(PROMPT, 3)
    visitor.wait("#new-results .thumb[data-stage=first_frame]")
    visitor.page.reload()
    visitor.wait("#new-results .thumb[data-stage=first_frame]")
    visitor.wait("#new-stop")
    assert [visitor.page.input_value(f"#new-{field}") for field in ("prompt textarea", "seed input")] == [PROMPT, "3"]
    drawing.gate.set()
    visitor.wait(DONE)
    visitor.page.reload()
    visitor.wait(DONE)
    assert visitor.stages() == list(STAGES)


def test_two_people_see_their_own_videos(
    visitor: Visitor, browser: Browser, address: str, drawing: DrawnSampler
) -> None:
    other = Visitor(browser, address).open()
    hold(drawing, "keyframes")
    visitor.sample(PROMPT, 4)
    visitor.wait("#new-status >> text=Keyframes")
    other.sample("a blue square grows", 5)
    other.wait("#new-status >> text=Next in the queue")
    drawing.gate.set()
    for person, prompt in ((visitor, PROMPT), (other, "a blue square grows")):
        person.wait(DONE)
        assert person.page.inner_text("#new-results h2").startswith(prompt)
    other.context.close()


def test_an_unknown_prompt_is_answered_with_prompts_to_click(visitor: Visitor, drawing: DrawnSampler) -> None:
    visitor.sample("two huge <b>yellow</b> balls", 6)
    notice = visitor.wait("#new-status .refused")
    assert "These weights know only" in notice.inner_text()
    assert not drawing.steps
    visitor.page.click("#new-status .chip >> nth=0")
    visitor.page.wait_for_function(
        "document.querySelector('#new-prompt textarea').value === 'a large yellow circle moves right'"
    )
    visitor.page.click("#new-sample")
    visitor.wait(DONE)


def test_another_video_in_its_place_is_replaced_only_after_a_click(visitor: Visitor) -> None:
    visitor.sample(PROMPT, 7)
    visitor.wait(DONE)
    visitor.page.click("text=Advanced")
    visitor.page.get_by_label("Steps: keyframes").and_(visitor.page.locator(":visible")).fill("1")
    visitor.page.keyboard.press("Tab")
    visitor.page.click("#new-sample")
    assert "another config.keyframes.num_steps" in visitor.wait("#new-status .refused").inner_text()
    visitor.page.click("#new-replace")
    visitor.wait(DONE)


def test_a_video_of_the_gallery_is_the_start_of_a_new_one(visitor: Visitor, page_config: Config) -> None:
    visitor.sample("a small white triangle shrinks", 8)
    visitor.wait(DONE)
    (Path(page_config.out) / "damaged-1-00000000").mkdir(exist_ok=True)
    (Path(page_config.out) / "damaged-1-00000000" / "run.json").write_text("{")
    visitor.page.reload()
    visitor.wait("#new-prompt textarea")
    visitor.page.click("role=tab[name='Gallery']")
    visitor.page.click("#gallery-cards .card:has-text('a small white triangle shrinks')")
    visitor.wait("#gallery-detail video.player")
    assert "damaged-1-00000000" in visitor.page.inner_text("#gallery-cards")
    visitor.page.click("#gallery-continue")
    visitor.wait("#new-prompt textarea")
    visitor.page.wait_for_function(
        "document.querySelector('#new-prompt textarea').value === 'a small white triangle shrinks'"
    )
    assert visitor.page.input_value("#new-seed input") == "8"
    visitor.page.click("#new-sample")
    visitor.wait("#new-status >> text=Made before")


def test_a_video_of_the_user_is_read_shown_and_used(visitor: Visitor, tmp_path: Path, drawing: DrawnSampler) -> None:
    visitor.page.click("role=tab[name='Your video or picture']")
    visitor.page.set_input_files("#own-file input[type=file]", encode(tmp_path / "mine.mp4", numbered(12)))
    visitor.wait("#own-preview .upload img")
    assert "mine.mp4" in visitor.page.inner_text("#own-preview")
    visitor.page.fill("#own-seed input", "9")
    visitor.page.fill("#own-prompt textarea", PROMPT)
    visitor.page.click("#own-sample")
    visitor.wait("#own-status .status.done")
    assert drawing.samples[-1][0].request.edit is not None
    assert visitor.stages("own") == list(STAGES)


def test_a_video_begins_with_the_picture_of_the_user(visitor: Visitor, tmp_path: Path, drawing: DrawnSampler) -> None:
    Image.new("RGB", (64, 40), "red").save(tmp_path / "photo.png")
    visitor.page.click("role=tab[name='Your video or picture']")
    visitor.wait("#own-use")
    visitor.page.set_input_files("#own-file input[type=file]", tmp_path / "photo.png")
    visitor.wait("#own-preview img[alt='your picture']")
    assert "photo.png" in visitor.page.inner_text("#own-preview")
    visitor.page.wait_for_selector("#own-use", state="hidden")  # a picture has one use
    visitor.page.fill("#own-seed input", "10")
    visitor.page.fill("#own-prompt textarea", PROMPT)
    visitor.page.click("#own-sample")
    visitor.wait("#own-status .status.done")
    request = drawing.samples[-1][0].request
    assert (request.edit, request.video) == (None, None)
    assert request.image is not None
    assert visitor.stages("own") == list(STAGES)
    visitor.page.set_input_files("#own-file input[type=file]", encode(tmp_path / "mine.mp4", numbered(12)))
    visitor.wait("#own-use")


def test_hostile_files_are_refused(browser: Browser, address: str, tmp_path: Path, page_sampler: DrawnSampler) -> None:
    visitor = Visitor(browser, address).open()  # the browser itself reports the answer 413 as an error
    visitor.page.click("role=tab[name='Your video or picture']")
    samples = len(page_sampler.samples)
    garbage = tmp_path / "garbage.mp4"
    garbage.write_bytes(b"\x00garbage" * 99)
    visitor.page.set_input_files("#own-file input[type=file]", garbage)
    assert "cannot decode garbage.mp4" in visitor.wait("#own-preview .refused").inner_text()
    hostile = tmp_path / "page.html"
    hostile.write_text("<script>document.title = 'taken'</script>")
    huge = tmp_path / "huge.mp4"
    huge.write_bytes(b"0" * (3 << 20))
    for path in (hostile, huge):
        visitor.page.set_input_files("#own-file input[type=file]", path)
        visitor.wait("[data-testid=toast-body], #own-preview .refused")
        assert not visitor.page.query_selector("#own-preview .upload")
    visitor.page.fill("#own-prompt textarea", PROMPT)
    visitor.page.click("#own-sample")
    assert "upload one" in visitor.wait("#own-status .refused").inner_text()
    assert len(page_sampler.samples) == samples
    assert visitor.page.title() == "Show-1"
    assert not visitor.elsewhere
    visitor.context.close()


def test_a_wrong_password_is_refused(browser: Browser, page_config: Config, page_sampler: DrawnSampler) -> None:
    with served(page_config, DrawnSampler(page_config), Credentials("me", "word")) as address:
        wrong = Visitor(browser, address, http_credentials={"username": "me", "password": "wrong"})
        assert wrong.page.goto(address).status == 401  # type: ignore[union-attr]
        assert "the password is wrong" in wrong.page.inner_text("body")
        assert wrong.page.goto(f"{address}health").status == 200  # type: ignore[union-attr]
        wrong.context.close()
        right = Visitor(browser, address, http_credentials={"username": "me", "password": "word"}).open()
        right.sample(PROMPT, 1)
        right.wait("#new-status .status")
        assert not right.elsewhere
        right.context.close()


@pytest.mark.parametrize("width", [360, 400])
def test_narrow_screens_scroll_in_one_direction_only(browser: Browser, address: str, width: int) -> None:
    visitor = Visitor(browser, address, size={"width": width, "height": 780}, color_scheme="dark").open()
    for tab in ("New video", "Your video or picture", "Gallery"):
        visitor.page.click(f"role=tab[name='{tab}']")
        assert visitor.page.evaluate("document.documentElement.scrollWidth") <= width
    color = visitor.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, color.strip("rgba()").split(",")[:3])) < 150  # dark, as the visitor's system is
    visitor.context.close()


def test_everything_has_a_name_and_can_be_reached_by_keyboard(visitor: Visitor) -> None:
    nameless = visitor.page.evaluate(
        """[...document.querySelectorAll('input, textarea, select, button, video, img')]
        .filter(one => one.offsetParent !== null)
        .filter(one => !(one.ariaLabel || one.labels?.[0]?.innerText || one.closest('label')?.innerText || one.innerText
            || one.alt !== undefined && one.hasAttribute('alt') || one.title))
        .map(one => one.outerHTML.slice(0, 200))"""
    )
    assert nameless == []
    visitor.page.focus("#new-prompt textarea")
    reached = []
    for _ in range(12):
        visitor.page.keyboard.press("Tab")
        reached.append(visitor.page.evaluate("document.activeElement.innerText || document.activeElement.ariaLabel"))
    assert reached[0] == PROMPT  # the first example
    assert "Sample" in reached
    visitor.page.focus("#new-prompt textarea")
    visitor.page.keyboard.press("Tab")
    visitor.page.keyboard.press("Enter")
    visitor.page.wait_for_function(f"document.querySelector('#new-prompt textarea').value === '{PROMPT}'")
