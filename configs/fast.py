"""The paper's cascade with 25 denoising steps in pixel super-resolution, not 125; the rest is as in full.py.

  python sample.py --config configs/fast.py --prompt "a burning lamborghini driving on a rainbow"

Hardware: as for configs/full.py. A video takes 13.1 PFLOP in place of 38.5: four fifths of the work are those steps.
Result: 29 frames of 576x320 in outputs/. With the released weights the difference is not measured. In the demo cascade,
whose world is simple, final videos of 25 steps have a PSNR of 51.2 dB to those of 125 steps, and the worst of four has
48.2 dB. With 50 steps it is 56.3 and 52.1 dB (benchmarks/README.md has the command).
"""

from configs import full
from show1_jax.config.config_dict import ConfigDict


def get_config() -> ConfigDict:
    """Return the settings of `sample.py`."""
    config = full.get_config()
    config.superres_pixel.num_steps = 25
    return config
