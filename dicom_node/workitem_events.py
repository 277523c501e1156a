"""Workitems between the network and the index: the DIMSE services of Unified Procedure Steps, and the event reports on their way.

A subscriber that has an association with UPS Event open is told on it. Others are called, where their [[peer]] has a host and a port; what
they do not take is kept, and they are called again, ever more seldom.
"""

from __future__ import annotations

import threading
from typing import Final

import structlog

from dicom_node import nudge
from dicom_node.config import Peer
from dicom_node.dimse.association import Service
from dicom_node.dimse.contexts import UPS_EVENT, UPS_PULL, UPS_PUSH, UPS_QUERY, UPS_WATCH
from dicom_node.dimse.errors import DimseError
from dicom_node.dimse.scu_workitem_reports import CONTEXTS, PROVIDER_ROLE, ReportAssociation
from dicom_node.dimse.services.workitem_reports import RENEWED_EVERY, WorkitemEventService
from dicom_node.dimse.services.workitem_watch import Watchers
from dicom_node.dimse.services.workitems import WorkitemService
from dicom_node.node import Node
from dicom_node.work.associating import associate_peer
from storage import workitem_dimse
from storage.errors import IndexUnavailable
from storage.jobs import Backoff
from storage.workitem_events import Notice

log = structlog.get_logger()

BELL: Final = "workitems"
HELD: Final = 3 * RENEWED_EVERY
CALL_HELD: Final = 120.0
AT_ONCE: Final = 20  # reports on one hold
SHORTEST_WAIT, LONGEST_WAIT = 0.05, 1.0
# Answers after which the same report would be refused again (PS3.7 10.1.1.1.8).
REFUSED_FOR_GOOD: Final = frozenset({0x0112, 0x0113, 0x0114, 0x0115, 0x0117, 0x0118, 0x0119, 0x0211, 0x0212})


def workitem_services(node: Node) -> dict[str, Service]:
    """The services of the UPS SOP classes."""

    def ring() -> None:
        node.ring(BELL)

    known = {peer.ae_title for peer in node.config.peer}
    watchers = Watchers(node.database, known, clock=node.clock, ring=ring)
    most = node.config.query.max_results
    service = WorkitemService(node.database, node.queue(), watchers, clock=node.clock, ring=ring, max_results=most)
    return {**dict.fromkeys((UPS_PUSH, UPS_WATCH, UPS_PULL, UPS_QUERY), service), UPS_EVENT: WorkitemEventService(WaitingReports(node))}


def settled(status: int) -> bool:
    """Whether a report is done with: it was taken, or would be refused for ever."""
    return status == 0 or status >> 12 == 0xB or status == 0x0001 or status in REFUSED_FOR_GOOD


class WaitingReports:
    """The reports that wait in the index. Safe for any number of threads."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._backoff = Backoff(base=node.config.delivery.backoff, cap=node.config.delivery.max_backoff)

    def hold(self, aet: str, who: str, *, seconds: float = HELD) -> bool:
        now = self._node.clock()
        with self._node.database.begin(durable=False) as connection:
            return workitem_dimse.hold(connection, aet, who, until=now + seconds, now=now)

    def next(self, aet: str, who: str) -> Notice | None:
        return next(iter(self.waiting(aet, who, 1)), None)

    def waiting(self, aet: str, who: str, limit: int) -> list[Notice]:
        with self._node.database.read() as connection:
            return workitem_dimse.next_reports(connection, aet, who, now=self._node.clock(), limit=limit)

    def answered(self, notice: Notice, status: int) -> None:
        if not settled(status):
            self.failed(notice.aet, f"answered {status:04X}")
            return
        if status in REFUSED_FOR_GOOD:
            log.warning("workitem.report_refused", aet=notice.aet, workitem=notice.uid, status=f"{status:04X}")
        with self._node.database.begin(durable=False) as connection:
            workitem_dimse.taken(connection, notice.aet, [notice.pk])

    def failed(self, aet: str, why: str) -> None:
        with self._node.database.begin(durable=False) as connection:
            delay = self._backoff.delay(workitem_dimse.attempts(connection, aet) + 1)
            workitem_dimse.failed(connection, aet, why, next_at=self._node.clock() + delay)
        log.warning("workitem.report_waits", aet=aet, why=why, again_in=round(delay, 1))

    def leave(self, aet: str, who: str) -> None:
        with self._node.database.begin(durable=False) as connection:
            workitem_dimse.leave(connection, aet, who)


class Reporter:
    """Calls one subscriber, when something waits for it that it does not get on an association of its own."""

    def __init__(self, node: Node, peer: Peer) -> None:
        self._node = node
        self._peer = peer
        self._reports = WaitingReports(node)
        self._who = f"{node.process}/{peer.name}-reports"
        self._bell = nudge.Doorbell(node.config.runtime_dir, f"{BELL}.{peer.name}")
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()
        self._bell.ring()

    def close(self) -> None:
        self._bell.close()

    def run(self) -> None:
        """Report until :meth:`stop`."""
        wait = SHORTEST_WAIT
        while not self._stopping.is_set():
            try:
                worked = self.step()
            except IndexUnavailable as error:
                log.warning("workitem.report_waits", why=str(error))
                worked, wait = False, LONGEST_WAIT
            if worked or self._bell.wait(wait):
                wait = SHORTEST_WAIT
            else:
                wait = min(wait * 2, LONGEST_WAIT)

    def step(self) -> bool:
        """Call the subscriber once, where something waits; False where nothing does, or somebody else reports to it."""
        aet = self._peer.ae_title
        if not self._reports.waiting(aet, self._who, 1) or not self._reports.hold(aet, self._who, seconds=CALL_HELD):
            return False
        try:
            self._call(aet)
        except DimseError as error:
            self._reports.failed(aet, f"{error.step}: {error}")
        finally:
            self._reports.leave(aet, self._who)
        return True

    def _call(self, aet: str) -> None:
        with associate_peer(self._node.config, self._peer, CONTEXTS, roles=PROVIDER_ROLE) as association:
            reports = ReportAssociation(association)
            for notice in self._reports.waiting(aet, self._who, AT_ONCE):
                status = reports.report(notice)
                self._reports.answered(notice, status)
                if self._stopping.is_set() or not settled(status):
                    return


def build_reporters(node: Node) -> list[Reporter]:
    """One for each subscriber that can be called."""
    callable_peers = {peer.ae_title: peer for peer in reversed(node.config.peer) if peer.host is not None}
    return [Reporter(node, peer) for peer in callable_peers.values()]
