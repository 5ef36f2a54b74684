"""The paper's cascade with 29 % of the operations of full.py, the released recipe.

  python sample.py --config configs/fast.py --prompt "a burning lamborghini driving on a rainbow"

Hardware: as for configs/full.py. A video takes 11.03 PFLOP in place of 38.40 (benchmarks/operations.py counts them).
Pixel super-resolution, which has 83 % of the released recipe's operations, has 25 steps in place of 125, and computes
the coarse levels of its network at every second one.
Result: 29 frames of 576x320 in outputs/. With the released weights the difference is not measured. On the demo's
networks, with a guidance scale of 1.5, which is less than the released ones, 96 final videos have a PSNR of 52.7 dB to
those of the released numbers of steps, and the worst of them 45.4 dB; 88 show everything that their prompts ask for, of
the others 88 (benchmarks/README.md has the command, the changes one by one, and those that lost too much).
"""

from show1_jax.config.config_dict import ConfigDict

from . import full


def get_config() -> ConfigDict:
    """Return the settings of `sample.py`."""
    config = full.get_config()
    config.superres_pixel.update(num_steps=25, deep_every=2, fine_levels=2)
    return config
