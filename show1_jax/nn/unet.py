"""The UNet of every stage of the cascade; its settings make it 3-D over pixels, 3-D over latents or 2-D over images."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from show1_jax.nn.array_types import TextStates
from show1_jax.nn.blocks import DownBlock, Embedding, Features, MidBlock, Output, UpBlock
from show1_jax.nn.config import UNetConfig, temporal_groups
from show1_jax.nn.layers import (
    Layers,
    TextTimeEmbedding,
    TimestepEmbedding,
    activation,
    per_frame,
    pixel_positions,
    rematerialised,
    sinusoidal_embedding,
)
from show1_jax.nn.temporal import TemporalTransformer
from show1_jax.parallel import constrain_activation


class UNet(nnx.Module):
    """A text-conditioned UNet over video (Show-1, section 3.3; an image is a video of one frame).

    It maps a noisy sample, a timestep and text states to a prediction; the noise schedule is the caller's.
    """

    def __init__(self, config: UNetConfig, make: Layers):
        first, levels = config.block_out_channels[0], range(len(config.block_out_channels))
        dim = config.embedding_dim
        in_channels = config.in_channels + (3 if config.position_channels else 0)
        self.conv_in = make.conv(in_channels, first, config.conv_in_kernel)
        if config.transformer_in_head_dim:
            groups = temporal_groups(first)
            self.transformer_in = TemporalTransformer(first, 8, config.transformer_in_head_dim, groups, make)
        self.time_embedding = TimestepEmbedding(first, dim, config.act_fn, make)
        if config.noise_level_embedding:
            self.class_embedding = TimestepEmbedding(first, dim, config.act_fn, make)
        if config.text_embedding_heads:
            self.add_embedding = TextTimeEmbedding(config.raw_text_dim, dim, config.text_embedding_heads, make)
        if config.text_dim:
            self.encoder_hid_proj = make.linear(config.text_dim, config.cross_attention_dim)
        self.down_blocks = nnx.List([DownBlock(config, level, make) for level in levels])
        self.mid_block = MidBlock(config, make)
        self.up_blocks = nnx.List([UpBlock(config, level, make) for level in levels])
        self.conv_norm_out = make.group_norm(first, config.norm_num_groups, config.norm_eps)
        self.conv_out = make.conv(first, config.out_channels, config.conv_out_kernel)
        self.config = config
        self.dtype = make.dtype
        self.remat = make.remat

    def __call__(
        self,
        sample: Float[Array, "b t h w c_in"],
        timestep: Int[Array, " b"],
        text: Float[Array, "b n d"],
        noise_level: Int[Array, " b"] | None = None,
    ) -> Float[Array, "b t h w c_out"]:
        """Predict the noise, the clean sample or v (the scheduler's `prediction_type`) of a noisy sample.

        Args:
            sample: noisy video or latents, with the stage's condition appended as channels.
            timestep: one for each video, 0 (least noise) to the schedule's length - 1.
            text: last states of the text encoder, padding included (no UNet of the cascade masks it).
            noise_level: level of the noise on the low-resolution condition; required if the network is conditioned on
                it (`noise_level_embedding`), and otherwise None.

        Returns:
            The prediction in float32; pixel UNets append the same number of channels for the variance.

        Raises:
            ValueError: `noise_level` is missing, or the network has no embedding for it.
        """
        return self.predict(sample, timestep, text, noise_level)[0]

    def predict(
        self,
        sample: Float[Array, "b t h w c_in"],
        timestep: Int[Array, " b"],
        text: Float[Array, "b n d"],
        noise_level: Int[Array, " b"] | None = None,
        *,
        fine_levels: int = 1,
        deep: Float[Array, "b t _ _ _"] | None = None,
    ) -> tuple[Float[Array, "b t h w c_out"], Float[Array, "b t _ _ _"]]:
        """Predict as a call does; return the features of the deep levels too, or reuse some.

        Features of these levels change little between neighbouring timesteps (DeepCache, Ma et al. 2023, arXiv
        2312.00858). With given features the deep levels are not computed.

        Args:
            sample: see `__call__`, as for the other arguments.
            timestep: one for each video.
            text: states of the text encoder.
            noise_level: level of the noise on the low-resolution condition.
            fine_levels: number of levels that are not deep, finest first; 1 to the number of levels.
            deep: features of an earlier call with the same `fine_levels`, which enter the up path of the fine levels.

        Returns:
            The prediction, and the features that entered the up path of the fine levels.
        """
        text = text.astype(self.dtype)
        embedding = self._embed(timestep, text, noise_level)
        if self.config.text_dim:
            text = self.encoder_hid_proj(text)
        if self.config.position_channels:
            sample = jnp.concatenate([sample, pixel_positions(sample)], axis=-1)
        x = self.conv_in(sample.astype(self.dtype))
        if self.config.transformer_in_head_dim:
            x = rematerialised(self.transformer_in.__call__, self.remat)(x)
        levels = len(self.down_blocks)
        skips = [x]
        self._down(range(fine_levels), skips, embedding, text)
        if deep is None:
            self._down(range(fine_levels, levels), skips, embedding, text)
            x = self.mid_block(constrain_activation(skips[-1]), embedding, text)
            deep = self._up(range(levels - fine_levels), x, skips, embedding, text)
        x = self._up(range(levels - fine_levels, levels), deep, skips, embedding, text)
        x = self.conv_out(activation(self.config.out_act_fn)(per_frame(self.conv_norm_out, x)))
        return x.astype(jnp.float32), deep

    def _down(self, levels: range, skips: list[Output], embedding: Embedding, text: TextStates) -> None:
        """Run levels of the down path, each after the downsampling of the level before; append to `skips`."""
        for level in levels:
            if level > 0:
                skips.append(self.down_blocks[level - 1].downsample(skips[-1], embedding))
            skips += self.down_blocks[level](constrain_activation(skips[-1]), embedding, text)

    def _up(self, levels: range, x: Features, skips: list[Output], embedding: Embedding, text: TextStates) -> Output:
        """Run levels of the up path, counted from the coarsest; they pop their skips."""
        for level in levels:
            x = self.up_blocks[level](constrain_activation(x), skips, embedding, text)
        return x

    def _embed(
        self, timestep: Int[Array, " b"], text: Float[Array, "b n d"], noise_level: Int[Array, " b"] | None
    ) -> Float[Array, "b e"]:
        """Return the sum of the timestep, noise level and text embeddings, which conditions every resnet."""
        config = self.config
        if (noise_level is not None) != config.noise_level_embedding:
            raise ValueError("noise_level is required with noise_level_embedding, and not allowed without it")

        def sinusoids(values: Int[Array, " b"]) -> Float[Array, "b d"]:
            first = config.block_out_channels[0]
            return sinusoidal_embedding(
                values, first, flip_sin_to_cos=config.flip_sin_to_cos, freq_shift=config.freq_shift
            ).astype(self.dtype)

        embedding = self.time_embedding(sinusoids(timestep))
        if noise_level is not None:
            embedding += self.class_embedding(sinusoids(noise_level))
        if config.text_embedding_heads:
            embedding += self.add_embedding(text)
        return activation(config.time_embedding_act_fn)(embedding) if config.time_embedding_act_fn else embedding
