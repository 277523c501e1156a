"""Outlines of a mask along the edges of its pixels, in the coordinates of graphic objects (PS3.3 C.10.5.1.2, PIXEL).

There the upper left corner of an image is 0\\0 and the lower right one Columns\\Rows, so an outline has whole numbers and encloses exactly
the pixels of the mask; a hole is an outline of its own.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

Point = tuple[int, int]


def outlines(mask: NDArray[np.bool_]) -> list[NDArray[np.float32]]:
    """Closed outlines of a mask.

    Parameters
    ----------
    mask
        bool, (rows, columns).

    Returns
    -------
    list
        Of (points, 2), column and row of corners; the last point is the first.
    """
    ways = _ways(mask)
    return [_corners(_loop(start, ways)) for start in list(ways) for _ in ways[start][:]]


def _loop(start: Point, ways: dict[Point, list[Point]]) -> list[Point]:
    """Follow the edges from a corner until it comes again; what was followed is taken out."""
    loop, at, came = [start], start, (0, 0)
    while True:
        onward = ways[at]
        following = onward.pop(_sharpest(came, at, onward) if len(onward) > 1 else 0)
        came, at = (following[0] - at[0], following[1] - at[1]), following
        loop.append(at)
        if at == start:
            return loop


def _ways(mask: NDArray[np.bool_]) -> dict[Point, list[Point]]:
    """From every corner on an edge to the next one, the mask on the right hand."""
    inside = np.pad(mask, 1)
    here = inside[1:-1, 1:-1]
    edges = (
        (here & ~inside[:-2, 1:-1], (0, 0), (1, 0)),  # above: to the right
        (here & ~inside[1:-1, 2:], (1, 0), (1, 1)),  # on the right: down
        (here & ~inside[2:, 1:-1], (1, 1), (0, 1)),  # below: to the left
        (here & ~inside[1:-1, :-2], (0, 1), (0, 0)),  # on the left: up
    )
    ways: defaultdict[Point, list[Point]] = defaultdict(list)
    for found, begin, end in edges:
        for row, column in np.argwhere(found).tolist():
            ways[(column + begin[0], row + begin[1])].append((column + end[0], row + end[1]))
    return dict(ways)


def _sharpest(came: Point, at: Point, onward: list[Point]) -> int:
    """Where two pixels touch at a corner, the turn to the right: each of them stays whole."""
    turns = [came[0] * (to[1] - at[1]) - came[1] * (to[0] - at[0]) for to in onward]
    return int(np.argmax(turns))


def _corners(loop: list[Point]) -> NDArray[np.float32]:
    """Without the points in the middle of a straight edge."""
    points = np.asarray(loop[:-1], np.float32)
    straight = points - np.roll(points, 1, axis=0) == np.roll(points, -1, axis=0) - points
    kept = points[~straight.all(axis=1)]
    return np.concatenate([kept, kept[:1]])
