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


ENTRIES: Final = (Entry("/", N_("Worklist"), READ),)


def entries_for(principal: Principal | None) -> tuple[Entry, ...]:
    """The pages that somebody may open."""
    return tuple(entry for entry in ENTRIES if principal is not None and principal.may(entry.right))
