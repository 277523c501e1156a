"""The query of a search request, read and bounded (PS3.18 8.3.4, 10.6.1): matching keys, what to return, how much of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydicom.datadict import dictionary_VR, tag_for_keyword

from dicom_node.web.dicomweb.errors import BadRequest
from dicom_node.web.dicomweb.resources import Resource
from storage.attributes import UNIQUE_KEYS, Level
from storage.headers import is_uid
from storage.query import Key

MAX_PARAMETERS: Final = 200
MAX_FIELDS: Final = 500
MAX_UIDS: Final = 5000
MAX_NUMBER: Final = 1 << 31
MAX_DEPTH: Final = 4  # of sequences in a path
_TAG: Final = re.compile(r"[0-9A-Fa-f]{8}")
MOMENTS: Final = {
    "DA": re.compile(r"([0-9]{8})?-?([0-9]{8})?"),
    "TM": re.compile(r"([0-9]{2,6}(\.[0-9]{1,6})?)?-?([0-9]{2,6}(\.[0-9]{1,6})?)?"),
    "DT": re.compile(r"[0-9]{0,14}(\.[0-9]{1,6})?([+-][0-9]{4})?-?[0-9]{0,14}(\.[0-9]{1,6})?([+-][0-9]{4})?"),
}

# What an answer holds unasked (PS3.18 tables 10.6.3-3 to 10.6.3-5).
_STUDY: Final = """
    StudyDate StudyTime AccessionNumber InstanceAvailability ModalitiesInStudy ReferringPhysicianName TimezoneOffsetFromUTC
    PatientName PatientID IssuerOfPatientID PatientBirthDate PatientSex StudyInstanceUID StudyID StudyDescription
    NumberOfStudyRelatedSeries NumberOfStudyRelatedInstances
"""
_SERIES: Final = """
    Modality TimezoneOffsetFromUTC SeriesDescription StudyInstanceUID SeriesInstanceUID SeriesNumber SeriesDate SeriesTime
    BodyPartExamined NumberOfSeriesRelatedInstances PerformedProcedureStepStartDate PerformedProcedureStepStartTime
"""
_INSTANCE: Final = """
    SOPClassUID SOPInstanceUID InstanceAvailability TimezoneOffsetFromUTC StudyInstanceUID SeriesInstanceUID InstanceNumber
    Rows Columns BitsAllocated NumberOfFrames
"""
_REQUEST_ATTRIBUTES: Final = 0x00400275
_NO_STUDY_COUNTS: Final = frozenset(
    {"InstanceAvailability", "ModalitiesInStudy", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances"}
)


def _defaults(level: Level, resource: Resource) -> list[str]:
    """Keywords that are answered at a level; those of the levels above only where the address does not name them (10.6.1.3)."""
    if level is Level.STUDY:
        return _STUDY.split()
    study = [] if resource.study else [each for each in _STUDY.split() if each not in _NO_STUDY_COUNTS]
    if level is Level.SERIES:
        return [*study, *_SERIES.split()]
    series = [] if resource.series else _SERIES.split()[:-3]
    return [*study, *series, *_INSTANCE.split()]


@dataclass(frozen=True)
class Search:
    """A search, ready to be planned.

    Attributes
    ----------
    matched : tags that have to match something
    nothing : no entity can match, whatever the index holds
    """

    level: Level
    keys: tuple[Key, ...]
    matched: frozenset[int]
    fuzzy: bool
    offset: int
    limit: int | None
    all_attributes: bool
    nothing: bool


def search_of(parameters: Sequence[tuple[str, str]], level: Level, resource: Resource) -> Search:
    """Read a request's query.

    Raises
    ------
    BadRequest
        A parameter is unknown, twice there, or has a value that it cannot have; or there are too many.
    """
    if len(parameters) > MAX_PARAMETERS:
        raise BadRequest(f"the query has more than {MAX_PARAMETERS} parameters")
    options: dict[str, str] = {}
    fields: list[str] = []
    wanted: dict[tuple[int, ...], list[str]] = {}
    for name, value in parameters:
        if name.lower() == "includefield":
            fields += [each for each in (part.strip() for part in value.split(",")) if each]
        elif name.lower() in ("limit", "offset", "fuzzymatching", "accept", "charset", "emptyvaluematching", "multiplevaluematching"):
            if options.setdefault(name.lower(), value) != value:
                raise BadRequest(f"{name.lower()} is there twice")
        else:
            wanted.setdefault(_path(name), []).append(value)
    if len(fields) > MAX_FIELDS:
        raise BadRequest(f"includefield names more than {MAX_FIELDS} attributes")
    keys, nothing = _keys(wanted, resource)
    everything = "all" in (each.lower() for each in fields)
    returned = [*map(_path, _defaults(level, resource)), (_REQUEST_ATTRIBUTES,) if level is Level.SERIES else ()]
    returned += [_path(each) for each in fields if each.lower() != "all"]
    if level is Level.IMAGE or level is Level.SERIES:
        returned += [(UNIQUE_KEYS[each],) for each in (Level.STUDY, Level.SERIES)]
    return Search(
        level,
        _with_returned(keys, [path[0] for path in returned if path]),
        frozenset(tag for tag, key in keys.items() if key.value or key.items),
        _flag(options.get("fuzzymatching", "false"), "fuzzymatching"),
        _number(options.get("offset", "0"), "offset"),
        _number(options["limit"], "limit") if "limit" in options else None,
        everything,
        nothing,
    )


def _path(name: str) -> tuple[int, ...]:
    parts = name.split(".")
    if len(parts) > MAX_DEPTH:
        raise BadRequest(f"a path of more than {MAX_DEPTH} attributes")
    return tuple(map(_tag, parts))


def _tag(name: str) -> int:
    if _TAG.fullmatch(name):
        return int(name, 16)
    tag = tag_for_keyword(name) if len(name) <= 64 and name.isascii() else None
    if tag is None:
        raise BadRequest(
            f"'{name}' is no attribute and no parameter" if name.isalnum() and len(name) <= 64 else "a parameter is no attribute"
        )
    return tag


def _vr(tag: int) -> str:
    try:
        return dictionary_VR(tag)[:2]
    except KeyError:
        return "UN"


def _keys(wanted: dict[tuple[int, ...], list[str]], resource: Resource) -> tuple[dict[int, Key], bool]:
    keys: dict[int, Key] = {}
    nested: dict[int, list[tuple[tuple[int, ...], str]]] = {}
    nothing = False
    for path, values in wanted.items():
        value = _value(path[-1], values)
        if len(path) > 1:
            nested.setdefault(path[0], []).append((path[1:], value))
        elif _vr(path[0]) == "SQ" and value:
            raise BadRequest(f"{path[0]:08X} is a sequence; one of its attributes can be matched, as {path[0]:08X}.xxxxxxxx")
        else:
            keys[path[0]] = Key(path[0], _vr(path[0]), value)
    for tag, below in nested.items():
        keys[tag] = Key(tag, "SQ", "", (_item(below),))
    for level, uid in ((Level.STUDY, resource.study), (Level.SERIES, resource.series)):
        tag = UNIQUE_KEYS[level]
        if uid:
            asked = str(keys[tag].value) if tag in keys else ""
            nothing |= bool(asked) and uid not in asked.split("\\")
            keys[tag] = Key(tag, "UI", uid)
    return keys, nothing


def _item(below: Sequence[tuple[tuple[int, ...], str]]) -> tuple[Key, ...]:
    deeper: dict[int, list[tuple[tuple[int, ...], str]]] = {}
    keys = []
    for path, value in below:
        if len(path) > 1:
            deeper.setdefault(path[0], []).append((path[1:], value))
        else:
            keys.append(Key(path[0], _vr(path[0]), value))
    return (*keys, *(Key(tag, "SQ", "", (_item(more),)) for tag, more in deeper.items()))


def _value(tag: int, values: Sequence[str]) -> str:
    if "\0" in "".join(values):
        raise BadRequest(f"{tag:08X}: a value holds a character that no value can hold")
    if _vr(tag) != "UI":
        if len(values) > 1:
            raise BadRequest(f"{tag:08X} is there twice")
        form = MOMENTS.get(_vr(tag))
        if form is not None and values[0] not in ("*", '""') and not form.fullmatch(values[0]):
            raise BadRequest(f"{tag:08X}: a value is no {_vr(tag)} and no range of them")
        return values[0]
    uids = [uid for value in values for uid in value.replace("\\", ",").split(",") if uid]
    if uids == ["*"]:
        return ""
    if len(uids) > MAX_UIDS:
        raise BadRequest(f"{tag:08X}: more than {MAX_UIDS} UIDs")
    if not all(map(is_uid, uids)):
        raise BadRequest(f"{tag:08X}: a value is no UID")
    return "\\".join(uids)


def _with_returned(keys: dict[int, Key], tags: Sequence[int]) -> tuple[Key, ...]:
    every = dict(keys)
    for tag in tags:
        every.setdefault(tag, Key(tag, _vr(tag)))
    return tuple(every.values())


def _number(text: str, name: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) >= MAX_NUMBER:
        raise BadRequest(f"{name} is no number that can be used")
    return int(text)


def _flag(text: str, name: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise BadRequest(f"{name} is neither true nor false")
    return text.lower() == "true"
