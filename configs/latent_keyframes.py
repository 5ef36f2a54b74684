"""Keyframes by a latent network, to compare with the demo's pixel keyframes (the paper's Table 3).

  python train.py --config configs/latent_keyframes.py --stage superres_latent --workdir runs/latent_keyframes

The latent network is trained on all timesteps and on 8 frames at the rate of keyframes, in the latents of the demo's
autoencoder. Frames of 128x80 have latents of 16x10, which is the size of the demo's keyframes in pixels. So it has as
many multiply-adds as the demo's keyframe network (the first and the last convolution have more channels), which is
trained beside it from the same seed, with the same numbers of steps and clips:

  python train.py --config configs/demo.py --stage keyframes --workdir runs/pixel_keyframes --config.train.data.seed=0

Hardware: one CPU core for each. Result: `python -m benchmarks.pixel_or_latent` samples both and compares them.
"""

from show1_jax.config.config_dict import ConfigDict

from . import demo

LATENT_UNET = demo.KEYFRAMES_UNET | {"in_channels": demo.LATENT_CHANNELS, "out_channels": demo.LATENT_CHANNELS}


def get_config() -> ConfigDict:
    """Return the settings of `train.py`."""
    config = demo.get_config()
    config.architecture.superres_latent = LATENT_UNET
    low = config.keyframes
    # From noise alone, at a strength of 1.
    config.superres_latent.update(width=128, num_steps=low.num_steps, guidance_scale=low.guidance_scale, strength=1.0)
    config.output.keyframes_fps /= config.interpolation.num_between + 1  # the latent stage's rate becomes keyframes'
    config.train.superres_latent.update(num_timesteps=1000, num_frames=low.num_frames)
    return config
