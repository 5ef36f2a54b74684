"""Stylisation of the demo: adapters that learn the style of a few pictures and leave the motion as it is, in minutes.

  python -m benchmarks.stylise pictures --fill outline --out outputs/outline
  python train.py --config configs/stylise.py --stage first_frame --config.train.data.path=outputs/outline \
      --workdir runs/outline/first_frame
  python train.py --config configs/stylise.py --stage superres_pixel --config.train.data.path=outputs/outline \
      --workdir runs/outline/superres_pixel
  python sample.py --config configs/demo.py --stages keyframes,interpolation,first_frame,superres_pixel \
      --adapter runs/outline/first_frame,runs/outline/superres_pixel --prompt "a red circle moves right"

The first line writes 16 pictures of the demo's world in a new style; any folder of pictures with captions will do.
Low-rank adapters of the spatial layers of pixel super-resolution are trained; all layers over frames are frozen. The
keyframes stay plain: with more contrast in its condition (`max_contrast`), super-resolution learns to draw plain things
in the style. Every clip shows a picture at another place and size (`jitter`), and moving (`pan`, `zoom`): otherwise the
networks learn the pictures by heart, and to copy the first frame of a window.

Hardware: two CPU cores; 10 minutes for both stages. Result: videos of 64x40 with outlines, 92 % of 48 in the style,
94 % with the right shape (docs/customise.md).
"""

from show1_jax.config.config_dict import ConfigDict

from . import demo

NUM_STEPS = {"first_frame": 1500, "superres_pixel": 640}
MAX_CONTRAST = 2.5  # an outline covers 0.6 of a thing, stripes and a checkerboard half of it
LORA = {"rank": 8, "alpha": 16.0, "layers": "spatial"}
OPTIMIZER = {"learning_rate": 3e-3, "schedule": "cosine", "warmup_steps": 10, "ema_decay": 0.95}


def get_config() -> ConfigDict:
    """Return the settings of `train.py`."""
    config = demo.get_config()
    config.train.data.update(name="files", num_validation=0, pan=0.15, zoom=0.15, jitter=0.25)
    config.train.update(evaluate_every=0, sample_every=0, save_every=1000, keep_every=0)  # one save, at the end
    for stage, num_steps in NUM_STEPS.items():
        config.train[stage].update(
            init=config.checkpoint, num_steps=num_steps, trainable="lora", max_contrast=MAX_CONTRAST
        )
        config.train[stage].lora.update(LORA)
        config.train[stage].optimizer.update(OPTIMIZER)
    config.superres_pixel.update(window=3, stride=2)  # the same layers as with 8 frames, in less time
    return config
