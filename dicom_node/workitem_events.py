"""Workitems between the receiver and the index: the DIMSE services of Unified Procedure Steps, put together."""

from __future__ import annotations

from typing import Final

from dicom_node.dimse.association import Service
from dicom_node.dimse.contexts import UPS_PULL, UPS_PUSH, UPS_QUERY, UPS_WATCH
from dicom_node.dimse.services.workitem_watch import Watchers
from dicom_node.dimse.services.workitems import WorkitemService
from dicom_node.node import Node

BELL: Final = "workitems"


def workitem_services(node: Node) -> dict[str, Service]:
    """The services of the UPS SOP classes."""

    def ring() -> None:
        node.ring(BELL)

    known = {peer.ae_title for peer in node.config.peer}
    watchers = Watchers(node.database, known, clock=node.clock, ring=ring)
    service = WorkitemService(node.database, node.queue(), watchers, clock=node.clock, ring=ring, max_results=node.config.query.max_results)
    return dict.fromkeys((UPS_PUSH, UPS_WATCH, UPS_PULL, UPS_QUERY), service)
