"""Small text encoders with their tokenizers, trained only on the captions of the synthetic world.

    python -m show1_jax.training.caption_encoders --config configs/demo.py --out checkpoints/demo-text

The released cascade's encoders are trained on text from the internet. These know one grammar, in which every word is
one token. From each token's state, a linear layer predicts the words of the token's own clause and of the phrase that
names the background; from the end token's state, all words of the caption. The layer is discarded after training. So
the states that pixels attend to encode which words belong together: which shape is red, which of two objects moves up.
"""

import sys

from show1_jax.cli import ArgumentParser, load_config, require_jax, run_command

if __name__ == "__main__":
    require_jax("caption_encoders")

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float32

from show1_jax.checkpoints.arrays import CheckpointWriter, new_checkpoint
from show1_jax.checkpoints.manifest import Component
from show1_jax.checkpoints.networks import make_network
from show1_jax.config.config_file import Config
from show1_jax.data.synthetic.nearest import WORLD_SOURCE
from show1_jax.data.synthetic.world import scene_from_index
from show1_jax.errors import UserError
from show1_jax.files import user_path
from show1_jax.nn.init import initial_weight
from show1_jax.nn.text_architecture import TextArchitecture
from show1_jax.parallel.mesh import all_devices
from show1_jax.parallel.weights import Weights, to_state, to_weights
from show1_jax.progress import track
from show1_jax.text.encoders import TEXT_ENCODERS, TextEncoder
from show1_jax.text.encoding import encode_text
from show1_jax.text.tokenizers import TextTokenizer, Tokens

NUM_CAPTIONS: Final = 20_000
BATCH_SIZE: Final = 128
"""Captions per training step."""
LEARNING_RATE: Final = 3e-3


def main(arguments: Sequence[str]) -> None:
    """Train the text encoders that a config describes, and write them as a checkpoint.

    Args:
        arguments: of the command line, without the program's name.

    Raises:
        UserError: the number of steps is below 1; JAX finds no devices; the config has no architecture of a text
            encoder, or one that does not fit its tokenizer; or the target exists.
    """
    parser = ArgumentParser(
        prog="python -m show1_jax.training.caption_encoders", description="Train small text encoders on captions."
    )
    parser.add_argument("--config", required=True, help="a config file with the encoders' architecture")
    parser.add_argument("--out", type=user_path, required=True, metavar="DIR", help="the checkpoint to make")
    parser.add_argument("--steps", type=int, default=1500, help="training steps of each encoder")
    parsed = parser.parse_args(arguments)
    if parsed.steps < 1:
        raise UserError(f"--steps={parsed.steps} must be at least 1")
    config = load_config(parsed.config)
    all_devices()  # without any, refused before captions are drawn and a folder is made
    captions = [scene_from_index(index).scene.sentence() for index in range(NUM_CAPTIONS)]
    encoders = [encoder for encoder in TEXT_ENCODERS.values() if encoder.component in config.architecture]
    if not encoders:
        raise UserError(f"the config has no architecture of {' or '.join(TEXT_ENCODERS)}; add one")
    with new_checkpoint(parsed.out) as writer:
        for encoder in encoders:
            with tempfile.TemporaryDirectory() as folder:
                _add_encoder(writer, encoder, config, captions, Path(folder), parsed.steps)


def _add_encoder(
    writer: CheckpointWriter,
    encoder: TextEncoder,
    config: Config,
    captions: Sequence[str],
    folder: Path,
    steps: int,
) -> None:
    """Train one encoder and write it with its tokenizer. `folder` holds the tokenizer's files meanwhile."""
    name = encoder.component
    architecture = encoder.architecture.from_dict(config.architecture[name])
    encoder.write_tokenizer(folder, captions)
    labelled = LabelledCaptions.from_captions(captions, encoder.load_tokenizer(folder))
    largest = int(labelled.ids.max())
    if largest >= architecture.vocab_size:
        raise UserError(
            f"architecture.{name}: vocab_size={architecture.vocab_size} must be at least {largest + 1} for these "
            "captions"
        )
    weights, accuracy = train_encoder(encoder, architecture, labelled, steps)
    record = Component(
        kind=encoder.kind,
        architecture=architecture.to_dict(),
        dtype="float32",
        provenance={"source": WORLD_SOURCE, "steps": steps, "accuracy": accuracy},
    )
    stored = {path: np.asarray(weight) for path, weight in weights.items()}
    dtypes = {path: weight.dtype for path, weight in stored.items()}
    writer.add(name, record, stored, dtypes, {path.name: path for path in folder.iterdir()})


def train_encoder(
    encoder: TextEncoder, architecture: TextArchitecture, labelled: "LabelledCaptions", steps: int
) -> tuple[Weights, float]:
    """Train one encoder from scratch.

    Args:
        encoder: its row of `TEXT_ENCODERS`.
        architecture: sizes of its network.
        labelled: the captions, as tokens of its tokenizer.
        steps: number of steps, each on `BATCH_SIZE` random captions.

    Returns:
        The weights, and the accuracy: the share of captions whose words are all predicted from the end token, as a mean
        over the last tenth of the steps.
    """
    graph, shapes = nnx.split(make_network(encoder.kind, architecture))
    weights: Weights = {
        path: jnp.asarray(initial_weight(path, leaf.shape)) for path, leaf in to_weights(shapes).items()
    }

    def logits(trained: Any, tokens: Tokens) -> Array:
        weights, head = trained
        return encode_text(encoder, graph, to_state(shapes, weights), tokens, "encoded") @ head

    head = jnp.asarray(initial_weight(("head", "kernel"), (architecture.state_width, labelled.targets.shape[-1])))
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, steps))

    @jax.jit
    def step(trained: Any, moments: Any, batch: LabelledCaptions) -> tuple[Any, Any, Array]:
        def loss(trained: Any) -> tuple[Array, Array]:
            predicted = logits(trained, Tokens(batch.ids, batch.mask))
            errors = optax.sigmoid_binary_cross_entropy(predicted, batch.targets).sum(axis=-1)
            return (errors * batch.mask).sum() / batch.mask.sum(), batch.accuracy(predicted)

        with jax.numpy_dtype_promotion("standard"):  # Optax raises floats to integer powers
            grads, accuracy = jax.grad(loss, has_aux=True)(trained)
            updates, moments = optimizer.update(grads, moments)
        return optax.apply_updates(trained, updates), moments, accuracy

    trained: Any = (weights, head)
    moments = optimizer.init(trained)
    rng = np.random.default_rng(0)
    accuracies = []
    for _ in track(range(steps), encoder.component, steps):
        trained, moments, accuracy = step(trained, moments, labelled.draw_batch(rng))
        accuracies.append(accuracy)
    return trained[0], float(np.mean(accuracies[-max(steps // 10, 1) :]))


class LabelledCaptions(NamedTuple):
    """Captions as tokens, with the words to predict from each token.

    Attributes:
        ids: token ids, int32 (captions, tokens); as wide as the longest caption.
        mask: 1 for tokens with target words, 0 for padding and a start token; shape and dtype of `ids`.
        targets: 1 for every word of the vocabulary to predict from a token, else 0; float32 (captions, tokens, words).
    """

    ids: Any
    mask: Any
    targets: Any

    @classmethod
    def from_captions(cls, captions: Sequence[str], tokenizer: TextTokenizer) -> "LabelledCaptions":
        """Tokenize captions and label their tokens.

        Args:
            captions: sentences of the synthetic world.
            tokenizer: makes one token of each word, and an end token.

        Raises:
            UserError: the tokenizer does not make one token of each word.
        """
        words = sorted({word for caption in captions for word in caption.split()})
        columns = {word: column for column, word in enumerate(words)}
        tokens = tokenizer(captions)
        lengths = tokens.mask.sum(axis=1)
        ids, mask = (array[:, : lengths.max()] for array in tokens)
        targets = np.zeros((*ids.shape, len(words)), np.float32)
        for caption, length, caption_targets, caption_mask in zip(captions, lengths, targets, mask, strict=True):
            sets = target_words(caption)
            first = int(length) - len(sets)  # CLIP's texts begin with a start token
            if first not in (0, 1):
                raise UserError(f"the tokenizer makes {length} tokens of {caption!r}, not one per word")
            caption_mask[:first] = 0
            for row, word_set in zip(caption_targets[first:], sets, strict=False):
                row[[columns[word] for word in word_set]] = 1
        return cls(ids, mask, targets)

    def draw_batch(self, rng: np.random.Generator) -> "LabelledCaptions":
        """Draw `BATCH_SIZE` captions at random, with replacement."""
        rows = rng.integers(len(self.ids), size=BATCH_SIZE)
        return type(self)(*(array[rows] for array in self))

    def accuracy(self, logits: Float32[Array, "b n words"]) -> Float32[Array, ""]:
        """Return the share of captions whose end token predicts exactly its target words, from 0 to 1."""
        right = ((logits > 0) == (self.targets > 0)).all(axis=-1)
        last = self.mask.shape[1] - 1 - jnp.argmax(self.mask[:, ::-1], axis=1)
        return jnp.take_along_axis(right, last[:, None], axis=1).mean()


def target_words(caption: str) -> list[set[str]]:
    """Return the words to predict from each token of a caption: one set per word, and one for the end token.

    The set of a word contains the words of its clause and of the background. The set of each word of the background,
    and of the end token, contains all words of the caption.
    """
    objects, on, background = caption.partition(" on ")
    everything, shared = set(caption.split()), set(background.split())
    sets = []
    for clause in objects.replace(" and ", "\nand ").split("\n"):
        sets += [set(clause.split()) | shared] * len(clause.split())
    return sets + [everything] * (len((on + background).split()) + 1)


if __name__ == "__main__":
    sys.exit(run_command("caption_encoders", lambda: main(sys.argv[1:])))
