"""Outlines enclose exactly the pixels of their mask."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from dicom_node.results.outlines import outlines


def filled(loops: list[NDArray[np.float32]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels whose centre is within an odd number of outlines: the even-odd rule, by counting crossings to the left."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    crossings = np.zeros(shape, int)
    for loop in loops:
        for (x0, y0), (x1, y1) in pairwise(loop):
            if x0 == x1:
                crossings += (min(y0, y1) < rows) & (rows < max(y0, y1)) & (x0 < columns)
    inside: NDArray[np.bool_] = crossings % 2 == 1
    return inside


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_the_even_odd_rule_gives_the_mask_back(mask: np.ndarray) -> None:
    loops = outlines(mask)
    assert np.array_equal(filled(loops, mask.shape), mask)
    for loop in loops:
        assert np.array_equal(loop[0], loop[-1])
        assert len(loop) >= 5


@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (1, 1)])
def test_a_rectangle_has_four_corners(rows: int, columns: int) -> None:
    mask = np.zeros((6, 7), bool)
    mask[2 : 2 + rows, 3 : 3 + columns] = True
    (loop,) = outlines(mask)
    assert {tuple(point) for point in loop.tolist()} == {(3, 2), (3 + columns, 2), (3 + columns, 2 + rows), (3, 2 + rows)}
    assert len(loop) == 5


def test_a_hole_is_an_outline_of_its_own_and_pixels_that_touch_at_a_corner_are_two() -> None:
    ring = np.ones((5, 5), bool)
    ring[2, 2] = False
    assert sorted(len(loop) for loop in outlines(ring)) == [5, 5]
    assert [len(loop) for loop in outlines(np.eye(2, dtype=bool))] == [5, 5]
