"""The UNet's layers against NumPy, with settings that the recorded run does not cover, and the use of each setting."""

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from show1_jax.nn.blocks import ResnetBlock, Upsample, spatial_attention, temporal_attention
from show1_jax.nn.config import UNetConfig
from show1_jax.nn.init import initial_weight
from show1_jax.nn.layers import Layers, pixel_positions, resize_nearest, sinusoidal_embedding
from show1_jax.nn.temporal import TemporalConv
from show1_jax.nn.unet import UNet
from show1_jax.nn.vae import Autoencoder
from show1_jax.parallel.weights import to_state, to_weights
from tests.helpers import tiny_config

MAKE = Layers()  # parameters are shapes; `randomised` fills them
TOLERANCE = 1e-4
PIXEL = UNetConfig(
    in_channels=3,
    out_channels=6,
    block_out_channels=(32, 64, 128),
    layers_per_block=(1, 3, 2),
    attention_levels=(True, True, True),
    down_head_dim=(8, 16, 32),
    mid_head_dim=64,
    up_head_dim=(8, 16, 32),
    cross_attention_dim=64,
    norm_num_groups=16,
)
LATENT = dataclasses.replace(
    PIXEL,
    attention="transformer",
    resampling="conv",
    temporal_heads="channels",
    transformer_in_head_dim=16,
    time_scale_shift=False,
    down_head_dim=(16, 16, 16),
    mid_head_dim=16,
    up_head_dim=(16, 16, 16),
)

Weights = dict[str, np.ndarray]


def randomised(module: Any) -> tuple[Any, Weights]:
    """Return the module with random non-zero parameters, and these parameters by dotted path."""
    rng = np.random.default_rng(0)
    graph, state = nnx.split(module)
    flat, weights = [], {}
    for path, variable in nnx.to_flat_state(state):
        fan_in = math.prod(variable.shape[:-1]) or 1
        value = rng.standard_normal(variable.shape) * (fan_in**-0.5 if len(variable.shape) > 1 else 0.5)
        if path[-1] == "scale":
            value += 1
        weights[".".join(map(str, path))] = value.astype(np.float32)
        flat.append((path, variable.replace(jax.numpy.asarray(value, jax.numpy.float32))))
    return nnx.merge(graph, nnx.from_flat_state(flat)), weights


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def linear(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return x @ w[f"{name}.kernel"] + w.get(f"{name}.bias", 0)


def normalised(x: np.ndarray, axes: tuple[int, ...], epsilon: float) -> np.ndarray:
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)


def group_norm(w: Weights, name: str, x: np.ndarray, groups: int, epsilon: float) -> np.ndarray:
    """Normalise over groups of channels and all axes between the first one and the channels."""
    grouped = normalised(x.reshape(len(x), -1, groups, x.shape[-1] // groups), (1, 3), epsilon)
    return grouped.reshape(x.shape) * w[f"{name}.scale"] + w[f"{name}.bias"]


def frame_norm(w: Weights, name: str, x: np.ndarray, groups: int, epsilon: float) -> np.ndarray:
    frames = x.reshape(-1, *x.shape[2:])
    return group_norm(w, name, frames, groups, epsilon).reshape(x.shape)


def layer_norm(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return normalised(x, (-1,), 1e-5) * w[f"{name}.scale"] + w[f"{name}.bias"]


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int) -> np.ndarray:
    """Return softmax(q k / sqrt(width)) v for arrays of (tokens, channels), head by head."""
    out = []
    for q_head, k_head, v_head in zip(*(np.split(x, heads, axis=-1) for x in (q, k, v)), strict=True):
        scores = np.exp(q_head @ k_head.T / math.sqrt(q_head.shape[-1]))
        out.append(scores / scores.sum(-1, keepdims=True) @ v_head)
    return np.concatenate(out, axis=-1)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def transformer_block(
    w: Weights, name: str, x: np.ndarray, heads: int, context: np.ndarray | None = None
) -> np.ndarray:
    """Apply self-attention, attention over the context or self-attention, and a feed-forward layer with a GELU gate."""
    for number in (1, 2):
        y = layer_norm(w, f"{name}.norm{number}", x)
        attended = context if number == 2 and context is not None else y
        q, k, v = (linear(w, f"{name}.attn{number}.to_{part}", y if part == "q" else attended) for part in "qkv")
        x = x + linear(w, f"{name}.attn{number}.to_out", attend(q, k, v, heads))
    value, gate = np.split(linear(w, f"{name}.ff.proj_in", layer_norm(w, f"{name}.norm3", x)), 2, axis=-1)
    return x + linear(w, f"{name}.ff.proj_out", value * gelu(gate))


def conv3x3(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[2:4]
    kernel = w[f"{name}.kernel"]
    taps = [padded[:, :, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3)]
    return sum(taps) + w[f"{name}.bias"]


def called(module: Any, *inputs: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(module.__call__)(*inputs))


def close(ours: Any, expected: np.ndarray) -> None:
    np.testing.assert_allclose(np.asarray(ours), expected, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize(("config", "heads"), [(PIXEL, 16), (LATENT, 4)])
def test_temporal_attention_is_along_time_with_the_right_number_of_heads(config: UNetConfig, heads: int) -> None:
    # With 64 channels a head size of 16 means 16 heads of 4 in the pixel UNets and 4 heads of 16 in the latent one.
    module, w = randomised(temporal_attention(config, 64, 16, MAKE))
    x = 0.03 * random(2, 3, 1, 2, 64)  # so small that the norm's epsilon matters
    y = linear(w, "proj_in", group_norm(w, "norm", x, config.norm_num_groups, 1e-6))
    for clip, row, column in np.ndindex(2, 1, 2):
        y[clip, :, row, column] = transformer_block(w, "transformer_blocks.0", y[clip, :, row, column], heads)
    close(called(module, x), x + linear(w, "proj_out", y))


def test_the_latent_unet_s_spatial_attention_is_over_its_own_frame_then_the_text() -> None:
    module, w = randomised(spatial_attention(LATENT, 64, 16, False, MAKE))
    x, text = 0.03 * random(2, 2, 1, 3, 64), random(2, 5, 64)
    y = linear(w, "proj_in", frame_norm(w, "norm", x, 16, 1e-6))
    for clip, frame in np.ndindex(2, 2):
        y[clip, frame, 0] = transformer_block(w, "transformer_blocks.0", y[clip, frame, 0], 4, text[clip])
    close(called(module, x, text), x + linear(w, "proj_out", y))


@pytest.mark.parametrize("only_cross", [False, True])
@pytest.mark.parametrize("norm_text", [False, True])
def test_added_kv_attention_is_over_the_text_and_its_own_frame(only_cross: bool, norm_text: bool) -> None:
    # With 64 channels a head size of 16 means 4 heads here; the text norm is over all tokens, in 32 groups of 2.
    config = dataclasses.replace(PIXEL, cross_attention_norm=norm_text)
    module, w = randomised(spatial_attention(config, 64, 16, only_cross, MAKE))
    x, text = 0.03 * random(2, 2, 1, 3, 64), 0.03 * random(2, 5, 64)
    assert (module.to_k is None) == only_cross
    pixels = frame_norm(w, "group_norm", x, 16, 1e-5)
    states = group_norm(w, "norm_cross", text, 32, 1e-5) if norm_text else text
    expected = x.copy()
    for clip, frame in np.ndindex(2, 2):
        own = pixels[clip, frame].reshape(-1, 64)
        keys, values = (linear(w, f"add_{part}_proj", states[clip]) for part in "kv")
        if not only_cross:
            keys = np.concatenate([keys, linear(w, "to_k", own)])
            values = np.concatenate([values, linear(w, "to_v", own)])
        out = attend(linear(w, "to_q", own), keys, values, 4)
        expected[clip, frame] += linear(w, "to_out", out).reshape(1, 3, 64)
    close(called(module, x, text), expected)


def test_a_temporal_convolution_norms_over_all_frames_in_32_groups() -> None:
    module, w = randomised(TemporalConv(64, MAKE))
    x = 0.03 * random(2, 3, 1, 2, 64)
    y = x
    for name in ("conv1", "conv2", "conv3", "conv4"):
        y = np.pad(silu(group_norm(w, f"{name}.norm", y, 32, 1e-5)), ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
        kernel = w[f"{name}.conv.kernel"]
        y = sum(y[:, tap : tap + 3] @ kernel[tap, 0] for tap in range(3)) + w[f"{name}.conv.bias"]
    close(called(module, x), x + y)


def test_temporal_norms_of_few_channels_have_a_group_for_each() -> None:
    config = UNetConfig.from_dict(tiny_config.LATENT_UNET | {"block_out_channels": (16,), "norm_num_groups": 4})
    network = UNet(config, Layers())
    assert network.transformer_in.norm.num_groups == 16
    assert network.down_blocks[0].temp_convs[0].conv1.norm.num_groups == 16


def test_temporal_layers_are_initialised_as_the_identity() -> None:
    x = random(1, 3, 1, 2, 32)
    modules = {"temp_convs": TemporalConv(32, MAKE), "temp_attentions": temporal_attention(PIXEL, 32, 8, MAKE)}
    for name, module in modules.items():
        graph, state = nnx.split(module)
        weights = {
            path: jax.numpy.asarray(initial_weight((name, "0", *path), leaf.shape))
            for path, leaf in to_weights(state).items()
        }
        assert sum(not weight.any() for path, weight in weights.items() if path[-1] == "kernel") == 1
        np.testing.assert_array_equal(called(nnx.merge(graph, to_state(state, weights)), x), x)


def test_initial_weights_have_a_variance_of_one_over_their_inputs() -> None:
    for path, shape, std in (
        (("resnets", "0", "conv1", "kernel"), (3, 3, 64, 32), 1 / 24),
        (("attentions", "0", "to_q", "kernel"), (256, 64), 1 / 16),
        (("shared", "embedding"), (64, 256), 1.0),
        (("pool", "positional_embedding"), (1, 4096), 1 / 64),
    ):
        weight = initial_weight(path, shape, seed=3)
        assert weight.dtype == np.float32
        assert abs(weight.std() / std - 1) < 0.05
        assert abs(weight.mean()) < 0.05 * std
        np.testing.assert_array_equal(weight, initial_weight(path, shape, seed=3))
        assert (weight != initial_weight(path, shape, seed=4)).all()
    assert (initial_weight(("norm", "scale"), (8,)) == 1).all()
    assert not initial_weight(("conv", "bias"), (8,)).any()


@pytest.mark.parametrize(
    ("scale_shift", "skip_time_act", "resample"),
    [(False, False, None), (False, True, "down"), (True, False, "up"), (True, True, None)],
)
def test_resnet(scale_shift: bool, skip_time_act: bool, resample: Any) -> None:
    block, w = randomised(
        ResnetBlock(
            32,
            64,
            embedding_dim=8,
            act_fn="gelu",
            num_groups=16,
            epsilon=1e-5,
            time_scale_shift=scale_shift,
            skip_time_act=skip_time_act,
            scale_factor=1.3,
            resample=resample,
            make=MAKE,
        )
    )
    x, embedding = random(2, 2, 2, 4, 32), random(2, 8)
    resized = {
        None: lambda y: y,
        "up": lambda y: y.repeat(2, axis=2).repeat(2, axis=3),
        "down": lambda y: sum(y[:, :, i::2, j::2] for i, j in np.ndindex(2, 2)) / 4,
    }[resample]
    y = conv3x3(w, "conv1", resized(gelu(frame_norm(w, "norm1", x, 16, 1e-5))))
    term = linear(w, "time_emb_proj", embedding if skip_time_act else gelu(embedding))[:, None, None, None]
    if scale_shift:
        y = frame_norm(w, "norm2", y, 16, 1e-5) * (1 + term[..., :64]) + term[..., 64:]
    else:
        y = frame_norm(w, "norm2", y + term, 16, 1e-5)
    skip = resized(x) @ w["conv_shortcut.kernel"][0, 0] + w["conv_shortcut.bias"]
    close(called(block, x, embedding), (skip + conv3x3(w, "conv2", gelu(y))) / 1.3)


@settings(max_examples=8)
@given(height=st.integers(1, 5), width=st.integers(1, 5), new_height=st.integers(1, 9), new_width=st.integers(1, 9))
def test_nearest_uses_the_pixel_at_or_before(height: int, width: int, new_height: int, new_width: int) -> None:
    x = random(1, 1, height, width, 2)
    ours = np.asarray(resize_nearest(jnp.asarray(x), new_height, new_width))
    for i, j in np.ndindex(new_height, new_width):
        row, column = math.floor(i * height / new_height), math.floor(j * width / new_width)
        np.testing.assert_array_equal(ours[:, :, i, j], x[:, :, row, column])


def test_upsampling_goes_to_the_given_size() -> None:
    upsample, w = randomised(Upsample(4, MAKE))
    x = random(1, 2, 2, 3, 4)
    close(jax.jit(lambda x: upsample(x, (3, 5)))(x), conv3x3(w, "conv", x[:, :, [0, 0, 1]][:, :, :, [0, 0, 1, 1, 2]]))
    assert jax.eval_shape(upsample, x).shape == (1, 2, 4, 6, 4)


def test_the_latent_unet_accepts_sizes_that_do_not_halve() -> None:
    config = dataclasses.replace(LATENT, layers_per_block=(1, 1, 1))
    graph, state = nnx.split(UNet(config, Layers()))
    shapes = ((1, 2, 5, 10, 3), (1,), (1, 5, 64))
    inputs = [jax.ShapeDtypeStruct(shape, np.int32 if len(shape) == 1 else np.float32) for shape in shapes]
    output = jax.eval_shape(lambda state, *inputs: nnx.merge(graph, state)(*inputs), state, *inputs)
    assert output.shape == (1, 2, 5, 10, 6)


@pytest.mark.parametrize("config", [PIXEL, LATENT])
@pytest.mark.parametrize("fine_levels", [1, 3])
def test_deep_features_of_the_same_inputs_give_the_same_prediction(config: UNetConfig, fine_levels: int) -> None:
    network, _ = randomised(UNet(dataclasses.replace(config, layers_per_block=(1, 1, 1)), MAKE))
    graph, state = nnx.split(network)
    inputs, others = (
        (scale * random(1, 2, 4, 8, 3), np.array([step]), random(1, 5, 64)) for scale, step in ((1, 7), (0.5, 3))
    )
    run = jax.jit(lambda *given, **deep: nnx.merge(graph, state).predict(*given, fine_levels=fine_levels, **deep))
    whole, deep = run(*inputs)
    np.testing.assert_array_equal(run(*inputs, deep=deep)[0], whole)
    assert deep.shape == ((1, 2, 4, 8, 64), (1, 2, 1, 2, 128))[fine_levels == 3]
    with_others = run(*others, deep=deep)[0]
    assert np.abs(with_others - whole).max() > 1e-3
    assert np.abs(with_others - run(*others)[0]).max() > 1e-3


def test_position_channels_are_the_coordinates_of_the_pixels() -> None:
    positions = np.asarray(pixel_positions(jnp.zeros((2, 3, 5, 4, 1))))
    for frame, row, column in ((0, 0, 0), (1, 4, 3), (2, 1, 2)):
        expected = [frame / 2 * 2 - 1, row / 4 * 2 - 1, column / 3 * 2 - 1]
        np.testing.assert_allclose(positions[:, frame, row, column], [expected] * 2, atol=1e-6)
    graph, state = nnx.split(UNet(dataclasses.replace(PIXEL, position_channels=True), MAKE))
    inputs = [jax.ShapeDtypeStruct(shape, np.float32) for shape in ((2, 3, 4, 8, 3), (2, 5, 64))]
    timestep = jax.ShapeDtypeStruct((2,), np.int32)
    run = lambda state, sample, text, timestep: nnx.merge(graph, state)(sample, timestep, text)  # noqa: E731
    assert jax.eval_shape(run, state, *inputs, timestep).shape == (2, 3, 4, 8, 6)


@settings(max_examples=8)
@given(value=st.integers(0, 1000), flip=st.booleans(), shift=st.integers(0, 1), dim=st.sampled_from([8, 32]))
def test_sinusoids(value: int, flip: bool, shift: int, dim: int) -> None:
    ours = sinusoidal_embedding(jnp.array([value]), dim, flip_sin_to_cos=flip, freq_shift=shift)
    angles = [value * 10000 ** (-i / (dim / 2 - shift)) for i in range(dim // 2)]
    sines, cosines = np.sin(angles), np.cos(angles)
    np.testing.assert_allclose(ours[0], np.concatenate([cosines, sines] if flip else [sines, cosines]), atol=2e-4)


def test_each_level_has_its_settings() -> None:
    config = dataclasses.replace(
        PIXEL, only_cross_attention=(False, True, False), out_scale_factor=1.3, mid_scale_factor=1.5
    )
    network: Any = UNet(config, Layers())
    down, mid, up = network.down_blocks, network.mid_block, network.up_blocks
    assert [block.attentions[0].head_dim for block in down] == [8, 16, 32]
    assert mid.attentions[0].head_dim == 64
    # The up path has its own list of head sizes, `up_head_dim`, from the coarsest level on.
    assert [block.attentions[0].head_dim for block in up] == [8, 16, 32]
    assert [block.temp_attentions[0].transformer_blocks[0].attn1.head_dim for block in up] == [16, 4, 1]
    assert [len(block.resnets) for block in down] == [1, 3, 2]
    assert [len(block.resnets) for block in up] == [3, 4, 2]
    assert [block.attentions[0].to_k is None for block in (*down, mid, *up)] == [
        *(False, True, False),
        False,
        *(False, True, False),
    ]
    level_resnets = [resnet for block in (*down, *up) for resnet in block.resnets]
    level_resnets += [resnet for block in down for resnet in block.downsamplers]
    level_resnets += [resnet for block in up for resnet in block.upsamplers]
    assert len(level_resnets) == 6 + 9 + 2 + 2
    assert {resnet.scale_factor for resnet in level_resnets} == {1.3}
    assert [resnet.scale_factor for resnet in mid.resnets] == [1.5, 1.5]


def test_text_only_attention_of_a_coarse_level_is_first_in_the_up_path() -> None:
    network: Any = UNet(dataclasses.replace(PIXEL, only_cross_attention=(False, False, True)), Layers())
    assert [block.attentions[0].to_k is None for block in network.down_blocks] == [False, False, True]
    assert [block.attentions[0].to_k is None for block in network.up_blocks] == [True, False, False]


@pytest.mark.parametrize(("config", "head_dim", "inner"), [(LATENT, 16, 128), (PIXEL, 64, 512)])
def test_transformer_in_has_eight_heads_and_32_groups(config: UNetConfig, head_dim: int, inner: int) -> None:
    network = UNet(dataclasses.replace(config, transformer_in_head_dim=head_dim), Layers())
    assert network.transformer_in.proj_in.kernel.shape == (32, inner)
    assert network.transformer_in.transformer_blocks[0].attn1.head_dim == head_dim
    assert network.transformer_in.norm.num_groups == 32


def test_log_variances_are_clipped() -> None:
    moments = jnp.array([1.0, 2.0, -50.0, 50.0]).reshape(1, 1, 1, 1, 4)
    coder: Any = SimpleNamespace(encoder=lambda x: x, quant_conv=lambda x: x, dtype=np.float32)
    mean, logvar = Autoencoder.encode(coder, moments)
    np.testing.assert_array_equal(mean.ravel(), [1, 2])
    np.testing.assert_array_equal(logvar.ravel(), [-30, 20])
