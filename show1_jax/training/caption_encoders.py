"""Text encoders for a small cascade, trained on the synthetic world's captions alone, and their tokenizers.

    python -m show1_jax.training.caption_encoders --config configs/demo.py --out checkpoints/demo-text

The released cascade's encoders have read the internet; these have read one grammar, in which every word is a token.
Each token's state learns to tell, through a linear layer that is thrown away, which words stand in the token's own
clause and in the phrase that names the background; the end token learns all words of the caption. So a state that a
pixel attends to says what belongs together: which shape is red, and which of two things moves up.
"""

import sys
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
from show1_jax.cli import ArgumentParser, load_config, run_command
from show1_jax.config.config_file import Config
from show1_jax.data.synthetic.world import scene_from_index
from show1_jax.errors import UserError
from show1_jax.files import user_path
from show1_jax.nn.init import initial_weight
from show1_jax.nn.text_architecture import TextArchitecture
from show1_jax.parallel.weights import Weights, to_state, to_weights
from show1_jax.progress import each
from show1_jax.text.encoders import TEXT_ENCODERS, TextEncoder
from show1_jax.text.encoding import encode_text
from show1_jax.text.tokenizers import TextTokenizer, Tokens

NUM_CAPTIONS: Final = 20_000
BATCH_SIZE: Final = 128
LEARNING_RATE: Final = 3e-3


def main(arguments: Sequence[str]) -> None:
    """Train the encoders that a config describes, and write them as a checkpoint.

    Raises:
        UserError: no steps; the config has no text encoder's architecture, or one that does not fit its tokenizer; or
            the target exists.
    """
    parser = ArgumentParser(
        prog="python -m show1_jax.training.caption_encoders", description="Train small text encoders on captions."
    )
    parser.add_argument("--config", required=True, help="a config file with the encoders' architecture")
    parser.add_argument("--out", type=user_path, required=True, metavar="DIR", help="the checkpoint to make")
    parser.add_argument("--steps", type=int, default=1500, help="of training each encoder")
    parsed = parser.parse_args(arguments)
    if parsed.steps < 1:
        raise UserError(f"--steps={parsed.steps} must be at least 1")
    config = load_config(parsed.config)
    captions = [scene_from_index(index).scene.sentence() for index in range(NUM_CAPTIONS)]
    encoders = [encoder for encoder in TEXT_ENCODERS.values() if encoder.component in config.architecture]
    if not encoders:
        raise UserError(f"the config has no architecture of {' or '.join(TEXT_ENCODERS)}; state one")
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
    """Train one encoder and write it with its tokenizer, whose files go through `folder`."""
    name = encoder.component
    architecture = encoder.architecture.from_dict(config.architecture[name])
    encoder.write_tokenizer(folder, captions)
    lessons = Lessons.of(captions, encoder.load_tokenizer(folder))
    largest = int(lessons.ids.max())
    if largest >= architecture.vocab_size:
        raise UserError(
            f"architecture.{name}: vocab_size={architecture.vocab_size} must be at least {largest + 1} for these "
            "captions"
        )
    weights, accuracy = train_encoder(encoder, architecture, lessons, steps)
    record = Component(
        kind=encoder.kind,
        architecture=architecture.to_dict(),
        dtype="float32",
        provenance={"source": "show1_jax.training.caption_encoders", "steps": steps, "accuracy": accuracy},
    )
    stored = {path: np.asarray(weight) for path, weight in weights.items()}
    dtypes = {path: weight.dtype for path, weight in stored.items()}
    writer.add(name, record, stored, dtypes, {path.name: path for path in folder.iterdir()})


def train_encoder(
    encoder: TextEncoder, architecture: TextArchitecture, lessons: "Lessons", steps: int
) -> tuple[Weights, float]:
    """Train one encoder from scratch.

    Args:
        encoder: its row.
        architecture: of its network.
        lessons: captions, as its tokenizer's tokens.
        steps: of `BATCH_SIZE` captions.

    Returns:
        Its weights, and the share of captions all of whose words the end token tells, over the last tenth of the steps.
    """
    graph, shapes = nnx.split(make_network(encoder.kind, architecture))
    weights: Weights = {
        path: jnp.asarray(initial_weight(path, leaf.shape)) for path, leaf in to_weights(shapes).items()
    }

    def logits(trained: Any, tokens: Tokens) -> Array:
        weights, head = trained
        return encode_text(encoder, graph, to_state(shapes, weights), tokens, "encoded") @ head

    head = jnp.asarray(initial_weight(("head", "kernel"), (architecture.state_width, lessons.told.shape[-1])))
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, steps))

    @jax.jit
    def step(trained: Any, moments: Any, lesson: Lessons) -> tuple[Any, Any, Array]:
        def loss(trained: Any) -> tuple[Array, Array]:
            guess = logits(trained, Tokens(lesson.ids, lesson.mask))
            errors = optax.sigmoid_binary_cross_entropy(guess, lesson.told).sum(axis=-1)
            return (errors * lesson.mask).sum() / lesson.mask.sum(), lesson.share_told(guess)

        with jax.numpy_dtype_promotion("standard"):  # Optax raises floats to integer powers
            grads, share = jax.grad(loss, has_aux=True)(trained)
            updates, moments = optimizer.update(grads, moments)
        return optax.apply_updates(trained, updates), moments, share

    trained: Any = (weights, head)
    moments = optimizer.init(trained)
    rng = np.random.default_rng(0)
    shares = []
    for _ in each(range(steps), encoder.component, steps):
        trained, moments, share = step(trained, moments, lessons.draw(rng))
        shares.append(share)
    return trained[0], float(np.mean(shares[-max(steps // 10, 1) :]))


class Lessons(NamedTuple):
    """Captions as tokens, and the words that each token is to tell.

    Attributes:
        ids: of the tokens, int32 (captions, tokens); as wide as the longest caption.
        mask: 1 for tokens that are to tell something, 0 for padding and a start token; like `ids`.
        told: 1 for every word of the vocabulary that a token is to tell, float32 (captions, tokens, words).
    """

    ids: Any
    mask: Any
    told: Any

    @classmethod
    def of(cls, captions: Sequence[str], tokenizer: TextTokenizer) -> "Lessons":
        """The lessons of all captions, sentences of the synthetic world.

        Raises:
            UserError: the tokenizer does not make one token of each word.
        """
        words = sorted({word for caption in captions for word in caption.split()})
        places = {word: place for place, word in enumerate(words)}
        tokens = tokenizer(captions)
        lengths = tokens.mask.sum(axis=1)
        ids, mask = (array[:, : lengths.max()] for array in tokens)
        told = np.zeros((*ids.shape, len(words)), np.float32)
        for caption, length, caption_told, caption_mask in zip(captions, lengths, told, mask, strict=True):
            sets = told_words(caption)
            first = int(length) - len(sets)  # CLIP's texts start with a token of their own
            if first not in (0, 1):
                raise UserError(f"the tokenizer makes {length} tokens of {caption!r}, not one of each word")
            caption_mask[:first] = 0
            for row, told_set in zip(caption_told[first:], sets, strict=False):
                row[[places[word] for word in told_set]] = 1
        return cls(ids, mask, told)

    def draw(self, rng: np.random.Generator) -> "Lessons":
        """A random batch."""
        rows = rng.integers(len(self.ids), size=BATCH_SIZE)
        return type(self)(*(array[rows] for array in self))

    def share_told(self, logits: Float32[Array, "b n words"]) -> Float32[Array, ""]:
        """The share of captions whose last token tells exactly the words that it should."""
        right = ((logits > 0) == (self.told > 0)).all(axis=-1)
        last = self.mask.shape[1] - 1 - jnp.argmax(self.mask[:, ::-1], axis=1)
        return jnp.take_along_axis(right, last[:, None], axis=1).mean()


def told_words(caption: str) -> list[set[str]]:
    """What each word's token, and the end token after them, is to tell: words of its clause and of the background.

    The background's own words, and the end, tell the whole caption.
    """
    things, on, background = caption.partition(" on ")
    everything, shared = set(caption.split()), set(background.split())
    sets = []
    for clause in things.replace(" and ", "\nand ").split("\n"):
        sets += [set(clause.split()) | shared] * len(clause.split())
    return sets + [everything] * (len((on + background).split()) + 1)


if __name__ == "__main__":
    sys.exit(run_command("caption_encoders", lambda: main(sys.argv[1:])))
