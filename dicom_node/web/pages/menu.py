"""What stands in the navigation, and the right that its page needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dicom_node.accounts import READ
from dicom_node.web.identities import Principal
from dicom_node.web.pages.words import N_


@dataclass(frozen=True)
class Entry:
    """One page of the navigation."""

    path: str
    title: str  # message id
    right: str


ENTRIES: Final = (
    Entry("/", N_("Worklist"), READ),
    Entry("/jobs", N_("Jobs"), READ),
    Entry("/peers", N_("Peers"), READ),
    Entry("/models", N_("Models"), READ),
    Entry("/system", N_("System"), READ),
)


def entries_for(principal: Principal | None) -> tuple[Entry, ...]:
    """The pages that somebody may open; of those that tell of all studies, nothing for who is limited to some."""
    if principal is None:
        return ()
    return tuple(entry for entry in ENTRIES if principal.may(entry.right) and (entry.path == "/" or not principal.limits))
