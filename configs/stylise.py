"""Stylisation of the demo: adapters that learn the style of a few pictures and leave the motion as it is, in minutes.

  python -m benchmarks.stylise pictures --fill outline --out outputs/outline
  python train.py --config configs/stylise.py --stage keyframes --config.train.data.path=outputs/outline \
      --workdir runs/outline/keyframes
  python train.py --config configs/stylise.py --stage first_frame --config.train.data.path=outputs/outline \
      --workdir runs/outline/first_frame
  python train.py --config configs/stylise.py --stage superres_pixel --config.train.data.path=outputs/outline \
      --config.train.data.pan=0.15 --workdir runs/outline/superres_pixel
  python sample.py --config configs/demo.py --stages keyframes,interpolation,first_frame,superres_pixel \
      --adapter runs/outline/keyframes,runs/outline/first_frame,runs/outline/superres_pixel \
      --config.first_frame.noise_level=120 --prompt "a red circle moves right"

The first line writes 16 pictures of the demo's world in a new style; any folder of pictures with captions will do.
Low-rank adapters of the spatial layers are trained; all layers over frames are frozen, since the pictures do not move.
Pixel super-resolution sees them move across the frame (`pan`): otherwise it learns to copy the first frame of a window.

Hardware: two CPU cores, 4 minutes a stage. Result: videos of 64x40 with outlines; docs/customise.md has the shares.
"""

from show1_jax.config.config_dict import ConfigDict

from . import demo

NUM_STEPS = {"keyframes": 220, "first_frame": 500, "superres_pixel": 560}
LORA = {"rank": 8, "alpha": 16.0, "layers": "spatial"}
OPTIMIZER = {"learning_rate": 3e-3, "schedule": "cosine", "warmup_steps": 10, "ema_decay": 0.95}


def get_config() -> ConfigDict:
    """Return the settings of `train.py`."""
    config = demo.get_config()
    config.train.data.update(name="files", num_validation=0)
    config.train.update(evaluate_every=0, sample_every=0, save_every=1000, keep_every=0)  # one save, at the end
    for stage, num_steps in NUM_STEPS.items():
        config.train[stage].update(init=config.checkpoint, num_steps=num_steps, trainable="lora")
        config.train[stage].lora.update(LORA)
        config.train[stage].optimizer.update(OPTIMIZER)
    config.superres_pixel.update(window=3, stride=2)  # the same layers as with 8 frames, in less time
    return config
