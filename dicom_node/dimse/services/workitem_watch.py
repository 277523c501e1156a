"""Who watches workitems, by DIMSE (PS3.4 CC.2.3): subscribe, unsubscribe, suspend."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

import structlog

from dicom_node.dimse.normalized import INVALID_ARGUMENT
from dicom_node.dimse.services.workitem_find import matching_keys
from storage import audit, workitem_events
from storage.database import Database
from storage.errors import WorkitemRefused
from storage.query import Key
from storage.workitem_events import DIMSE, FILTERED
from storage.workitem_owners import refuse_stranger
from storage.workitem_values import Json, text

log = structlog.get_logger()

SUBSCRIBE, UNSUBSCRIBE, SUSPEND = 3, 4, 5
RECEIVER_UNKNOWN: Final = 0xC308
_RECEIVING_AE: Final = "00741234"
_DELETION_LOCK: Final = "00741230"
_LOCKS: Final = {"TRUE": True, "FALSE": False, "": False}
_WHAT: Final = {
    SUBSCRIBE: "workitem.subscribed",
    UNSUBSCRIBE: "workitem.unsubscribed",
    SUSPEND: "workitem.subscription_suspended",
}


class Watchers:
    """Subscriptions of AE titles that event reports can be sent to.

    Parameters
    ----------
    known
        Those AE titles.
    """

    def __init__(self, database: Database, known: Collection[str], *, clock: Callable[[], float], ring: Callable[[], None]) -> None:
        self._database = database
        self._known = known
        self._clock = clock
        self._ring = ring

    def act(self, action: int, uid: str, dataset: Json, *, by: str) -> int:
        """Carry out one of the three actions; the status.

        Raises
        ------
        WorkitemRefused
            C307, C308, C314; 0115H for a lock or a filter that is none; 0124H where somebody watches under that AE title over HTTP.
        """
        aet, now = text(dataset, _RECEIVING_AE), self._clock()
        if not aet:
            raise WorkitemRefused(INVALID_ARGUMENT, "Receiving AE is missing")
        if aet not in self._known:
            raise WorkitemRefused(RECEIVER_UNKNOWN, "the Receiving AE is no peer of this node")
        with self._database.begin() as connection:
            refuse_stranger(connection, aet, DIMSE, None)
            if action == SUBSCRIBE:
                more: dict[str, Any] = {"deletion_lock": _lock(dataset), "matching": _filter(uid, dataset)}
                workitem_events.subscribe(connection, aet, uid, channel=DIMSE, now=now, **more)
            elif action == UNSUBSCRIBE:
                workitem_events.unsubscribe(connection, aet, uid, now=now)
            else:
                workitem_events.suspend(connection, aet, uid, now=now)
            audit.record(connection, _WHAT[action], actor=by, detail={"workitem": uid, "aet": aet}, at=now)
        log.info(_WHAT[action], workitem=uid, aet=aet, by=by)
        self._ring()
        return 0


def _lock(dataset: Json) -> bool:
    try:
        return _LOCKS[text(dataset, _DELETION_LOCK)]
    except KeyError:
        raise WorkitemRefused(INVALID_ARGUMENT, "Deletion Lock is neither TRUE nor FALSE") from None


def _filter(uid: str, dataset: Json) -> tuple[Key, ...]:
    """What a filtered subscription has to match; no other has a filter."""
    keys = tuple(matching_keys({name: value for name, value in dataset.items() if name not in (_RECEIVING_AE, _DELETION_LOCK)}))
    asked = any(key.value or key.items for key in keys)
    if asked != (uid == FILTERED):
        raise WorkitemRefused(INVALID_ARGUMENT, "a filter belongs to a filtered subscription, and to no other")
    return keys if asked else ()
