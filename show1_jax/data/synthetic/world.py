"""A synthetic world of moving coloured shapes with captions, generated from an index: data for tests and the demo.

Every caption is a sentence of one grammar, and every sentence of the grammar has scenes:

    sentence := object " " motion [" and " object " " motion] [" on a " background " background"]
    object   := "a " [size " "] color " " shape

A scene lasts `DURATION` seconds and is a continuous function of time, drawn with exact pixel coverage at any size. So
all stages of the cascade train on the same world. Every fourth frame of the interpolated clip is exactly a keyframe,
and a large frame averaged down is the small frame.

Lengths are in units of the frame's height, or of 5/8 of its width if that is less. So a frame is at least 1.6 wide and
1 high, and everything fits into it. Pixels are square. All shapes of one size have the area of the same circle, whose
radius is `SIZES[size]`; a growing or shrinking thing has that radius halfway.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from show1_jax.data.synthetic.shapes import EXTENTS, SHAPES, coverage
from show1_jax.errors import UserError

DURATION: Final = 3.5
"""Seconds that a scene lasts: 8 keyframes at 2 fps, or 29 frames at 8 fps."""


class Motion(NamedTuple):
    """Directions of x (to the right), y (down) and the radius; each is -1, 0 or 1."""

    x: int
    y: int
    growth: int


COLORS: Final[dict[str, tuple[int, int, int]]] = {
    "red": (230, 30, 30),
    "green": (30, 190, 50),
    "blue": (40, 100, 255),
    "yellow": (250, 220, 30),
    "purple": (180, 40, 210),
    "white": (255, 255, 255),
}
BACKGROUNDS: Final[dict[str, tuple[int, int, int]]] = {
    "black": (0, 0, 0),
    "gray": (112, 112, 112),
    "navy": (0, 0, 128),
}
SIZES: Final[dict[str, float]] = {"small": 0.085, "": 0.125, "large": 0.18}
"""Radius of the circle of the same area; "" is the middle size, which a sentence does not name."""
MOTIONS: Final[dict[str, Motion]] = {
    "moves left": Motion(-1, 0, 0),
    "moves right": Motion(1, 0, 0),
    "moves up": Motion(0, -1, 0),
    "moves down": Motion(0, 1, 0),
    "stays still": Motion(0, 0, 0),
    "grows": Motion(0, 0, 1),
    "shrinks": Motion(0, 0, -1),
}

_DEFAULT_BACKGROUND: Final = "black"
_ASPECT: Final = 1.6
_GROWTH: Final = 1 / 3
"""Change of the radius from the middle to either end, as a share of it: the last radius is twice or half the first."""
FRAME_MARGIN: Final = 0.025
"""Minimum distance to the frame's edge; the distance between two things is at least twice as large."""
_MIN_SCENE_TRAVEL: Final = 0.35
"""Minimum distance that a moving thing travels, which is also at least `_MIN_LANE_SHARE` of its lane's free length."""
_MIN_LANE_SHARE: Final = 0.6

_Choice = TypeVar("_Choice")
_Triple = tuple[str, str, str]
_Lanes = tuple[tuple[float, float], tuple[float, float]]
Times = Sequence[float] | Float[np.ndarray, " time"]
_TRIPLES: Final[tuple[_Triple, ...]] = tuple(product(COLORS, SHAPES, MOTIONS))
_HELD_OUT: Final[frozenset[_Triple]] = frozenset(
    (color, shape, motion)
    for (i, color), (j, shape), (k, motion) in product(enumerate(COLORS), enumerate(SHAPES), enumerate(MOTIONS))
    if (i + 2 * j + k) % 6 == 0
)
"""One colour of six for every shape and motion: 21 triples of 126. Every pair of attributes is in the training data."""


@dataclass(frozen=True)
class Thing:
    """One coloured shape and its motion, in the words of the grammar; size "" is the middle size."""

    color: str
    shape: str
    motion: str
    size: str = ""

    def clause(self) -> str:
        """Return the thing's part of the sentence: `a large red circle moves right`."""
        return " ".join(word for word in ("a", self.size, self.color, self.shape, self.motion) if word)

    @property
    def _peak_radius(self) -> float:
        return SIZES[self.size] * (1 + _GROWTH * abs(MOTIONS[self.motion].growth))

    def _reach(self, axis: int) -> tuple[float, float]:
        """Return the distances from the centre to the lower and the higher edge, at the largest radius."""
        before, after = EXTENTS[self.shape][axis]
        return before * self._peak_radius, after * self._peak_radius

    def _room(self, axis: int) -> float:
        """Return the length of the shortest lane along an axis that contains the thing."""
        return sum(self._reach(axis)) + 2 * FRAME_MARGIN


@dataclass(frozen=True)
class Scene:
    """One or two things on a background.

    The world never makes two things of one colour and one shape, since they must be distinguishable; a sentence may
    describe them.
    """

    things: tuple[Thing, ...]
    background: str = _DEFAULT_BACKGROUND

    def sentence(self) -> str:
        """Return the caption: the grammar's sentence for this scene, without the background if that is black."""
        clauses = " and ".join(thing.clause() for thing in self.things)
        return clauses if self.background == _DEFAULT_BACKGROUND else f"{clauses} on a {self.background} background"


def parse_sentence(text: str) -> Scene:
    """Read a sentence of the grammar.

    Case, repeated white space and a final full stop are ignored, and the black background may be named.

    Raises:
      UserError: the text is not a sentence; the line names the first word that does not fit, and the expected words.
    """
    reader = _Reader(text)
    things = [reader.read_thing()]
    next_word = reader.read("and", "on", "")
    if next_word == "and":
        things.append(reader.read_thing())
        next_word = reader.read("on", "")
    if not next_word:
        return Scene(tuple(things))
    reader.read("a")
    background = reader.read(*BACKGROUNDS)
    reader.read("background")
    reader.read("")
    return Scene(tuple(things), background)


def frame_unit(height: int, width: int) -> float:
    """Return the world's unit of length in pixels of a frame."""
    return min(height, width / _ASPECT)


class _Reader:
    """A reader of a sentence, phrase by phrase; the end is the word ""."""

    def __init__(self, text: str) -> None:
        self._words = [*text.lower().strip().removesuffix(".").split(), ""]
        self._position = 0

    def read_thing(self) -> Thing:
        self.read("a")
        word = self.read(*filter(None, SIZES), *COLORS)
        size, color = (word, self.read(*COLORS)) if word in SIZES else ("", word)
        return Thing(color, self.read(*SHAPES), self.read(*MOTIONS), size)

    def read(self, *phrases: str) -> str:
        """Read the next phrase, which must be one of these; no phrase may be the beginning of another."""
        fitting = [phrase.split(" ") for phrase in phrases]
        for depth in range(max(map(len, fitting))):
            word = self._words[self._position]
            possible = [phrase[depth] for phrase in fitting]
            fitting = [phrase for phrase in fitting if phrase[depth] == word]
            if not fitting:
                raise self._misfit(word, possible)
            self._position += 1
            if len(fitting[0]) == depth + 1:
                break
        return " ".join(fitting[0])

    def _misfit(self, word: str, possible: Sequence[str]) -> UserError:
        choices = ", ".join(repr(choice) if choice else "the end" for choice in dict.fromkeys(possible))
        place = f"word {self._position + 1}, {word[:40]!r}, does not fit" if word else "it ends too early"
        return UserError(f"the prompt is not a sentence of the synthetic world: {place}; expected {choices}")


@runtime_checkable
class MovingBody(Protocol):
    """A thing in the pixels of a frame."""

    @property
    def thing(self) -> Thing:
        """The thing; only its colour and its shape are drawn."""

    def path(self, times: Times) -> Float[np.ndarray, "time 3"]:
        """Return x and y of its centre of mass, and the radius of the circle of its area, at the given seconds."""


@dataclass(frozen=True)
class Body:
    """A thing in the pixels of a frame: x and y of its centre of mass, and the radius of the circle of its area."""

    thing: Thing
    start: tuple[float, float, float]
    end: tuple[float, float, float]

    def path(self, times: Times) -> Float[np.ndarray, "time 3"]:
        """Return x, y and radius at the given seconds; before and after the scene nothing moves."""
        progress = np.clip(np.asarray(times, float) / DURATION, 0, 1)[:, None]
        return self.start + progress * np.subtract(self.end, self.start)


class _Spot(NamedTuple):
    """The position of a thing in its lane and the distance that it travels, as shares of the possible ranges."""

    x: float
    y: float
    travel: float


@dataclass(frozen=True)
class PlacedScene:
    """A scene with the places of its things, as shares of the free space in a frame of any shape."""

    scene: Scene
    swapped: bool
    """True if the first of two things is on the right (or below)."""
    share: float
    """Division of the space that two things leave free, from 0 to 1."""
    spots: tuple[_Spot, ...]

    def bodies(self, height: int, width: int) -> tuple[Body, ...]:
        """Return the things of the scene, in its order, in pixels of a frame."""
        unit = frame_unit(height, width)
        things = self.scene.things
        lanes = self._lanes(width / unit, height / unit)
        return tuple(_body(*placed, unit) for placed in zip(things, self.spots, lanes, strict=True))

    def _lanes(self, width: float, height: float) -> tuple[_Lanes, ...]:
        """Return each thing's part of the frame, along x and y.

        Two things that both move sideways are one above the other. All others are side by side, and one that moves
        sideways gets most of the space.
        """
        things = self.scene.things
        frame = ((0.0, width), (0.0, height))
        if len(things) == 1:
            return (frame,)
        sideways = [MOTIONS[thing.motion].x != 0 for thing in things]
        axis = 1 if all(sideways) else 0
        end = frame[axis][1]
        first, second = (thing._room(axis) for thing in things)
        left_over = end - first - second
        if axis == 1 or not any(sideways):
            first += self.share * left_over
        elif sideways[0]:
            first += _larger_share(left_over, self.share)
        else:
            first += left_over - _larger_share(left_over, self.share)
        parts = ((end - first, end), (0.0, end - first)) if self.swapped else ((0.0, first), (first, end))
        return tuple((part, frame[1]) if axis == 0 else (frame[0], part) for part in parts)


def place(scene: Scene, seed: int, spread: float = 1.0) -> PlacedScene:
    """Draw the positions of a scene's things, and the distances that they move.

    In any frame the things are inside and do not touch at any time. A moving thing travels at least 0.35 units at
    constant speed.

    Args:
      scene: the scene.
      seed: 0 to 2**64 - 1.
      spread: 1 draws from all free space; 0 puts everything in the middle of it, the first thing at the left or at
        the top, and moves it by the middle distance.
    """
    order, *draws = _uniforms(2 + 3 * len(scene.things), seed)
    share, *places = (0.5 + spread * (draw - 0.5) for draw in draws)
    spots = tuple(_Spot(*places[i : i + 3]) for i in range(0, len(places), 3))
    return PlacedScene(scene, order < 0.5 * spread, share, spots)


def render(
    placed: PlacedScene, times: Times, height: int, width: int, fill: str = "plain"
) -> UInt8[np.ndarray, "time height width 3"]:
    """Render a scene at the given times, in seconds, as uint8 RGB.

    Every pixel is the average colour of its area, so that a large frame averaged down equals the small one. All things
    have one fill, of `shapes.FILLS`; the world that the demo is trained on has plain ones only.
    """
    return render_bodies(placed.bodies(height, width), placed.scene.background, times, height, width, fill)


def render_bodies(
    bodies: Sequence[MovingBody], background: str, times: Times, height: int, width: int, fill: str = "plain"
) -> UInt8[np.ndarray, "time height width 3"]:
    """Render things that do not touch as `render` does; their motions need not be those of the grammar."""
    behind = BACKGROUNDS[background]
    row = np.tile(np.array(behind, np.uint8), (width, 1))
    video = np.broadcast_to(row, (len(times), height, width, 3)).copy()
    for body in bodies:
        tops, lefts, covered = coverage(body.thing.shape, body.path(times), height, width, fill)
        rows, columns = covered.shape[1:]
        contrasts = (color - level for color, level in zip(COLORS[body.thing.color], behind, strict=True))
        additions = np.stack([covered * contrast for contrast in contrasts], axis=-1)
        for frame, top, left, addition in zip(video, tops, lefts, additions, strict=True):
            patch = frame[top : top + rows, left : left + columns]
            patch[...] = np.rint(patch + addition)
    return video


def is_held_out(thing: Thing) -> bool:
    """Return True if this colour, shape and motion never occur together in training."""
    return (thing.color, thing.shape, thing.motion) in _HELD_OUT


def scene_from_index(
    index: int,
    seed: int = 0,
    *,
    held_out: bool | None = False,
    num_things: int | None = None,
    pairs: float = 0.35,
    same_color: float = 0.0,
    spread: float = 1.0,
) -> PlacedScene:
    """Return the scene of an index: the same in every process and on every machine.

    The captions of half of the things name no size, and those of half of the scenes no background.

    Args:
      index: 0 to 2**64 - 1.
      seed: seed of the world; 0 to 2**64 - 1.
      held_out: False: no thing is held out (`is_held_out`), for training; True: the first thing is, the second may be;
        None: any may be.
      num_things: 1 or 2; None: drawn according to `pairs`.
      pairs: share of the scenes that have two things.
      same_color: share of the scenes with two things whose things have one colour, and different shapes; the things of
        the others have different colours.
      spread: range of the positions; see `place`.
    """
    count, background, *draws, layout, likeness = _uniforms(8, seed, index)
    if num_things is None:
        num_things = 2 if count < pairs else 1
    things: list[Thing] = []
    for triple, size in zip(draws[::2], draws[1::2], strict=True):
        choices = _choices(None if things and held_out else held_out, *things[:1], is_same_color=likeness < same_color)
        things.append(Thing(*_pick(choices, triple), size=_pick(("", "", "small", "large"), size)))
    scene = Scene(tuple(things[:num_things]), _pick(("black", "black", "gray", "navy"), background))
    return place(scene, int(layout * 2**53), spread)


class SyntheticWorld:
    """Clips and captions of `num_scenes` training scenes, starting at index `first` of the world."""

    def __init__(
        self,
        num_scenes: int,
        seed: int,
        *,
        first: int = 0,
        pairs: float = 0.35,
        same_color: float = 0.0,
        spread: float = 1.0,
    ) -> None:
        self._num_scenes = num_scenes
        self._pairs = pairs
        self._same_color = same_color
        self._spread = spread
        self._seed = seed
        self._first = first

    def __len__(self) -> int:
        return self._num_scenes

    def clip(
        self, index: int, num_frames: int, fps: float, height: int, width: int, start_seconds: float
    ) -> UInt8[np.ndarray, "time height width 3"]:
        """Return frames of a scene, `fps` a second from `start_seconds` on; after `DURATION` the last frame repeats."""
        return render(self._scene(index), start_seconds + np.arange(num_frames) / fps, height, width)

    def caption(self, index: int) -> str:
        """Return the sentence of a scene."""
        return self._scene(index).scene.sentence()

    def _scene(self, index: int) -> PlacedScene:
        if not 0 <= index < self._num_scenes:
            raise IndexError(f"scene {index} of {self._num_scenes}")
        return scene_from_index(
            self._first + index, self._seed, pairs=self._pairs, same_color=self._same_color, spread=self._spread
        )


@functools.cache
def _choices(held_out: bool | None, other: Thing | None = None, *, is_same_color: bool = False) -> tuple[_Triple, ...]:
    """Return the triples that a thing may have beside another thing: of another colour, or of its colour alone."""

    def is_distinct(color: str, shape: str) -> bool:
        if other is None:
            return True
        return color == other.color and shape != other.shape if is_same_color else color != other.color

    return tuple(
        triple
        for triple in _TRIPLES
        if is_distinct(*triple[:2]) and (held_out is None or (triple in _HELD_OUT) == held_out)
    )


def _pick(choices: Sequence[_Choice], draw: float) -> _Choice:
    return choices[int(draw * len(choices))]


def _uniforms(count: int, seed: int, index: int = 0) -> list[float]:
    """Return numbers in [0, 1) from Philox's raw output, which NumPy guarantees never to change (NEP 19)."""
    raw = np.random.Philox(key=np.array([seed, index], np.uint64)).random_raw(count)
    return ((raw >> np.uint64(11)) * 2.0**-53).tolist()


def _larger_share(room: float, share: float) -> float:
    least = max(_MIN_SCENE_TRAVEL, _MIN_LANE_SHARE * room)
    return least + share * (room - least)


def _body(thing: Thing, spot: _Spot, lanes: _Lanes, unit: float) -> Body:
    motion = MOTIONS[thing.motion]
    paths = []
    for axis, (start, end) in enumerate(lanes):
        free = end - start - thing._room(axis)
        distance = _larger_share(free, spot.travel) if motion[axis] else 0.0
        low = unit * (start + FRAME_MARGIN + thing._reach(axis)[0] + spot[axis] * (free - distance))
        high = low + unit * distance
        paths.append((high, low) if motion[axis] < 0 else (low, high))
    (x0, x1), (y0, y1) = paths
    radius = unit * SIZES[thing.size]
    change = _GROWTH * motion.growth * radius
    return Body(thing, (x0, y0, radius - change), (x1, y1, radius + change))
