"""Pictures that are alike, and pictures that are turned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.datasets.icon import likeness
from models.datasets.survey import Look

Picture = NDArray[np.float32]

#: Rows of the table of distances that are made at a time.
CHUNK = 512

#: Pictures that resemble their mean less than this have no orientation in common.
RESEMBLANCE = 0.5
MARGIN = 0.25

TURNS: Mapping[str, Callable[[Picture], Picture]] = {
    "turned to the left": lambda picture: np.rot90(picture),
    "turned upside down": lambda picture: np.rot90(picture, 2),
    "turned to the right": lambda picture: np.rot90(picture, 3),
    "mirrored left to right": lambda picture: picture[:, ::-1],
    "with black and white exchanged": lambda picture: -picture,
}


@dataclass(frozen=True)
class Alike:
    """Two items whose pictures are the same, or nearly."""

    first: str
    second: str
    likeness: float
    exact: bool


def alike(items: Sequence[tuple[str, Look]], *, bits: int, least: float) -> list[Alike]:
    """All pairs whose perceptual hashes differ in at most ``bits`` and whose icons correlate at least to ``least``.

    Of a volume all three planes must. Two items with the very same pixels are a pair whatever their hashes.
    """
    hashes = np.array([look.phash for _, look in items], dtype=np.uint64)
    found: list[Alike] = []
    for start in range(0, len(items), CHUNK):
        distances = np.bitwise_count(hashes[start : start + CHUNK, None] ^ hashes[None, :])
        rows, columns = np.nonzero(distances <= bits)
        for row, column in zip((rows + start).tolist(), columns.tolist(), strict=True):
            if row < column:
                found += _compared(items[row], items[column], least)
    return found


def _compared(one: tuple[str, Look], other: tuple[str, Look], least: float) -> Iterator[Alike]:
    exact = one[1].pixels == other[1].pixels
    if exact:
        yield Alike(one[0], other[0], 1.0, True)
    elif len(one[1].icons) == len(other[1].icons):
        planes = zip(one[1].pictures(), other[1].pictures(), strict=True)
        lowest = min((likeness(first.astype(np.float32), second.astype(np.float32)) for first, second in planes), default=0.0)
        if lowest >= least:
            yield Alike(one[0], other[0], lowest, False)


def turned(items: Sequence[tuple[str, Look]]) -> list[tuple[str, str]]:
    """Pictures that fit the mean of all better when they are turned, mirrored or inverted, and how.

    Nothing where the pictures have no common arrangement (a chest film has one, a blood smear has none).
    """
    pictures = {identifier: _standard(look) for identifier, look in items if look.icons}
    if len(pictures) < 8:
        return []
    mean: Picture = np.mean(list(pictures.values()), axis=0)
    fits = {identifier: likeness(picture, mean) for identifier, picture in pictures.items()}
    if float(np.median(list(fits.values()))) < RESEMBLANCE:
        return []
    found = []
    for identifier, picture in pictures.items():
        others = {how: likeness(turn(picture), mean) for how, turn in TURNS.items()}
        best = max(others, key=lambda how: others[how])
        if others[best] > fits[identifier] + MARGIN and others[best] > RESEMBLANCE:
            found.append((identifier, best))
    return found


def _standard(look: Look) -> Picture:
    picture = look.pictures()[0].astype(np.float32)
    centred: Picture = picture - picture.mean()
    norm = float(np.linalg.norm(centred))
    return centred / norm if norm > 0 else centred
