"""What makes a benchmark refuse its own measurement."""

from __future__ import annotations

import pytest

from benchmarks.ingest import check_segments


def test_studies_scattered_over_too_many_segments_are_no_measurement() -> None:
    check_segments({"1.2": 4, "1.3": 5}, associations=1)
    with pytest.raises(SystemExit, match="6 segments for 1 studies"):
        check_segments({"1.2": 6}, associations=1)
    with pytest.raises(SystemExit, match="10 segments for 2 studies at 1 associations"):
        check_segments({"1.2": 5, "1.3": 5}, associations=1)
