"""A small world of coloured shapes that move, with captions: data for tests and for the demo, made from an index.

Every caption is a sentence of one grammar, and every sentence of the grammar can be shown:

    sentence := object " " motion [" and " object " " motion] [" on a " background " background"]
    object   := "a " [size " "] color " " shape

A scene lasts `DURATION` seconds and is a continuous function of time, drawn with exact pixel coverage at any size. So
all stages of the cascade train from the same world: a keyframe is exactly every fourth frame of the interpolated clip,
and a large frame averaged down is the frame drawn small.

Lengths are in units of the frame's height, or of 5/8 of its width where that is less: a frame is at least 1.6 wide and
1 high, and everything fits into it. Pixels are square. All shapes of one size have the area of the same circle, whose
radius is `SIZES[size]`; a growing or shrinking thing has that radius halfway.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, UInt8

from show1_jax.data.synthetic.shapes import EXTENTS, SHAPES, coverage
from show1_jax.errors import UserError

DURATION: Final = 3.5
"""Seconds that a scene lasts: 8 keyframes at 2 a second, or 29 frames at 8 a second."""


class Motion(NamedTuple):
    """Direction along x (to the right) and y (down), and whether the radius grows; each is -1, 0 or 1."""

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
"""Radius of the circle of the same area; "" is the unsaid one in the middle."""
MOTIONS: Final[dict[str, Motion]] = {
    "moves left": Motion(-1, 0, 0),
    "moves right": Motion(1, 0, 0),
    "moves up": Motion(0, -1, 0),
    "moves down": Motion(0, 1, 0),
    "stays still": Motion(0, 0, 0),
    "grows": Motion(0, 0, 1),
    "shrinks": Motion(0, 0, -1),
}

_UNSAID_BACKGROUND: Final = "black"
_ASPECT: Final = 1.6
_GROWTH: Final = 1 / 3
"""Of the radius, either way from its middle: the last radius is twice the first, or half of it."""
_MARGIN: Final = 0.025
"""Least distance to the frame's edge; two things keep twice that between them."""
_LEAST_TRAVEL: Final = 0.35
"""Every moving thing travels at least so far, and at least `_LEAST_SHARE` of the way that its lane allows."""
_LEAST_SHARE: Final = 0.6

_Choice = TypeVar("_Choice")
_Triple = tuple[str, str, str]
_Lanes = tuple[tuple[float, float], tuple[float, float]]
_Times = Sequence[float] | Float[np.ndarray, " time"]
_TRIPLES: Final[tuple[_Triple, ...]] = tuple(product(COLORS, SHAPES, MOTIONS))
_HELD_OUT: Final[frozenset[_Triple]] = frozenset(
    (color, shape, motion)
    for (i, color), (j, shape), (k, motion) in product(enumerate(COLORS), enumerate(SHAPES), enumerate(MOTIONS))
    if (i + 2 * j + k) % 6 == 0
)
"""One colour of six for every shape and motion: 21 triples of 126. Every pair of two attributes is still trained."""


@dataclass(frozen=True)
class Thing:
    """One coloured shape and what it does, in the grammar's words; size "" is the middle one."""

    color: str
    shape: str
    motion: str
    size: str = ""

    def clause(self) -> str:
        """The thing's part of the sentence: `a large red circle moves right`."""
        return " ".join(word for word in ("a", self.size, self.color, self.shape, self.motion) if word)

    @property
    def _peak_radius(self) -> float:
        return SIZES[self.size] * (1 + _GROWTH * abs(MOTIONS[self.motion].growth))

    def _reach(self, axis: int) -> tuple[float, float]:
        """How far the thing reaches from its centre towards lower and higher coordinates, when it is largest."""
        before, after = EXTENTS[self.shape][axis]
        return before * self._peak_radius, after * self._peak_radius

    def _room(self, axis: int) -> float:
        """The shortest lane along an axis that holds the thing."""
        return sum(self._reach(axis)) + 2 * _MARGIN


@dataclass(frozen=True)
class Scene:
    """One or two things on a background.

    The world never makes two things of one colour, for they must be told apart; a sentence may ask for them.
    """

    things: tuple[Thing, ...]
    background: str = _UNSAID_BACKGROUND

    def sentence(self) -> str:
        """The caption: the grammar's sentence for this scene, in which a black background is not said."""
        clauses = " and ".join(thing.clause() for thing in self.things)
        return clauses if self.background == _UNSAID_BACKGROUND else f"{clauses} on a {self.background} background"


def parse_sentence(text: str) -> Scene:
    """Read a sentence of the grammar.

    Case, repeated white space and a final full stop do not matter, and the black background may be said.

    Raises:
      UserError: naming the first word that does not fit, and what could stand there.
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


class _Reader:
    """Reads a sentence phrase by phrase; its end is the word ""."""

    def __init__(self, text: str) -> None:
        self._words = [*text.lower().strip().removesuffix(".").split(), ""]
        self._position = 0

    def read_thing(self) -> Thing:
        self.read("a")
        word = self.read(*filter(None, SIZES), *COLORS)
        size, color = (word, self.read(*COLORS)) if word in SIZES else ("", word)
        return Thing(color, self.read(*SHAPES), self.read(*MOTIONS), size)

    def read(self, *phrases: str) -> str:
        """Take the one of these phrases that comes next; none may be the beginning of another."""
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
        return UserError(f"the prompt is no sentence of the synthetic world: {place}; here could stand {choices}")


@dataclass(frozen=True)
class Body:
    """A thing in the pixels of a frame: x and y of its centre of mass, and the radius of the circle of its area."""

    thing: Thing
    start: tuple[float, float, float]
    end: tuple[float, float, float]

    def path(self, times: _Times) -> Float[np.ndarray, "time 3"]:
        """x, y and radius at the given seconds; before the scene and after it, everything stands still."""
        progress = np.clip(np.asarray(times, float) / DURATION, 0, 1)[:, None]
        return self.start + progress * np.subtract(self.end, self.start)


class _Spot(NamedTuple):
    """Where a thing is in its lane, and how far it travels, as shares of what is possible."""

    x: float
    y: float
    travel: float


@dataclass(frozen=True)
class PlacedScene:
    """A scene whose things have their places, as shares of the room that a frame of any shape has for them."""

    scene: Scene
    swapped: bool
    """Of two things, the first is the right one (or the lower one)."""
    share: float
    """Of the room that two things leave, in 0 to 1: how it is divided."""
    spots: tuple[_Spot, ...]

    def bodies(self, height: int, width: int) -> tuple[Body, ...]:
        """The things of the scene, in its order, in the pixels of a frame."""
        unit = min(height, width / _ASPECT)
        things = self.scene.things
        lanes = self._lanes(width / unit, height / unit)
        return tuple(_body(*placed, unit) for placed in zip(things, self.spots, lanes, strict=True))

    def _lanes(self, width: float, height: float) -> tuple[_Lanes, ...]:
        """The part of the frame, along x and y, that is each thing's own.

        Things that both move sideways are one above the other, all others side by side, where one that moves sideways
        gets most of the room.
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
            first += _most_of(left_over, self.share)
        else:
            first += left_over - _most_of(left_over, self.share)
        parts = ((end - first, end), (0.0, end - first)) if self.swapped else ((0.0, first), (first, end))
        return tuple((part, frame[1]) if axis == 0 else (frame[0], part) for part in parts)


def place(scene: Scene, seed: int, spread: float = 1.0) -> PlacedScene:
    """Draw where the things of a scene are, and how far they move.

    In any frame they are inside and apart at all times; one that moves travels at least 0.35 units at constant speed.

    Args:
      scene: what is to be seen.
      seed: 0 to 2**64 - 1.
      spread: 1 draws from all the room that there is; 0 puts everything in the middle of it, the first thing at the
        left or at the top, and moves it by the middle distance.
    """
    order, *draws = _uniforms(2 + 3 * len(scene.things), seed)
    share, *places = (0.5 + spread * (draw - 0.5) for draw in draws)
    spots = tuple(_Spot(*places[i : i + 3]) for i in range(0, len(places), 3))
    return PlacedScene(scene, order < 0.5 * spread, share, spots)


def render(placed: PlacedScene, times: _Times, height: int, width: int) -> UInt8[np.ndarray, "time height width 3"]:
    """Draw a scene at the given times, in seconds.

    Every pixel is the average of what it covers, so that a large frame averaged down equals the small one.
    """
    background = BACKGROUNDS[placed.scene.background]
    row = np.tile(np.array(background, np.uint8), (width, 1))
    video = np.broadcast_to(row, (len(times), height, width, 3)).copy()
    for body in placed.bodies(height, width):
        tops, lefts, covered = coverage(body.thing.shape, body.path(times), height, width)
        rows, columns = covered.shape[1:]
        contrasts = (color - behind for color, behind in zip(COLORS[body.thing.color], background, strict=True))
        additions = np.stack([covered * contrast for contrast in contrasts], axis=-1)
        for frame, top, left, addition in zip(video, tops, lefts, additions, strict=True):
            patch = frame[top : top + rows, left : left + columns]
            patch[...] = np.rint(patch + addition)
    return video


def is_held_out(thing: Thing) -> bool:
    """Whether this colour, shape and motion are never seen together in training."""
    return (thing.color, thing.shape, thing.motion) in _HELD_OUT


def scene_from_index(
    index: int,
    seed: int = 0,
    *,
    held_out: bool | None = False,
    num_things: int | None = None,
    pairs: float = 0.35,
    spread: float = 1.0,
) -> PlacedScene:
    """The scene of an index: the same in every process and on every machine.

    Half of the things have no said size and half of the scenes no said background.

    Args:
      index: 0 to 2**64 - 1.
      seed: of the world; 0 to 2**64 - 1.
      held_out: False: no thing is held out (`is_held_out`), for training; True: the first thing is, the second may be;
        None: any may be.
      num_things: 1 or 2, of different colours; None: as `pairs` says.
      pairs: share of the scenes that have two things.
      spread: of places; see `place`.
    """
    count, background, *draws, layout = _uniforms(7, seed, index)
    if num_things is None:
        num_things = 2 if count < pairs else 1
    things: list[Thing] = []
    for triple, size in zip(draws[::2], draws[1::2], strict=True):
        choices = _choices(None if things and held_out else held_out, things[0].color if things else "")
        things.append(Thing(*_pick(choices, triple), size=_pick(("", "", "small", "large"), size)))
    scene = Scene(tuple(things[:num_things]), _pick(("black", "black", "gray", "navy"), background))
    return place(scene, int(layout * 2**53), spread)


class SyntheticWorld:
    """Clips and captions of `num_scenes` scenes for training, from index `first` of the world on."""

    def __init__(self, num_scenes: int, seed: int, *, first: int = 0, pairs: float = 0.35, spread: float = 1.0) -> None:
        self._num_scenes = num_scenes
        self._pairs = pairs
        self._spread = spread
        self._seed = seed
        self._first = first

    def __len__(self) -> int:
        return self._num_scenes

    def clip(
        self, index: int, num_frames: int, fps: float, height: int, width: int, start_seconds: float
    ) -> UInt8[np.ndarray, "time height width 3"]:
        """Frames of a scene, `fps` a second from `start_seconds` on; after `DURATION` the last one stays."""
        return render(self._scene(index), start_seconds + np.arange(num_frames) / fps, height, width)

    def caption(self, index: int) -> str:
        """What a scene shows, as a sentence."""
        return self._scene(index).scene.sentence()

    def _scene(self, index: int) -> PlacedScene:
        if not 0 <= index < self._num_scenes:
            raise IndexError(f"scene {index} of {self._num_scenes}")
        return scene_from_index(self._first + index, self._seed, pairs=self._pairs, spread=self._spread)


@functools.cache
def _choices(held_out: bool | None, other_color: str) -> tuple[_Triple, ...]:
    """The triples that a thing may be, beside one of another colour."""
    return tuple(
        triple
        for triple in _TRIPLES
        if triple[0] != other_color and (held_out is None or (triple in _HELD_OUT) == held_out)
    )


def _pick(choices: Sequence[_Choice], draw: float) -> _Choice:
    return choices[int(draw * len(choices))]


def _uniforms(count: int, seed: int, index: int = 0) -> list[float]:
    """Numbers in [0, 1) from Philox's raw output, which NumPy promises never to change (NEP 19)."""
    raw = np.random.Philox(key=np.array([seed, index], np.uint64)).random_raw(count)
    return ((raw >> np.uint64(11)) * 2.0**-53).tolist()


def _most_of(room: float, share: float) -> float:
    least = max(_LEAST_TRAVEL, _LEAST_SHARE * room)
    return least + share * (room - least)


def _body(thing: Thing, spot: _Spot, lanes: _Lanes, unit: float) -> Body:
    motion = MOTIONS[thing.motion]
    paths = []
    for axis, (start, end) in enumerate(lanes):
        free = end - start - thing._room(axis)
        distance = _most_of(free, spot.travel) if motion[axis] else 0.0
        low = unit * (start + _MARGIN + thing._reach(axis)[0] + spot[axis] * (free - distance))
        high = low + unit * distance
        paths.append((high, low) if motion[axis] < 0 else (low, high))
    (x0, x1), (y0, y1) = paths
    radius = unit * SIZES[thing.size]
    change = _GROWTH * motion.growth * radius
    return Body(thing, (x0, y0, radius - change), (x1, y1, radius + change))
