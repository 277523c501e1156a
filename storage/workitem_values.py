"""A workitem's data set as DICOM JSON: which attributes it needs, which may be changed, and its values (PS3.4 table CC.2.5-3)."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

from storage.errors import WorkitemRefused
from storage.headers import is_uid

Json: TypeAlias = dict[str, Any]

UPS_PUSH: Final = "1.2.840.10008.5.1.4.34.6.1"
"""SOP Class of every workitem, whichever service created it."""

INVALID_ATTRIBUTE_VALUE: Final = 0x0106
NO_SUCH_ATTRIBUTE: Final = 0x0105
DUPLICATE_SOP_INSTANCE: Final = 0x0111
MISSING_ATTRIBUTE: Final = 0x0120
MISSING_ATTRIBUTE_VALUE: Final = 0x0121
NOT_AUTHORIZED: Final = 0x0124
MODIFIED: Final = 0xB300
NOT_SCHEDULED: Final = 0xC309
NOT_MET: Final = 0xC304

SOP_CLASS: Final = "00080016"
SOP_INSTANCE: Final = "00080018"
TRANSACTION: Final = "00081195"
PATIENT_ID: Final = "00100020"
STUDY: Final = "0020000D"
ACCESSION: Final = "00080050"
REQUESTS: Final = "0040A370"
MODIFIED_AT: Final = "00404010"
START: Final = "00404005"
INPUT: Final = "00404021"
CODES: Final = "00404018"
OUTPUT: Final = "00404033"
STATIONS: Final = "00404025"
HUMANS: Final = "00404034"
HUMAN_CODES: Final = "00404009"
ORGANIZATION: Final = "00404037"
READINESS: Final = "00404041"
CANCELED_AT: Final = "00404052"
PERFORMED_AT: Final = "00404050"
PERFORMED_UNTIL: Final = "00404051"
PERFORMED_STATION: Final = "00404028"
PERFORMED_CODES: Final = "00404019"
STATE: Final = "00741000"
PROGRESS: Final = "00741002"
DISCONTINUATION: Final = "0074100E"
PRIORITY: Final = "00741200"
WORKLIST: Final = "00741202"
LABEL: Final = "00741204"
PERFORMED: Final = "00741216"
REASON: Final = "00741238"

PRIORITIES: Final = ("HIGH", "MEDIUM", "LOW")
READY: Final = ("INCOMPLETE", "UNAVAILABLE", "READY")
# Identity and state: set when it is created, or by N-ACTION only.
FIXED: Final = frozenset(
    {
        SOP_CLASS,
        SOP_INSTANCE,
        STATE,
        "00100010",
        PATIENT_ID,
        "00100021",
        "00100030",
        "00100040",
        "00101002",
        "00380010",
        "00741224",
        REQUESTS,
    }
)
_DATE_TIME: Final = re.compile(r"[0-9]{4,14}(\.[0-9]{1,6})?([+-][0-9]{4})?")


def new_uid() -> str:
    """A UID of a UUID (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid4().int}"


def element(vr: str, *values: Any) -> Json:
    return {"vr": vr, "Value": list(values)} if values else {"vr": vr}


def code(value: str, scheme: str, meaning: str) -> Json:
    """An item of a code sequence."""
    return {"00080100": element("SH", value), "00080102": element("SH", scheme), "00080104": element("LO", meaning)}


def date_time(at: float) -> str:
    """A moment as DT, in UTC and saying so."""
    return time.strftime("%Y%m%d%H%M%S", time.gmtime(at)) + f".{int(at % 1 * 1e6):06d}+0000"


def first(dataset: Mapping[str, Any], tag: str) -> Any:
    """The first value of an attribute; None where there is none."""
    values = (dataset.get(tag) or {}).get("Value") or [None]
    return values[0]


def text(dataset: Mapping[str, Any], tag: str) -> str:
    value = first(dataset, tag)
    return "" if value is None or isinstance(value, dict) else str(value).strip(" \0")


def items(dataset: Mapping[str, Any], tag: str) -> list[Json]:
    return [item for item in (dataset.get(tag) or {}).get("Value") or [] if isinstance(item, dict)]


def checked_creation(dataset: Mapping[str, Any], uid: str) -> tuple[Json, int]:
    """What is kept of a data set to create, and 0, or B300 where something was added or left out.

    Raises
    ------
    WorkitemRefused
        C309, 0120H, 0121H or 0106H.
    """
    made = dict(dataset)
    if text(made, TRANSACTION):
        raise WorkitemRefused(INVALID_ATTRIBUTE_VALUE, "Transaction UID must be empty in a new workitem")
    made.pop(TRANSACTION, None)
    _require(made, (STATE, PRIORITY, LABEL, READINESS, START))
    if text(made, STATE) != "SCHEDULED":
        raise WorkitemRefused(NOT_SCHEDULED, "Procedure Step State of a new workitem has to be SCHEDULED")
    check_values(made)
    named = text(made, SOP_INSTANCE)
    if named and named != uid:
        raise WorkitemRefused(INVALID_ATTRIBUTE_VALUE, "SOP Instance UID is not that of the request")
    modified = 0
    if not text(made, WORKLIST):
        made[WORKLIST], modified = element("LO", "default"), MODIFIED
    for result in (PROGRESS, PERFORMED):  # come to be only while it is performed
        if (made.get(result) or {}).get("Value"):
            modified = MODIFIED
        made[result] = element("SQ")
    made[SOP_CLASS], made[SOP_INSTANCE] = element("UI", UPS_PUSH), element("UI", uid)
    return made, modified


def checked_changes(changes: Mapping[str, Any]) -> Json:
    """What an update may change; raises WorkitemRefused for what it may not."""
    made = {tag: value for tag, value in changes.items() if tag != TRANSACTION and not tag.startswith("0000")}
    fixed = sorted(FIXED.intersection(made))
    if fixed:
        raise WorkitemRefused(NO_SUCH_ATTRIBUTE, f"{fixed[0]} cannot be changed by an update")
    for tag in (PRIORITY, LABEL, READINESS, START, WORKLIST):
        if tag in made and not text(made, tag):
            raise WorkitemRefused(MISSING_ATTRIBUTE_VALUE, f"{tag} cannot be empty")
    check_values(made)
    return made


def _require(dataset: Mapping[str, Any], tags: Iterable[str]) -> None:
    for tag in tags:
        if tag not in dataset:
            raise WorkitemRefused(MISSING_ATTRIBUTE, f"{tag} is missing")
        if not text(dataset, tag):
            raise WorkitemRefused(MISSING_ATTRIBUTE_VALUE, f"{tag} is empty")


def check_values(dataset: Mapping[str, Any]) -> None:
    """Refuse values of the attributes that decide something."""
    for tag, allowed in ((PRIORITY, PRIORITIES), (READINESS, READY)):
        if tag in dataset and text(dataset, tag) not in allowed:
            raise WorkitemRefused(INVALID_ATTRIBUTE_VALUE, f"{tag} has to be one of {', '.join(allowed)}")
    if START in dataset and not _DATE_TIME.fullmatch(text(dataset, START)):
        raise WorkitemRefused(INVALID_ATTRIBUTE_VALUE, f"{START} is no date and time")
    for tag in (STUDY, SOP_INSTANCE):
        if text(dataset, tag) and not is_uid(text(dataset, tag)):
            raise WorkitemRefused(INVALID_ATTRIBUTE_VALUE, f"{tag} is no UID")


def check_completed(dataset: Mapping[str, Any]) -> None:
    """Raise C304 where a workitem lacks what a completed one has to say (PS3.4 table CC.2.5-3, final state column)."""
    performed = items(dataset, PERFORMED)
    if not performed:
        raise WorkitemRefused(NOT_MET, "final state: no Performed Procedure Sequence (00741216)")
    for tag in (PERFORMED_STATION, PERFORMED_AT, PERFORMED_UNTIL, PERFORMED_CODES):
        if first(performed[0], tag) is None:
            raise WorkitemRefused(NOT_MET, f"final state: {tag} is missing in 00741216")
    if OUTPUT not in performed[0]:
        raise WorkitemRefused(NOT_MET, f"final state: {OUTPUT} is missing in 00741216")


def columns_of(dataset: Mapping[str, Any]) -> dict[str, str]:
    """The columns that a data set is found by."""
    request = next(iter(items(dataset, REQUESTS)), {})
    source = next(iter(items(dataset, INPUT)), {})
    return {
        "priority": text(dataset, PRIORITY) or "MEDIUM",
        "readiness": text(dataset, READINESS) or "READY",
        "label": text(dataset, LABEL),
        "worklist_label": text(dataset, WORKLIST),
        "scheduled_start": text(dataset, START),
        "patient_id": text(dataset, PATIENT_ID),
        "accession_number": text(dataset, ACCESSION) or text(request, ACCESSION),
        "study_uid": text(dataset, STUDY) or text(source, STUDY) or text(request, STUDY),
    }
