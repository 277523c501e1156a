"""What rules and models may match on, beyond the index's columns: the header of one instance of each series."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydicom import Dataset
from pydicom.multival import MultiValue

from storage.errors import StorageError
from storage.header_json import UNREADABLE, read_header

if TYPE_CHECKING:
    from storage.archive import Archive

_LONGEST = 64  # values of one attribute
_NOT_MATCHED = frozenset({"OB", "OW", "OD", "OF", "OL", "OV", "UN", "SQ"})


def series_attributes(archive: Archive, study_uid: str, known: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Add, to each series' attributes from the index, those of the header of its middle instance; the index's own win."""
    return {uid: {**_header_attributes(archive, study_uid, uid), **attributes} for uid, attributes in known.items()}


def _header_attributes(archive: Archive, study_uid: str, series_uid: str) -> dict[str, Any]:
    instances = archive.instances(study_uid, series_uid)
    if not instances:
        return {}
    middle = instances[len(instances) // 2]
    try:
        with middle.file() as file:
            return attributes_of(read_header(file, middle.transfer_syntax_uid))
    except (StorageError, OSError, *UNREADABLE):
        return {}


def attributes_of(dataset: Dataset) -> dict[str, Any]:
    """The data set's own attributes that can be matched, keyword > value or list of values."""
    found: dict[str, Any] = {}
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
            if element.keyword and element.VR not in _NOT_MATCHED:
                value = element.value
                found[element.keyword] = [str(each) for each in value[:_LONGEST]] if isinstance(value, MultiValue) else str(value or "")
        except UNREADABLE:  # one value that breaks its VR hides no other
            continue
    return found
