"""Inputs of an objective, from batches of clips and captions: video or latents, and text states."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from show1_jax.cascade.stages import AUTOENCODER
from show1_jax.checkpoints.networks import LoadedNetwork, architecture_of, load_network
from show1_jax.config.training import DenoisingTrainingConfig
from show1_jax.diffusion.random_keys import fold_in
from show1_jax.nn.vae import Autoencoder
from show1_jax.parallel import put_rows
from show1_jax.text.encoders import encoder_of_kind
from show1_jax.training.objectives import encode_latents
from show1_jax.training.plan import Plan
from show1_jax.training.step import Batch, Frozen, Keys, TextStates, Video
from show1_jax.training.text import TextSource, drop_captions, empty_caption, load_text_source

_CAPTION_DRAW = 1000
"""Number folded into an example's key to draw if its caption is dropped; no draw of the objective uses it."""


class Inputs:
    """Preparation of a stage's inputs: on the host, and inside the step by frozen networks.

    Attributes:
        text: source of text states; None for the autoencoder.
        encode: the source's `encode`, compiled; only if there is a source.
        autoencoder: the frozen autoencoder of the latent stage; None for other stages.
    """

    def __init__(self, plan: Plan, mesh: Mesh):
        config = plan.config
        self._mesh, self._batch_size = mesh, plan.training.batch_size
        self.text: TextSource | None = None
        self.autoencoder: LoadedNetwork | None = None
        if plan.text is not None:
            self.text = load_text_source(
                config.train.text,
                config.checkpoint,
                plan.text,
                padding=config.text_padding,
                mesh=mesh,
                dtype=plan.dtype,
            )
            assert isinstance(plan.training, DenoisingTrainingConfig)
            self._empty, self._dropout = empty_caption(self.text), plan.training.text_dropout
            self.encode = jax.jit(self.text.encode)
        if plan.is_latent:
            self.autoencoder = load_network(plan.frozen_folder(AUTOENCODER), AUTOENCODER, mesh, plan.dtype)

    @property
    def frozen(self) -> Frozen:
        """Weights that the step takes besides the state, by component."""
        weights = {}
        if self.text is not None:
            weights["text"] = self.text.weights
        if self.autoencoder is not None:
            weights[AUTOENCODER] = self.autoencoder.weights
        return weights

    def put(self, video: np.ndarray, captions: Sequence[str], rows: range) -> Batch:
        """Put this process's rows of a batch on the devices, sharded over the mesh.

        Args:
            video: uint8 clips (rows, time, height, width, 3).
            captions: one per clip; ignored without a text source.
            rows: the positions of these clips in the whole batch.
        """
        text = self.text.prepare(captions) if self.text is not None else ()
        arrays = [put_rows(array, rows, self._batch_size, self._mesh) for array in (video, *text)]
        return Batch(arrays[0], tuple(arrays[1:]))

    def prepare(self, frozen: Frozen, batch: Batch, keys: Keys, *, training: bool) -> tuple[Video, TextStates | None]:
        """Compute the objective's inputs inside the step; see `PrepareInputs`.

        Args:
            frozen: weights of the frozen networks.
            batch: uint8 clips and captions.
            keys: one random key per example.
            training: drop captions at random; if False, none is dropped.

        Returns:
            Video in [-1, 1] or scaled latents, and text states; None for the autoencoder.
        """
        video = batch.video.astype(jnp.float32) / 127.5 - 1
        if self.autoencoder is not None:
            autoencoder = nnx.merge(self.autoencoder.graph, frozen[AUTOENCODER])
            assert isinstance(autoencoder, Autoencoder)
            video = encode_latents(autoencoder, video, keys)
        if self.text is None:
            return video, None
        text = batch.text
        if training:
            draws = jax.vmap(lambda key: fold_in(key, _CAPTION_DRAW))(keys)
            text = drop_captions(text, self._empty, draws, self._dropout)
        return video, self.text.encode(frozen["text"], text)


def abstract_inputs(plan: Plan, batch_size: int) -> tuple[Any, Any]:
    """Return the shapes of the objective's inputs for a batch size: video or latents, and text states or None."""
    video = jax.ShapeDtypeStruct((batch_size, *plan.clip_shape()), jnp.float32)
    if plan.text is None:
        return video, None
    record = plan.frozen_record(plan.text)
    architecture: Any = architecture_of(record)
    length = encoder_of_kind(record.kind).length
    return video, jax.ShapeDtypeStruct((batch_size, length, architecture.state_width), plan.dtype)
