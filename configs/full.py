"""The paper's cascade with the released settings: 8 keyframes of 64x40 become 29 frames of 576x320.

Every setting and its released value is documented in `show1_jax.sampling_config`, where it stands once.
"""

from ml_collections import ConfigDict

from show1_jax.request import SampleConfig

PROMPTS = (
    "A burning lamborghini driving on rainbow.",
    "A red fox trots through fresh snow at dawn, its breath visible.",
    "A paper boat sails down a rainy city gutter, close-up.",
    "Time-lapse of a sunflower opening on a hillside above the sea.",
    "An astronaut waters tomato plants in a greenhouse on Mars.",
)


def get_config() -> ConfigDict:
    """The settings of `sample.py`."""
    return ConfigDict(SampleConfig(checkpoint="checkpoints/show1").to_dict() | {"prompts": PROMPTS})
