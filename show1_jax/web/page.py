"""The page: its parts in Gradio, and the handlers that connect them with the worker, the gallery and the uploads."""

import dataclasses
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, NamedTuple

import gradio as gr

from show1_jax.config.config_file import Config
from show1_jax.config.sampling import STAGES, Stage
from show1_jax.errors import UserError
from show1_jax.web import markup
from show1_jax.web.gallery import Gallery
from show1_jax.web.markup import Markup
from show1_jax.web.requests import Form, Limits, Task, make_task, roll_seed, stage_name, video_stages
from show1_jax.web.resume import can_replace, continued, refused_line, replaced, unfinished_stage
from show1_jax.web.uploads import UPLOAD_SUFFIXES, Uploads
from show1_jax.web.vocabulary import UnknownPromptError, Vocabulary
from show1_jax.web.worker import Worker

TITLE: Final = "Show-1"
_TICK: Final = 0.6
"""Seconds between two looks at a job."""
_GALLERY_SIZE: Final = 12
_FONT: Final = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
_MONO: Final = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
_BEGINNING: Final = "the beginning"
_USES: Final = (
    ("Use it in place of the stage before", "replace"),
    ("Start from it with noise", "noise"),
    ("Start from the noise that leads to it (inversion)", "invert"),
)
_DIRECT: Final[dict[str, Any]] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""Options of all events: they take no time, so that they need no place in Gradio's own queue."""
_NOTHING_RUNS: Final = (gr.update(active=False), gr.update(interactive=True), *(gr.update(visible=False),) * 3)
"""Values of the timer and the buttons of a tab whose job does not run."""
_PICK: Final = (
    "element.addEventListener('click', event => { const button = event.target.closest('[data-value]'); "
    "if (button) trigger('click', {value: button.dataset.value}); });"
)
"""Script of HTML with buttons: a click is an event with the button's value."""


class Services(NamedTuple):
    """All that the page shows and uses."""

    config: Config
    vocabulary: Vocabulary
    limits: Limits
    worker: Worker
    gallery: Gallery
    uploads: Uploads
    secret: str


def theme() -> gr.themes.Base:
    """Return the look of the page; all fonts are the system's own."""
    text, mono = ([gr.themes.Font(name) for name in names] for names in (_FONT, _MONO))
    look = gr.themes.Soft(primary_hue="indigo", neutral_hue="slate", radius_size="lg", font=text, font_mono=mono)
    return look.set(
        body_background_fill="*neutral_50",
        block_border_width="1px",
        block_shadow="none",
        input_border_width="1px",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_600",
        input_shadow="none",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_600",
        block_title_background_fill="none",
        block_title_background_fill_dark="none",
        block_title_padding="0",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_label_background_fill="none",
        block_label_background_fill_dark="none",
        block_label_text_color="*body_text_color",
        block_label_text_color_dark="*body_text_color",
    )


def asset(name: str) -> str:
    """Return the text of a file beside this module."""
    return files("show1_jax.web").joinpath(name).read_text("utf-8")


def build(services: Services) -> gr.Blocks:
    """Return the page."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        _html(
            f"<header><h1>{TITLE}</h1><p>Videos from a sentence, in five stages: keyframes, the frames between them, "
            "a sharp first frame, pixel and latent super-resolution.</p></header>"
        )
        with gr.Tabs(overflow_behavior="wrap") as tabs:
            with gr.Tab("New video", id="new"):
                new = _Studio(services, "new").build(blocks)
            with gr.Tab("Your video or picture", id="own"):
                _Studio(services, "own").build(blocks)
            with gr.Tab("Gallery", id="gallery") as gallery_tab:
                _build_gallery(services, blocks, gallery_tab, tabs, new)
    return blocks


def _html(value: str, **options: Any) -> gr.HTML:
    """Return a part of the page in HTML, without Gradio's own style and, by default, without a script."""
    return gr.HTML(value, **{"js_on_load": None, "apply_default_css": False, **options})


class _StageField(NamedTuple):
    stage: Stage
    steps: gr.Number
    guidance: gr.Number


class _Studio:
    """A tab with a form on the left and the job that it starts on the right.

    Attributes:
        kind: "new": from a prompt; "own": from a video or a picture of the user.
    """

    def __init__(self, services: Services, kind: str):
        self.services, self.kind = services, kind
        self.markup = Markup(services.gallery, services.config)

    def build(self, blocks: gr.Blocks) -> "_Studio":
        """Add the tab's parts and connect them."""
        config, limits = self.services.config, self.services.limits
        self.job = gr.State("")
        self.shown = gr.State(None)
        self.upload = gr.State("")
        # the browser keeps the job's name, so that the page finds its job after it is loaded again
        self.kept = gr.BrowserState("", storage_key=f"show1-{self.kind}", secret=self.services.secret)
        with gr.Row(elem_classes="studio"):
            with gr.Column(scale=5, min_width=320):
                if self.kind == "own":
                    self._build_upload()
                self.prompt = gr.Textbox(
                    label="Prompt",
                    placeholder=self.services.vocabulary.examples[0],
                    lines=2,
                    max_lines=6,
                    max_length=limits.prompt_length,
                    elem_id=f"{self.kind}-prompt",
                    autofocus=self.kind == "new",
                )
                self.examples = _html(markup.chips(self.services.vocabulary.examples, "examples"), js_on_load=_PICK)
                with gr.Row(elem_classes="seed-row"):
                    self.seed = gr.Number(
                        label="Seed",
                        value=config.seed,
                        precision=0,
                        minimum=0,
                        min_width=110,
                        elem_id=f"{self.kind}-seed",
                    )
                    self.die = gr.Button("Random seed", elem_classes="die", min_width=56, scale=0)
                    self.videos = gr.Slider(
                        1, limits.videos, 1, step=1, label="Videos", min_width=150, buttons=[], elem_classes="count"
                    )
                self.sample = gr.Button(
                    "Sample", variant="primary", elem_classes="sample", elem_id=f"{self.kind}-sample"
                )
                _html('<p class="hint">Ctrl + Enter samples, too. Several videos have seeds one apart.</p>')
                self._build_advanced()
                if self.services.vocabulary.is_world:
                    _html(markup.world_words())
            with gr.Column(scale=7, min_width=320, elem_classes="stage-column"):
                self.status = _html("", js_on_load=_PICK, elem_id=f"{self.kind}-status")
                with gr.Row(elem_classes="actions"):
                    self.stop = gr.Button("Stop", variant="stop", visible=False, elem_id=f"{self.kind}-stop")
                    self.resume = gr.Button("Continue", visible=False, elem_id=f"{self.kind}-continue")
                    self.replace = gr.Button("Replace it", visible=False, elem_id=f"{self.kind}-replace")
                self.results = _html(self.markup.results(None), elem_id=f"{self.kind}-results")
        self.timer = gr.Timer(_TICK, active=False)
        self._connect(blocks)
        return self

    def _build_upload(self) -> None:
        limits = self.services.limits
        self.file = gr.File(
            label="Your video or picture", file_types=list(UPLOAD_SUFFIXES), height=150, elem_id="own-file"
        )
        formats = " ".join(suffix.removeprefix(".") for suffix in UPLOAD_SUFFIXES)
        _html(f'<p class="hint">{formats}; up to {max(1, limits.upload_bytes >> 20)} MB.</p>')
        self.preview = _html("", elem_id="own-preview")
        self.use = gr.Radio(_USES, value="noise", label="How it is used", elem_id="own-use")
        with gr.Row() as self.use_row:
            self.own_start = gr.Dropdown(
                [(stage_name(stage), stage) for stage in video_stages("noise")],
                value=STAGES[0],
                label="Stage that starts from it",
                min_width=140,
            )
            self.strength = gr.Slider(
                0, 1, 0.6, step=0.05, label="Strength", info="0: the video itself, 1: noise alone", min_width=140
            )
            self.inversion = gr.Number(
                75, label="Inversion steps", precision=0, minimum=1, maximum=limits.steps, visible=False, min_width=120
            )

    def _build_advanced(self) -> None:
        config, limits = self.services.config, self.services.limits
        with gr.Accordion("Advanced", open=False):
            users = [stage_name(stage) for stage in STAGES if config.stage(stage).use_negative_prompt]
            self.negative = gr.Textbox(
                label="Negative prompt",
                info=f"used by {' and '.join(users) or 'no stage'}, if guidance is above 1",
                value=config.negative_prompt,
                max_length=limits.prompt_length,
            )
            self.start = gr.Dropdown(
                [(_BEGINNING, ""), *((stage_name(stage), stage) for stage in STAGES[1:])],
                value="",
                label="Continue from a stage",
                info="uses the saved stages before it, of the same prompt and seed",
                visible=self.kind == "new",
            )
            self.fields = []
            for stage in STAGES:
                settings = config.stage(stage)
                with gr.Row(elem_classes="stage-settings"):
                    steps = gr.Number(
                        settings.num_steps,
                        label=f"Steps: {stage_name(stage)}",
                        precision=0,
                        minimum=1,
                        maximum=limits.steps_of(config, stage),
                        min_width=130,
                    )
                    guidance = gr.Number(
                        settings.guidance_scale, label=f"Guidance: {stage_name(stage)}", step=0.5, min_width=130
                    )
                self.fields.append(_StageField(stage, steps, guidance))

    def _connect(self, blocks: gr.Blocks) -> None:
        outputs = [self.status, self.results, self.shown, self.timer, self.sample, self.stop, self.resume, self.replace]
        inputs = [self.prompt, self.negative, self.seed, self.videos, self.start, self.upload]
        inputs += [field.steps for field in self.fields] + [field.guidance for field in self.fields]
        if self.kind == "own":
            inputs += [self.use, self.own_start, self.strength, self.inversion]
        started = [self.job, self.kept, *outputs]
        self.sample.click(self._submit, inputs, started, **_DIRECT)
        self.resume.click(self._continue, [self.job], started, **_DIRECT)
        self.replace.click(self._replace, [self.job], started, **_DIRECT)
        self.stop.click(self._stop, [self.job, self.shown], outputs, **_DIRECT)
        self.timer.tick(self._look, [self.job, self.shown], outputs, **_DIRECT)
        restored = [self.job, self.prompt, self.seed, self.videos, *outputs]
        blocks.load(self._restore, [self.kept], restored, **_DIRECT)
        self.die.click(roll_seed, None, self.seed, **_DIRECT)
        self.examples.click(_picked, None, self.prompt, **_DIRECT)
        self.status.click(_picked, None, self.prompt, **_DIRECT)
        if self.kind == "own":
            taken = [self.file, self.preview, self.upload, self.use, self.use_row]
            self.file.upload(self._take_file, self.file, taken, **_DIRECT)
            self.use.change(
                _uses, [self.use, self.own_start], [self.own_start, self.strength, self.inversion], **_DIRECT
            )

    def _form(self, values: Sequence[Any]) -> Form:
        prompt, negative, seed, videos, start, upload, *rest = values
        count = len(STAGES)
        form = Form(
            prompt,
            negative,
            seed,
            videos,
            steps=dict(zip(STAGES, rest[:count], strict=True)),
            guidance=dict(zip(STAGES, rest[count : 2 * count], strict=True)),
            start=start,
        )
        if self.kind == "new":
            return form
        use, own_start, strength, inversion = rest[2 * count :]
        found = self.services.uploads.find(upload)
        if found.is_picture:
            return dataclasses.replace(form, image=found.path)
        return dataclasses.replace(
            form, start=own_start, video=found.path, use=use, strength=strength, inversion_steps=inversion
        )

    def _submit(self, *values: Any) -> list[Any]:
        services = self.services
        return self._started(
            lambda: make_task(self._form(values), services.config, services.vocabulary, services.limits)
        )

    def _continue(self, name: str) -> list[Any]:
        return self._started(lambda: continued(self.services.worker.task(name)))

    def _replace(self, name: str) -> list[Any]:
        return self._started(lambda: replaced(self.services.worker.task(name)))

    def _started(self, task: Callable[[], Task]) -> list[Any]:
        """Return the values of all parts after a job was submitted, or refused."""
        try:
            job = self.services.worker.submit(task())
        except UnknownPromptError as error:
            return self._refused(markup.refusal(error.known, error.near))
        except UserError as error:
            return self._refused(markup.refusal(str(error)))
        return [job.id, job.id, *self._look(job.id, None)]

    def _refused(self, text: str) -> list[Any]:
        return ["", "", text, self.markup.results(None), None, *_NOTHING_RUNS]

    def _stop(self, name: str, shown: Any) -> list[Any]:
        self.services.worker.stop(name)
        return self._look(name, shown)

    def _restore(self, name: str) -> list[Any]:
        """Return the values of all parts after the page was loaded: those of its job, if it has one."""
        task = self.services.worker.task(name)
        if task is None:
            return ["", *(gr.skip(),) * 3, *self._look("", None)]
        prompts = task.request.prompts
        return [name, prompts[0].text, prompts[0].seed, len(prompts), *self._look(name, None)]

    def _look(self, name: str, shown: Any) -> list[Any]:
        """Return the values of the parts that show a job; the results only if they have changed, since videos play."""
        worker = self.services.worker
        view, health = worker.view(name), worker.health()
        key = None if view is None else [name, view.has_ended, [list(video.stages) for video in view.videos]]
        results = gr.skip() if shown == key and key is not None else self.markup.results(view)
        task = worker.task(name)
        if view is None or task is None:
            return ["", results, key, *_NOTHING_RUNS]
        stage = unfinished_stage(task) if view.has_ended else None
        problem = None if view.problem is None else refused_line(view.problem, task)
        text = markup.status(dataclasses.replace(view, problem=problem), health)
        return [
            text,
            results,
            key,
            gr.update(active=not view.has_ended),
            gr.update(interactive=view.has_ended),
            gr.update(visible=not view.has_ended, interactive=not view.stopping),
            gr.update(visible=stage is not None, value=f"Continue from {stage_name(stage)}" if stage else "Continue"),
            gr.update(visible=can_replace(view.problem)),
        ]

    def _take_file(self, path: str | None) -> list[Any]:
        """Return the values of the parts that show a file: a picture has one use, so that it has no choice of uses."""
        shown = gr.update(visible=True)
        if path is None:
            return [None, "", "", shown, shown]
        try:
            upload = self.services.uploads.add(Path(path))
        except UserError as error:
            return [None, markup.refusal(str(error)), "", shown, shown]
        shown = gr.update(visible=not upload.is_picture)
        return [None, markup.upload_card(upload), upload.id, shown, shown]


def _picked(event: gr.EventData) -> Any:
    """Return the value of the button that was clicked."""
    return event.value


def _uses(use: str, start: str) -> list[Any]:
    """Return the choices for a use of the user's video."""
    stages = video_stages("replace" if use == "replace" else "noise")
    choices = [(stage_name(stage), stage) for stage in stages]
    return [
        gr.update(choices=choices, value=start if start in stages else stages[0]),
        gr.update(visible=use != "replace"),
        gr.update(visible=use == "invert"),
    ]


def _build_gallery(services: Services, blocks: gr.Blocks, tab: gr.Tab, tabs: gr.Tabs, new: _Studio) -> None:
    """Add the tab of finished videos."""
    shown = Markup(services.gallery, services.config)
    number, chosen = gr.State(0), gr.State("")
    with gr.Column(visible=False) as panel:
        detail = _html("", elem_id="gallery-detail")
        with gr.Row(elem_classes="actions"):
            use = gr.Button("Use as the start of a new one", variant="primary", elem_id="gallery-use")
            start = gr.Dropdown(
                [(stage_name(stage), stage) for stage in STAGES[1:]],
                value=STAGES[-1],
                label="Stage to continue from",
                min_width=280,
            )
            resume = gr.Button("Continue from this stage", elem_id="gallery-continue")
    cards = _html("", js_on_load=_PICK, elem_id="gallery-cards")
    with gr.Row(elem_classes="actions"):
        before = gr.Button("Newer", min_width=90, visible=False)
        position = _html("")
        after = gr.Button("Older", min_width=90, visible=False)

    def show(index: int) -> list[Any]:
        page = services.gallery.page(index, _GALLERY_SIZE)
        text = f'<p class="position">{page.number + 1} of {page.count}</p>' if page.count > 1 else ""
        return [
            shown.gallery(page),
            page.number,
            text,
            gr.update(visible=page.number > 0),
            gr.update(visible=page.number + 1 < page.count),
        ]

    def choose(event: gr.EventData) -> list[Any]:
        entry = services.gallery.entry(event.value) if isinstance(event.value, str) else None
        if entry is None:
            return ["", "", gr.update(visible=False)]
        return [entry.name, shown.detail(entry), gr.update(visible=True)]

    def fill(name: str, stage: str) -> list[Any]:
        entry = services.gallery.entry(name)
        if entry is None:
            return [gr.skip()] * (5 + 2 * len(STAGES))
        steps = [entry.steps.get(field.stage, gr.skip()) for field in new.fields]
        guidance = [entry.guidance.get(field.stage, gr.skip()) for field in new.fields]
        return [gr.Tabs(selected="new"), entry.prompt, entry.negative, entry.seed, stage, *steps, *guidance]

    listing = [cards, number, position, before, after]
    form = [tabs, new.prompt, new.negative, new.seed, new.start]
    form += [field.steps for field in new.fields] + [field.guidance for field in new.fields]
    tab.select(show, number, listing, **_DIRECT)
    blocks.load(show, number, listing, **_DIRECT)
    before.click(lambda index: show(index - 1), number, listing, **_DIRECT)
    after.click(lambda index: show(index + 1), number, listing, **_DIRECT)
    cards.click(choose, None, [chosen, detail, panel], **_DIRECT)
    use.click(lambda name: fill(name, ""), chosen, form, **_DIRECT)
    resume.click(fill, [chosen, start], form, **_DIRECT)
