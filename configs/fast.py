"""The paper's cascade with 25 denoising steps in pixel super-resolution in place of 125, and nothing else changed.

Four fifths of a video's work are those steps: 38.5 PFLOP become 13.1. On the demo cascade, whose world is simple, the
final videos of 25 steps are 51.2 dB (PSNR) from those of 125, the worst of four 48.2 dB; of 50 steps, 56.3 and 52.1 dB
(`benchmarks/fewer_steps.py`). On the released weights: not measured.
"""

from ml_collections import ConfigDict

from configs import full


def get_config() -> ConfigDict:
    """The settings of `sample.py`."""
    config = full.get_config()
    config.superres_pixel.num_steps = 25
    return config
