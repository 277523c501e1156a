"""One association for the forms of a result: each is a delivery with a job of its own, and they go to a peer one after the other.

The first that is tried proposes what the others need too, and leaves its association open while one of them is due. One that failed once
goes alone from then on: what a peer does about it befalls no other.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from dicom_node.dimse.errors import DimseError
from dicom_node.dimse.scu import Requestor
from storage.archive import StoredInstance

Context = tuple[str, str]
"""SOP class and transfer syntax."""


@dataclass(frozen=True)
class Shared:
    """An open association: of which run and peer, and what it proposed."""

    run_pk: int
    peer: str
    association: Requestor
    proposed: frozenset[Context]


class SharedAssociations(threading.local):
    """The association that a worker's thread left open for its next job; at most one."""

    left: Shared | None = None

    def take(self, run_pk: int | None, peer: str, needed: frozenset[Context]) -> Shared | None:
        """The association that was left open, if it serves; one that does not is released."""
        left, self.left = self.left, None
        if left is None:
            return None
        if (left.run_pk, left.peer) == (run_pk, peer) and needed <= left.proposed:
            return left
        _release(left.association)
        return None

    def leave(self, shared: Shared) -> None:
        """Leave an association open for this thread's next job."""
        self.rest()
        self.left = shared

    def rest(self) -> None:
        """Release what was left open: no job came for it."""
        left, self.left = self.left, None
        if left is not None:
            _release(left.association)


def contexts_of(items: Sequence[StoredInstance]) -> frozenset[Context]:
    """What has to be proposed for these instances."""
    return frozenset((item.sop_class_uid, item.transfer_syntax_uid) for item in items)


def _release(association: Requestor) -> None:
    with contextlib.suppress(DimseError):
        association.release()
