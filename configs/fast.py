"""The paper's cascade with 25 denoising steps in pixel super-resolution in place of 125, and nothing else changed.

Four fifths of a video's work are those steps: 38.5 PFLOP become 13.1. On the demo cascade, whose world is simple, the
final videos of 25 steps are 56.5 dB (PSNR) from those of 125, the worst of four 52.3 dB; of 50 steps, 60.8 and 59.5 dB
(`benchmarks/fewer_steps.py`). On the released weights: not measured.
"""

from ml_collections import ConfigDict

from configs import full


def get_config() -> ConfigDict:
    """The settings of `sample.py`."""
    config = full.get_config()
    config.superres_pixel.num_steps = 25
    return config
