"""The networks beside the UNets: text encoders and autoencoder."""

import statistics
import time
from typing import Any, Final

import jax

from benchmarks.accelerator.setting import Setting, milliseconds
from benchmarks.accelerator.steps import Results
from benchmarks.sampling import GB, draw, timed
from show1_jax.cascade.programs import Program, as_sampled, autoencoder_programs, text_encoding
from show1_jax.checkpoints.networks import random_network
from show1_jax.config.sampling import AUTOENCODER
from show1_jax.training.flops import count_flops

NETWORKS: Final = "Text encoders and autoencoder"
NUM_TEXTS: Final = 2


def text_encoder(setting: Setting, component: str) -> Results:
    """Measure the encoding of a prompt and the empty prompt."""
    yield _measure(setting, component, f"{NUM_TEXTS} texts", text_encoding(setting.spec, component, NUM_TEXTS))


def autoencoder(setting: Setting) -> Results:
    """Measure the encoding and the decoding of a video of the last stage."""
    encoding, decoding = autoencoder_programs(setting.spec, "superres_latent")
    yield _measure(setting, AUTOENCODER, "a video, encoded", encoding)
    yield _measure(setting, AUTOENCODER, "a video, decoded", decoding)


def _measure(setting: Setting, component: str, call: str, program: Program) -> tuple[str, dict[str, Any]]:
    spec = setting.spec
    network = random_network(spec.manifest.component(component), spec.mesh, spec.dtype)
    arguments = [network.weights if each is program.weights else jax.tree.map(draw, each) for each in program.arguments]
    with as_sampled(spec):
        traced = program.trace()
        started = time.perf_counter()
        jax.block_until_ready(program.function(*arguments))
        first = time.perf_counter() - started
        seconds = timed(lambda: program.function(*arguments), setting.num_steps)
    leaves = jax.tree.leaves(network.weights)
    flops, num_bytes = count_flops(traced.jaxpr.jaxpr), sum(leaf.nbytes for leaf in leaves)
    floor, median = setting.floor(flops, num_bytes), statistics.median(seconds)
    return NETWORKS, {
        "network": component,
        "call": call,
        "GFLOP": flops / 1e9,
        "ms": milliseconds(seconds),
        "floor ms": 1e3 * floor,
        "times floor": median / floor,
        "first call s": first,
        "weights GB": num_bytes / GB,
    }
