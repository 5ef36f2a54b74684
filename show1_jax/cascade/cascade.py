"""The cascade: samples videos for prompts with the networks of a checkpoint."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from show1_jax.cascade.batches import PreparedBatch, VideoBatch, fitted
from show1_jax.cascade.conditions import SAMPLING, StageContext
from show1_jax.cascade.latents import AutoencoderCodec
from show1_jax.cascade.memory import is_text_streamed, keeps_all_weights
from show1_jax.cascade.networks import LoadNetwork, Networks
from show1_jax.cascade.noise import NoiseSource
from show1_jax.cascade.prompts import Prompt
from show1_jax.cascade.spec import CascadeSpec
from show1_jax.cascade.stages import AUTOENCODER, STAGE_TABLE, text_encoders
from show1_jax.checkpoints.adapter_set import Adapter, open_adapters
from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.checkpoints.networks import LoadedNetwork
from show1_jax.checkpoints.recorded_settings import recorded_config
from show1_jax.config.sampling import STAGES, CascadeConfig, Stage
from show1_jax.config.video_edit import VideoEdit
from show1_jax.parallel import check_finite, gather, put_batch
from show1_jax.parallel.weights import WeightPath
from show1_jax.runtime import exact_float32
from show1_jax.text.encoding import encode_text_jit
from show1_jax.text.streaming import encode_by_blocks
from show1_jax.text.tokenizers import TextTokenizer, Tokens

HostVideo = Float32[np.ndarray, "b t h w c"]
OnStageStep = Callable[[Stage, int, int], None]
"""Function that is called after every denoising step with the stage, the number of finished steps and their total."""
OnStage = Callable[[Stage, HostVideo], None]
"""Function that is called with every stage's result, as soon as the stage is finished."""
OnBatchStep = Callable[[int, Stage, int, int], None]
"""`OnStageStep` of one of several batches, whose number comes first."""
OnBatchStage = Callable[[int, Stage, HostVideo], None]
"""`OnStage` of one of several batches, whose number comes first."""


class Cascade:
    """The networks and settings that sample videos.

    As a context manager, a cascade keeps its networks on the devices between calls, if they fit (see the setting
    `resident_weights`), until the block ends. Otherwise weights are on the devices while their stage samples, and if
    two stages fit, while the stage before it does. Calls from several threads must not overlap.

    Attributes:
        spec: settings, architectures, mesh and dtype.

    Example:
        >>> from show1_jax import Cascade
        >>> with Cascade.load("checkpoints/demo") as cascade:
        ...     videos = cascade.sample(["a red circle moves right"], seeds=[345])
        >>> videos["superres_latent"].shape
        (1, 29, 80, 144, 3)
    """

    def __init__(self, spec: CascadeSpec, load: LoadNetwork | Networks, tokenizer: Callable[[str], TextTokenizer]):
        """Create a cascade; `Cascade.load` creates one from a checkpoint.

        Args:
            spec: settings, architectures, mesh and dtype.
            load: function that loads a component's network; or networks that several cascades share.
            tokenizer: function that returns the tokenizer of a text encoder's component.
        """
        self.spec = spec
        self._networks = load if isinstance(load, Networks) else Networks(load)
        self._tokenizer = tokenizer
        self._contexts: list[contextlib.AbstractContextManager[bool]] = []

    def __enter__(self) -> "Cascade":
        self._contexts.append(self.keeping_networks())
        self._contexts[-1].__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._contexts.pop().__exit__(*error)

    @contextlib.contextmanager
    def keeping_networks(self, stages: Sequence[Stage] = STAGES) -> Iterator[bool]:
        """Keep networks on the devices until the block ends, if those of some stages fit together.

        Yields:
            True if they fit.
        """
        fits = keeps_all_weights(self.spec, stages)
        with self._networks.keeping(fits):
            yield fits

    def prepare(
        self,
        stages: Sequence[Stage] = STAGES,
        batch_size: int = 1,
        on_part: Callable[[str], None] = lambda name: None,
    ) -> None:
        """Compile the programs of some stages, so that the first call that samples does not wait for the compiler.

        Networks that are kept on the devices (see `keeping_networks`) are loaded as well.

        Args:
            stages: stages that will run.
            batch_size: number of videos that will be sampled together.
            on_part: called with the name of each text encoder and stage before its turn; may raise to end this early.

        Raises:
            UserError: settings or files of the checkpoint are invalid for a stage.
        """
        self.spec.check_settings(stages)
        size = batch_size + -batch_size % self.spec.mesh.shape["data"]
        keeps = self._networks.keeps_weights
        with self._networks.in_background(stages, [(self.spec, size)]):
            for encoder in text_encoders(stages) if keeps else ():
                on_part(encoder)
                self.encode_texts(encoder, [[""] * size])
            for stage in stages:
                on_part(stage)
                self._networks.programs(self.spec, stage, size)
                for component in STAGE_TABLE[stage].networks if keeps else ():
                    with self.network(component):
                        pass

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        config: CascadeConfig | None = None,
        devices: Sequence[jax.Device] | None = None,
        adapters: str = "",
    ) -> "Cascade":
        """Open one or several checkpoints that `python -m convert` or `train.py` made; weights are read stage by stage.

        Args:
            checkpoint: directory of a checkpoint, or several separated by commas: components of later ones replace
                those of earlier ones. For the working directory of a training run, its newest intact step is used. It
                may be in a bucket, e.g. "gs://bucket/show1". `hub:OWNER/NAME` or `hub:OWNER/NAME@REVISION` is a
                repository of the hub: the networks of a stage are downloaded when it is first sampled.
            config: settings; by default those that the checkpoint records for its networks.
            devices: devices to use; all by default.
            adapters: adapters that `train.py` made, as `DIR` or `DIR:STRENGTH`, separated by commas.

        Raises:
            UserError: there is no checkpoint, the settings do not fit the devices, or an adapter does not fit the
                checkpoint.
        """
        checkpoints = CheckpointSet.open(checkpoint)
        config = config or recorded_config(checkpoints.manifest, str(checkpoint))
        return cls.of(checkpoints, config, devices, open_adapters(adapters, checkpoints.manifest))

    @classmethod
    def of(
        cls,
        checkpoints: CheckpointSet,
        config: CascadeConfig,
        devices: Sequence[jax.Device] | None = None,
        adapters: Sequence[Adapter] = (),
    ) -> "Cascade":
        """Return the cascade of opened checkpoints and adapters; see `Cascade.load`."""
        spec = CascadeSpec.of(config, checkpoints.manifest, devices, adapters)
        return cls(spec, checkpoints.load, checkpoints.tokenizer)

    def with_adapters(self, adapters: str) -> "Cascade":
        """Return a cascade with the same settings, networks and compiled programs, and other adapters.

        Weights that this cascade keeps on the devices are not loaded again.

        Args:
            adapters: see `Cascade.load`; empty: none.

        Raises:
            UserError: an adapter does not fit the checkpoint.
        """
        spec = dataclasses.replace(self.spec, adapters=open_adapters(adapters, self.spec.manifest))
        return type(self)(spec, self._networks, self._tokenizer)

    def with_config(self, config: CascadeConfig) -> "Cascade":
        """Return a cascade with the same networks and devices, and other settings."""
        spec = CascadeSpec.of(config, self.spec.manifest, list(self.spec.mesh.devices.flat), self.spec.adapters)
        is_same = (spec.mesh, spec.dtype) == (self.spec.mesh, self.spec.dtype)
        return type(self)(spec, self._networks if is_same else self._networks.load, self._tokenizer)

    def sample(
        self,
        prompts: Sequence[str | Prompt],
        seeds: Sequence[int] | None = None,
        *,
        stages: Sequence[Stage] = STAGES,
        given: Mapping[Stage, np.ndarray] | None = None,
        edit: VideoEdit | None = None,
        video: np.ndarray | None = None,
        image: np.ndarray | None = None,
        noise: NoiseSource | None = None,
        on_step: OnStageStep = lambda stage, done, total: None,
        on_stage: OnStage = lambda stage, video: None,
    ) -> dict[Stage, Float32[np.ndarray, "b _ _ _ 3"]]:
        """Sample one video for each prompt, all in one batch.

        Args:
            prompts: see `VideoBatch`.
            seeds: see `VideoBatch`.
            stages: stages to run, in any order; they run in the cascade's order.
            given: see `VideoBatch`.
            edit: stage that starts from `video`, and how; the first of `stages`. Its `settings` replace the cascade's.
            video: see `VideoBatch`.
            image: see `VideoBatch`.
            noise: source of all Gaussian draws; by default they are drawn from the seeds.
            on_step: called after every denoising step.
            on_stage: called with every stage's result.

        Returns:
            The videos of each stage that ran, float32 (batch, time, height, width, 3) in about [-1, 1], not clamped;
            `show1_jax.to_uint8` converts them to 8-bit frames.

        Raises:
            UserError: a prompt is empty or too long, a stage lacks its input, a network does not support a size, or
                values are not finite; the line then names their origin, e.g. the stage and its step.
        """
        results: dict[Stage, HostVideo] = {}

        def keep(number: int, stage: Stage, video: HostVideo) -> None:
            results[stage] = video
            on_stage(stage, video)

        self.sample_batches(
            [VideoBatch(prompts, seeds, given or {}, video, image)],
            stages=stages,
            edit=edit,
            noise=noise,
            on_step=lambda number, stage, done, total: on_step(stage, done, total),
            on_stage=keep,
        )
        return results

    def sample_batches(
        self,
        batches: Sequence[VideoBatch],
        *,
        stages: Sequence[Stage] = STAGES,
        edit: VideoEdit | None = None,
        noise: NoiseSource | None = None,
        on_step: OnBatchStep = lambda number, stage, done, total: None,
        on_stage: OnBatchStage = lambda number, stage, video: None,
    ) -> None:
        """Sample several batches of videos stage by stage, so that the weights of each network are loaded once.

        Results wait on the host until the last stage that needs them.

        Args:
            batches: videos that are sampled together.
            stages: see `sample`.
            edit: see `sample`.
            noise: see `sample`; shared by all batches.
            on_step: called after every denoising step.
            on_stage: called with every stage's result of every batch; the results are not returned.

        Raises:
            UserError: see `sample`.
        """
        if not batches:
            return
        if edit is not None and edit.settings(self.spec.config) != self.spec.config:
            changed = self.with_config(edit.settings(self.spec.config))
            changed.sample_batches(batches, stages=stages, edit=edit, noise=noise, on_step=on_step, on_stage=on_stage)
            return
        chosen = tuple(stage for stage in STAGES if stage in stages)
        jobs = [PreparedBatch.of(batch, self.spec, chosen, noise, edit) for batch in batches]
        run = tuple(stage for stage in chosen if any(job.needs_network(stage) for job in jobs))
        with self._networks.in_background(run, [(job.spec, len(job.prompts)) for job in jobs]):
            for stage in run[:1]:
                self._networks.prefetch(jobs[0].spec, stage, len(jobs[0].prompts), before=text_encoders(run))
            texts = self._encode_jobs(run, [job.prompts for job in jobs], edit)
            for stage in chosen:
                self._run_stage(
                    stage,
                    [states.get(stage) for states in texts],
                    jobs,
                    later=[name for name in run if STAGES.index(name) > STAGES.index(stage)],
                    on_step=on_step,
                    on_stage=on_stage,
                )

    @contextlib.contextmanager
    def network(self, component: str, part: WeightPath = ()) -> Iterator[LoadedNetwork]:
        """Load a network, or its module at the path `part`; its weights are deleted when the block ends.

        Weights that the cascade keeps (see the class) stay on the devices.

        Yields:
            The network, with its weights on the devices.

        Raises:
            UserError: there is no such component, or its files are damaged.
        """
        with self._networks.loaded(self.spec, component, part) as network:
            yield network

    def encode_texts(self, component: str, batches: Sequence[Sequence[str]]) -> list[Float[Array, "_ n d"]]:
        """Encode batches of texts with a text encoder, which is loaded once.

        Args:
            component: component of the text encoder, e.g. "text_t5".
            batches: batches of texts.

        Returns:
            The states of each batch, (texts, tokens, channels), padded as the setting `text_padding` says.

        Raises:
            UserError: there is no such component, its files are damaged, or the states are not finite.
        """
        spec, mesh, padding = self.spec, self.spec.mesh, self.spec.config.text_padding
        encoder, size = spec.text_encoder(component), max(map(len, batches), default=0)
        if not size:
            width = spec.architecture(component).state_width
            return [jnp.zeros((0, encoder.length, width), spec.dtype) for _ in batches]
        tokenizer = self._tokenizer(component)
        filled = [
            [*texts, *[""] * (-len(texts) % mesh.shape["data"])] for texts in batches
        ]  # the data axis must divide a batch
        tokens = [Tokens(*(put_batch(array, mesh) for array in tokenizer(texts))) for texts in filled]
        with exact_float32(spec.dtype), jax.set_mesh(mesh):
            if is_text_streamed(spec, component, max(map(len, filled))):
                load, num_layers = functools.partial(self.network, component), spec.architecture(component).num_layers
                states = encode_by_blocks(load, num_layers, tokens, padding, spec.dtype)
            else:
                with self.network(component) as (graph, weights, _):
                    states = [encode_text_jit(encoder, graph, weights, batch, padding) for batch in tokens]
        for array in states:
            check_finite(array, mesh, f"the text encoder {component}")
        return [
            array if len(texts) == len(array) else array[: len(texts)]
            for array, texts in zip(states, batches, strict=True)
        ]

    def encode_prompts(
        self, stages: Sequence[Stage], prompts: Sequence[str | Prompt]
    ) -> dict[Stage, Float[Array, "b _ _ _"]]:
        """Encode prompts for some stages; each text encoder is loaded once.

        Returns:
            The states of the negative prompts and the prompts of every stage, (videos, 2, tokens, channels), in this
            order. For a stage without guidance, the states of the prompts alone, (videos, 1, tokens, channels).

        Raises:
            UserError: see `encode_texts`.
        """
        all_prompts = [Prompt(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
        return self._encode_jobs(stages, [all_prompts])[0]

    def _encode_jobs(
        self, stages: Sequence[Stage], jobs: Sequence[Sequence[Prompt]], edit: VideoEdit | None = None
    ) -> list[dict[Stage, Float[Array, "_ _ _ _"]]]:
        """Encode the prompts of several batches; see `encode_prompts`. An inverted stage has the empty prompt first."""
        inverted = edit.stage if edit is not None and edit.inversion_steps else None
        states: list[dict[Stage, Float[Array, "_ _ _ _"]]] = [{} for _ in jobs]
        for component, served in text_encoders(stages).items():
            branches = [
                {
                    stage: ((("",) * len(prompts),) if stage == inverted else ()) + self._branch_texts(stage, prompts)
                    for stage in served
                }
                for prompts in jobs
            ]
            batches = list(dict.fromkeys(texts for of_job in branches for pair in of_job.values() for texts in pair))
            encoded = dict(zip(batches, self.encode_texts(component, batches), strict=True))
            for of_job, found in zip(branches, states, strict=True):
                stacked = {texts: _stack_branches(tuple(encoded[text] for text in texts)) for texts in of_job.values()}
                found.update({stage: stacked[of_job[stage]] for stage in served})
        return states

    def _branch_texts(self, stage: Stage, prompts: Sequence[Prompt]) -> tuple[tuple[str, ...], ...]:
        """Return the texts of the unconditional and the conditional branch; without guidance only the latter."""
        positive = tuple(prompt.text for prompt in prompts)
        negative = [self.spec.config.negative_text(stage, prompt.negative) for prompt in prompts]
        guided = tuple(text for text in negative if text is not None)
        return (guided, positive) if guided else (positive,)

    def _run_stage(
        self,
        stage: Stage,
        texts: Sequence[Float[Array, "_ _ _ _"] | None],
        jobs: Sequence[PreparedBatch],
        *,
        later: Sequence[Stage],
        on_step: OnBatchStep,
        on_stage: OnBatchStage,
    ) -> None:
        """Run a stage for all batches; keep its results for the stages after it, `later`, that need them."""
        networks, spec, batch_size = self._networks, jobs[0].spec, len(jobs[0].prompts)
        loaded: dict[str, LoadedNetwork] = {}
        with contextlib.ExitStack() as stack:
            if any(job.needs_network(stage) for job in jobs):
                networks.programs(spec, stage, batch_size)  # they choose the layouts of the weights
                loaded = {name: stack.enter_context(self.network(name)) for name in STAGE_TABLE[stage].networks}

            @functools.cache
            def load_following() -> None:
                for following in later[:1]:
                    networks.prefetch(spec, following, batch_size)

            def on_own_step(number: int, done: int, total: int) -> None:
                if number == len(jobs) - 1:  # a smaller batch may compile an inversion again
                    load_following()
                on_step(number, stage, done, total)

            if not networks.loads_after_first_step(spec):
                load_following()
            for number, (job, text) in enumerate(zip(jobs, texts, strict=True)):
                if job.needs_network(stage):
                    assert text is not None
                    result = self._run(stage, text, job, loaded, functools.partial(on_own_step, number))
                else:
                    load_following()
                    result = job.own_result(stage)
                if any(stage in STAGE_TABLE[name].inputs for name in later):
                    job.videos[stage] = result
                on_stage(number, stage, result[: job.num_videos])

    def _run(
        self,
        stage: Stage,
        text: Float[Array, "_ _ _ _"],
        job: PreparedBatch,
        loaded: Mapping[str, LoadedNetwork],
        on_step: Callable[[int, int], None],
    ) -> HostVideo:
        """Run a stage for a batch, and return its result on the host; padding is included."""
        spec, mesh, row = self.spec, self.spec.mesh, STAGE_TABLE[stage]
        compiled = self._networks.programs(job.spec, stage, len(job.prompts))
        edit = job.edit if job.edit is not None and job.edit.stage == stage else None
        empty_text = None
        if edit is not None and edit.inversion_steps:
            empty_text, text = _split_branches(text)
        video = None if edit is None or job.video is None else put_batch(job.video, mesh)
        image = None
        if job.image is not None and not row.inputs:
            image = put_batch(fitted(job.image, job.spec.sizes({})[stage]), mesh)
        context = StageContext(
            stage=stage,
            network=loaded[stage],
            scheduler=spec.scheduler(stage),
            noising_scheduler=spec.noising_scheduler(stage),
            text=text,
            noise=job.noise,
            mesh=mesh,
            on_step=on_step,
            compiled=compiled.steps,
            sequential_guidance=compiled.need.sequential_guidance,
            codec=AutoencoderCodec(loaded[AUTOENCODER], mesh, compiled.codec) if row.is_latent else None,
            edit=edit,
            video=video,
            empty_text=empty_text,
            image=image,
        )
        with exact_float32(spec.dtype):
            videos = {name: put_batch(job.videos[name], mesh) for name in row.inputs}
            return gather(SAMPLING[stage](context, spec.config, videos), mesh)


@jax.jit
def _stack_branches(states: tuple[Float[Array, "b n d"], ...]) -> Float[Array, "b g n d"]:
    """Return the text states of the branches of guidance, with the branches as the second axis."""
    return jnp.stack(states, axis=1)


@jax.jit
def _split_branches(states: Float[Array, "b g n d"]) -> tuple[Float[Array, "b 1 n d"], Float[Array, "b h n d"]]:
    """Return the states of the first branch, and those of the others."""
    return states[:, :1], states[:, 1:]
