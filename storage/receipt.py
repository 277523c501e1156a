"""Who sends instances, and what each of them is answered."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Outcome(Enum):
    """What became of an instance. The first three are success to the sender."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    OWN_RESULT = "own result"
    CONFLICT = "conflict"
    QUARANTINED = "quarantined"


@dataclass(frozen=True)
class Source:
    """Where instances come from.

    Attributes
    ----------
    association_id : its row in `association` is made with the first instance where `lease` (seconds) says so, else it is there already
    process : who renews the lease
    study_uid : where given, instances of any other study are refused
    """

    association_id: str | None
    calling_ae: str
    called_ae: str
    address: str
    origin: str = "received"  # received | imported
    process: str = ""
    lease: float = 0.0
    study_uid: str = ""


@dataclass(frozen=True)
class Receipt:
    """The answer to an instance; `detail` names no patient and fits an Error Comment."""

    outcome: Outcome
    study_uid: str
    series_uid: str
    sop_uid: str
    digest: str
    detail: str = ""
