"""Every extension point of the node, in one place. Each is a Protocol of one to five methods, declared by the package that calls it."""

from __future__ import annotations

from dicom_node.accounts import SignIn
from dicom_node.dimse.admission import Admission
from dicom_node.dimse.association import AssociationHooks, Service
from dicom_node.dimse.services.store import OpenSession, Receipt, Session, Writer
from dicom_node.routing.selection import SeriesNeeds
from dicom_node.work.executors import Executor
from dicom_node.work.worker import Bell, Handler, Stoppable
from storage.objects import ObjectStore

__all__ = [
    "Admission",
    "AssociationHooks",
    "Bell",
    "Executor",
    "Handler",
    "ObjectStore",
    "OpenSession",
    "Receipt",
    "SeriesNeeds",
    "Service",
    "Session",
    "SignIn",
    "Stoppable",
    "Writer",
]
