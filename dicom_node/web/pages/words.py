"""The states and kinds of this node as people read them. The keys are what stands in rows; the values are looked up in the catalogues."""

from __future__ import annotations

from typing import Final


def N_(message: str) -> str:
    """Mark a text for the catalogues; it is translated where it is shown."""
    return message


WORDS: Final = {
    "RECEIVING": N_("receiving"),
    "COMPLETE": N_("complete"),
    "SCHEDULED": N_("waiting"),
    "IN_PROGRESS": N_("in progress"),
    "IN PROGRESS": N_("in progress"),
    "COMPLETED": N_("done"),
    "CANCELED": N_("canceled"),
    "FAILED": N_("failed"),
    "NOT_APPLICABLE": N_("not applicable"),
    "DELIVERED": N_("delivered"),
    "NOT_TAKEN": N_("not taken"),
    "ACCEPTED": N_("accepted"),
    "REFUSED": N_("refused"),
    "NOT_OFFERED": N_("not offered"),
    "REQUESTED": N_("commitment asked"),
    "COMMITTED": N_("committed"),
    "HELD": N_("held"),
    "route": N_("rules"),
    "infer": N_("model run"),
    "deliver": N_("delivery"),
    "commit": N_("commitment"),
    "evaluate": N_("evaluation"),
    "headers": N_("headers"),
    "candidate": N_("candidate"),
    "shadow": N_("looks on"),
    "deployed": N_("deployed"),
    "retired": N_("retired"),
    "critical": N_("critical"),
    "urgent": N_("urgent"),
    "routine": N_("routine"),
    "viewer": N_("viewer"),
    "radiologist": N_("radiologist"),
    "operator": N_("operator"),
    "administrator": N_("administrator"),
    "read": N_("read"),
    "report": N_("judge findings"),
    "store": N_("store"),
    "delete": N_("delete"),
    "operate": N_("operate the node"),
    "administer": N_("administer accounts"),
}

# The colour a state is shown in, always beside its word: good, busy, bad, quiet.
TONES: Final = {
    "COMPLETE": "good",
    "COMPLETED": "good",
    "DELIVERED": "good",
    "ACCEPTED": "good",
    "COMMITTED": "good",
    "deployed": "good",
    "RECEIVING": "busy",
    "IN_PROGRESS": "busy",
    "IN PROGRESS": "busy",
    "REQUESTED": "busy",
    "shadow": "busy",
    "FAILED": "bad",
    "REFUSED": "bad",
    "HELD": "bad",
    "critical": "critical",
    "urgent": "urgent",
}


def tone(state: str) -> str:
    """The name of a state's colour."""
    return TONES.get(state, "quiet")
