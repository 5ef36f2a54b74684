"""The parts of the page that are HTML: progress, results, gallery. All text of users is escaped."""

from collections.abc import Sequence
from html import escape
from typing import Final
from urllib.parse import quote

from show1_jax.cascade.stages import STAGE_TABLE
from show1_jax.config.config_file import Config
from show1_jax.config.sampling import STAGES, Stage
from show1_jax.data.synthetic.nearest import WORLD_EXAMPLE
from show1_jax.data.synthetic.shapes import SHAPES
from show1_jax.data.synthetic.world import BACKGROUNDS, COLORS, MOTIONS, SIZES
from show1_jax.media.contact_sheet import CONTACT_SHEET
from show1_jax.sampling.run_record import RECORD
from show1_jax.web.gallery import Entry, Gallery, Page
from show1_jax.web.jobs import JobView, VideoView
from show1_jax.web.requests import stage_name
from show1_jax.web.uploads import Upload
from show1_jax.web.worker import Health

FILES: Final = "outputs"
"""First part of the addresses of the videos' files."""
_PIXELATED: Final = 160
"""Height of frames below which they are shown as squares of their pixels rather than blurred."""


def chips(values: Sequence[str], label: str) -> str:
    """Return texts as buttons; their component's click event has the text as `value`."""
    buttons = "".join(
        f'<button type="button" class="chip" data-value="{escape(text)}">{escape(text)}</button>' for text in values
    )
    return f'<div class="chips" role="group" aria-label="{escape(label)}">{buttons}</div>'


def world_words() -> str:
    """Return the words of the synthetic world, by their place in its sentence."""
    rows = (
        ("size, or none", filter(None, SIZES)),
        ("colour", COLORS),
        ("shape", SHAPES),
        ("motion", MOTIONS),
        ("background, or black", BACKGROUNDS),
    )
    items = "".join(
        f"<dt>{name}</dt><dd>{' '.join(f'<span>{escape(word)}</span>' for word in words)}</dd>" for name, words in rows
    )
    return (
        f'<div class="world"><p>These weights know a small world and no other words, in sentences such as '
        f"<em>{escape(WORLD_EXAMPLE)}</em>. Two things are joined by <em>and</em>.</p>"
        f"<dl>{items}</dl></div>"
    )


def refusal(line: str, near: Sequence[str] = ()) -> str:
    """Return a line that says why a request was refused, with prompts to take instead."""
    suggestions = f"<p>Near to it:</p>{chips(near, 'prompts that these weights know')}" if near else ""
    return f'<div class="notice refused" role="alert"><p>{escape(line)}</p>{suggestions}</div>'


def status(view: JobView, health: Health) -> str:
    """Return the state of a job: its place in the queue, or a bar over all stages with the time that is left."""
    if view.state == "failed":
        return refusal(view.problem or "it failed")
    headline, detail = _headline(view, health)
    live = "" if view.has_ended else ' data-live=""'
    return (
        f'<div class="status {view.state}"{live}><div class="headline"><strong role="status">{headline}</strong>'
        f"<span>{detail}</span></div>{_bar(view)}</div>"
    )


def _headline(view: JobView, health: Health) -> tuple[str, str]:
    if view.stopping:
        return "Stopping", "after the step that runs"
    if view.state == "waiting":
        if view.place > 1:
            return f"Waiting: number {view.place} in the queue", ""
        return "Next in the queue", f"loading {escape(stage_name(health.part))}" if health.part else ""
    if view.state == "stopped":
        kept = any(video.stages for video in view.videos)
        return "Stopped", "the finished stages are kept" if kept else "nothing was kept"
    if view.state == "done":
        return ("Made before", "this video was there already") if view.made_before else ("Done", "")
    if view.stage is None:
        return "Starting", ""
    detail = f"{view.share:.0%}"
    if view.seconds_left is not None:
        detail += f" · {duration(view.seconds_left)} left"
    name = stage_name(view.stage).capitalize()
    if not view.steps:
        return f"{name}: {'starting' if health.loaded else 'loading and compiling'}", detail
    return f"{name}: step {view.step} of {view.steps}", detail


def duration(seconds: float) -> str:
    """Return a duration for people: "about 40 s", "about 3 min"."""
    if seconds < 5:
        return "a few seconds"
    if seconds < 90:
        return f"about {5 * round(seconds / 5)} s"
    return f"about {round(seconds / 60)} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


def _bar(view: JobView) -> str:
    """Return a bar over all stages, divided by their expected times; groups of videos are one after the other."""
    percent, reached, parts = round(100 * view.share), view.share, []
    groups = view.groups or (1,)
    for stage, share in [(stage, share * size / sum(groups)) for size in groups for stage, share in view.stages]:
        # a stage that takes no time is filled when the bar reaches it, up to rounding
        filled = min(max(reached / share, 0.0), 1.0) if share > 0 else float(reached > -1e-9)
        reached -= share
        parts.append(
            f'<span class="part" style="flex-grow:{max(share, 0.02):.4f}" title="{stage_name(stage)}">'
            f'<span style="width:{100 * filled:.1f}%"></span></span>'
        )
    return (
        f'<div class="bar" role="progressbar" aria-label="progress over all stages" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{percent}">{"".join(parts)}</div>'
    )


class Markup:
    """HTML of videos, with the addresses of their files.

    Args:
        gallery: the videos.
        config: settings of the page, for the sizes of the stages.
    """

    def __init__(self, gallery: Gallery, config: Config):
        self._gallery = gallery
        sizes = {stage: spec.size(config, config.keyframes.size) for stage, spec in STAGE_TABLE.items()}
        self._small = {stage for stage, (height, _) in sizes.items() if height < _PIXELATED}

    def results(self, view: JobView | None) -> str:
        """Return the videos of a job with the stages that are finished so far, the newest stage large."""
        if view is None or (view.state == "failed" and not any(video.stages for video in view.videos)):
            return _EMPTY
        wanted = [stage for stage, _ in view.stages]
        cards = [self._video(video, wanted, is_done=view.state == "done") for video in view.videos]
        return f'<div class="videos n{min(len(cards), 2)}">{"".join(cards)}</div>'

    def detail(self, entry: Entry) -> str:
        """Return a video of the gallery with its stages and files."""
        video = VideoView(entry.name, entry.prompt, entry.seed, entry.stages)
        sheet = self._address(entry.name, CONTACT_SHEET)
        picture = f'<img class="sheet" src="{sheet}" alt="frames of all stages">' if sheet else ""
        return f'<div class="detail">{self._video(video, entry.stages, is_done=True)}{picture}</div>'

    def gallery(self, page: Page) -> str:
        """Return the contact sheets of a page of the gallery; a click event has a video's name as `value`."""
        if not page.total:
            return '<p class="empty">There are no videos yet. The ones that you make appear here.</p>'
        cards = [self._card(entry) for entry in page.entries]
        names = ", ".join(escape(name) for name in page.damaged)
        note = f'<p class="damaged">Not shown, as their run.json is damaged: {names}</p>' if names else ""
        return f'<div class="cards">{"".join(cards)}</div>{note}'

    def _card(self, entry: Entry) -> str:
        sheet = self._address(entry.name, CONTACT_SHEET)
        picture = f'<img src="{sheet}" alt="" loading="lazy">' if sheet else '<span class="no-sheet"></span>'
        facts = f"seed {entry.seed}" + (f" · {escape(entry.finished)}" if entry.finished else "")
        return (
            f'<button type="button" class="card" data-value="{escape(entry.name)}">{picture}'
            f"<strong>{escape(entry.prompt)}</strong><span>{facts}</span></button>"
        )

    def _video(self, video: VideoView, wanted: Sequence[Stage], *, is_done: bool) -> str:
        shown = [stage for stage in STAGES if stage in video.stages and self._gallery.viewed(video.name, stage)]
        player = '<div class="player waiting"></div>'
        if shown:
            player = self._player(video, shown[-1], "player")
        strip = "".join(self._thumb(video, stage, shown) for stage in STAGES if stage in shown or stage in wanted)
        files = self._files(video, shown) if is_done and shown else ""
        return (
            f'<article class="video"><h2>{escape(video.prompt)} <span>seed {video.seed}</span></h2>{player}'
            f'<div class="strip">{strip}</div>{files}</article>'
        )

    def _thumb(self, video: VideoView, stage: Stage, shown: Sequence[Stage]) -> str:
        caption = f"<figcaption>{stage_name(stage)}</figcaption>"
        if stage not in shown:
            return f'<figure class="coming"><div class="thumb"></div>{caption}</figure>'
        return f"<figure>{self._player(video, stage, 'thumb')}{caption}</figure>"

    def _player(self, video: VideoView, stage: Stage, kind: str) -> str:
        file = self._gallery.viewed(video.name, stage)
        assert file is not None
        name = f"{stage_name(stage)} of {video.prompt}, seed {video.seed}"
        gif = self._gallery.stage_file(video.name, stage, ".gif")
        if gif and stage in self._small and file.endswith(f"{stage}.mp4"):  # mp4 has a fourth of the pixels' colours
            return (
                f'<img class="{kind} pixels" src="{self._address(video.name, gif)}" alt="{escape(name)}" '
                f'data-stage="{stage}">'
            )
        controls = " controls" if kind == "player" else ' tabindex="-1"'
        return (
            f'<video class="{kind}" src="{self._address(video.name, file)}" aria-label="{escape(name)}" '
            f'data-stage="{stage}" autoplay loop muted playsinline{controls}></video>'
        )

    def _files(self, video: VideoView, shown: Sequence[Stage]) -> str:
        last = shown[-1]
        links = [
            ("MP4", self._gallery.stage_file(video.name, last, ".mp4")),
            ("MP4, four times as large", self._gallery.stage_file(video.name, last, "_x4_lanczos.mp4")),
            ("GIF", self._gallery.stage_file(video.name, last, ".gif")),
            ("contact sheet", CONTACT_SHEET),
            ("run.json", RECORD),
        ]
        items = [
            f'<a href="{address}" download="{escape(video.name)}-{escape(file)}">{text}</a>'
            for text, file in links
            if file and (address := self._address(video.name, file))
        ]
        return f'<div class="files"><span>Download</span>{"".join(items)}</div>'

    def _address(self, name: str, file: str) -> str:
        """Return the address of a file, relative to the page; empty if it does not exist."""
        version = self._gallery.version(name, file)
        return f"{FILES}/{quote(name)}/{quote(file)}?v={version}" if version else ""


_EMPTY: Final = (
    '<div class="videos n1"><article class="video none"><div class="player waiting">'
    "<p>The video appears here, the keyframes first.</p></div></article></div>"
)


def upload_card(upload: Upload | None) -> str:
    """Return the user's file: its frames as the cascade crops them, its name, its size and its use."""
    if upload is None:
        return ""
    kind, use = "frames of your video", "cut to the shape of the cascade's frames"
    if upload.is_picture:
        kind, use = "your picture", f"the video begins with it, {use}"
    size = f"{upload.num_bytes / 2**20:.1f} MB" if upload.num_bytes >= 2**20 else f"{upload.num_bytes / 1024:.0f} KB"
    return (
        f'<div class="upload"><img src="{upload.preview_address}" alt="{kind}">'
        f"<p><strong>{escape(upload.name)}</strong> {size}; {use}</p></div>"
    )
