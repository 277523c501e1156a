"""UIDs of results are functions of what they stand for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from dicom_node.results import uids


@given(st.lists(st.text(max_size=40), max_size=4))
def test_a_derived_uid_is_valid_and_repeatable(parts: list[str]) -> None:
    uid = uids.derived_uid("purpose", *parts)
    assert UID(uid).is_valid
    assert len(uid) <= 64
    assert uid == uids.derived_uid("purpose", *parts)


def test_purposes_and_parts_keep_uids_apart() -> None:
    made = [
        uids.series_uid("1.2", "digest", "SEG"),
        uids.series_uid("1.2", "digest", "SR"),
        uids.series_uid("1.2", "other digest", "SEG"),
        uids.series_uid("1.3", "digest", "SEG"),
        uids.instance_uid("key", "SEG"),
        uids.instance_uid("key", "SR"),
        uids.tracking_uid("1.2", "digest", "SEG"),
        uids.device_uid("archive", "digest"),
        uids.device_uid("archive", "other digest"),
        uids.derived_uid("a", "bc"),
        uids.derived_uid("ab", "c"),
    ]
    assert len(set(made)) == len(made)


def test_series_numbers_sort_behind_the_source_and_differ_by_modality() -> None:
    seg, sr = uids.series_number(401, "d", "SEG"), uids.series_number(401, "d", "SR")
    assert 40_100 < seg < sr < 40_200
    assert uids.series_number(None, "d", "SEG") >= 1
    assert 1 <= uids.series_number(2_147_483_647, "d", "SR") < 2**31
    assert uids.series_number(-5, "d", "SEG") >= 1
