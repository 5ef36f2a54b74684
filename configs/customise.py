"""Motion customisation: the keyframe network learns the motion of one clip, in minutes.

  python train.py --config configs/customise.py --config.train.data.path=docs/customise/loop.mp4 --workdir runs/loop
  python sample.py --config configs/demo.py --adapter runs/loop --prompt "a blue square stays still"

The clip is a video file of any length, with its caption in a text file of the same name or as
`--config.train.data.caption`. The demo is customised by default; the full cascade, with the recipe of Video Motion
Customization's authors, by

  python train.py --config configs/customise.py:full --config.train.data.path=CLIP --workdir runs/motion
  python sample.py --config configs/full.py --adapter runs/motion --from_stage keyframes --invert --video CLIP

Hardware: two CPU cores for the demo; docs/customise.md has the minutes, and the memory of both.
Result: videos of other things that move as the thing of the clip does; docs/customise.md says how often.
"""

from show1_jax.config.config_dict import ConfigDict
from show1_jax.errors import UserError

from . import demo, full

TEMPORAL_LAYERS = r"temp_convs|temp_attentions.*attn"
OPTIMIZER = {"kind": "adamw", "schedule": "constant", "warmup_steps": 0, "ema_decay": 0.0}


def get_config(cascade: str = "demo") -> ConfigDict:
    """Return the settings of `train.py`, for the cascade `demo` or `full`."""
    if cascade not in ("demo", "full"):
        raise UserError(f"configs/customise.py:{cascade}: there is no such cascade; give customise.py:demo or :full")
    config = demo.get_config() if cascade == "demo" else full.get_config()
    config.train.default_stage = "keyframes"
    config.train.data.update(name="files", num_validation=0)
    config.train.update(save_every=1000, keep_every=0)  # at the end
    keyframes = config.train.keyframes
    keyframes.update(init=config.checkpoint, num_steps=400, batch_size=1, text_dropout=0.0)
    keyframes.optimizer.update(OPTIMIZER)
    if cascade == "full":
        # As in the authors' code (HyeonHo99/Video-Motion-Customization), which trains in float32.
        config.train.precision = "float32"
        keyframes.update(trainable="temporal_attention", loss="motion")
        keyframes.optimizer.learning_rate = 1e-4
    else:
        # Our choice. Queries, keys and values of its two small temporal attentions are too few for a new motion, and
        # the demo's network places things by its convolutions over time.
        keyframes.update(trainable=TEMPORAL_LAYERS)
        keyframes.optimizer.update(learning_rate=1e-3, beta2=0.999, clip_norm=1.0)
    return config
