"""C-MOVE (PS3.4 C.4.2): instances go to a configured peer; the requestor hears how far that is.

They go over one association, or over one after the other where they need more presentation contexts than one has room for.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

import structlog

from dicom_node.dimse.errors import DimseError
from dicom_node.dimse.faults import describe
from dicom_node.dimse.message import C_MOVE_RQ
from dicom_node.dimse.scu import Requestor
from dicom_node.dimse.services.progress import PENDING, UNKNOWN_DESTINATION, Progress, Steps
from dicom_node.dimse.services.retrieve_run import SubOperationRun, Transcoding
from dicom_node.dimse.services.retrieving import RetrieveService, Retrieving
from dicom_node.dimse.suboperations import StoreChannel
from storage.archive import Archive, StoredInstance
from storage.errors import StorageError

log = structlog.get_logger()

MAX_CONTEXTS: Final = 128
_LOOK: Final = 0.1  # seconds between looks at a C-CANCEL
_REACHES: Final = 3  # associations in one move: a destination that aborts at an instance may get the others

Contexts = list[tuple[str, list[str]]]


class Destinations(Protocol):
    """The peers that something may be moved to."""

    def knows(self, ae_title: str) -> bool:
        """Whether there is such a peer."""

    def associate(self, ae_title: str, contexts: Contexts) -> Requestor:
        """Open an association with it; raises DimseError."""


class MoveService(RetrieveService):
    """Answers C-MOVE."""

    field = C_MOVE_RQ

    def __init__(self, archive: Archive, transcoding: Transcoding, destinations: Destinations) -> None:
        super().__init__(archive, transcoding)
        self._destinations = destinations

    def send(self, retrieving: Retrieving, instances: list[StoredInstance]) -> None:
        association, message = retrieving.association, retrieving.message
        title = message.command.move_destination
        if not self._destinations.knows(title):
            association.respond(message, UNKNOWN_DESTINATION, "the move destination is no peer of this node")
            return
        progress = Progress(len(instances))
        if instances:
            parts = [self._part(title, some, progress, message.command.priority) for some in divide(instances, self._transcoding)]
            move = Move(parts, progress, (association.context.calling_ae, message.command.message_id))
            try:
                move.start()
                self._attend(retrieving, move)
            finally:
                move.stop()
        retrieving.conclude(progress)

    def _part(self, title: str, instances: Sequence[StoredInstance], progress: Progress, priority: int) -> Part:
        run = SubOperationRun(self._archive, self._transcoding, instances, progress, self._buffers, priority=priority)
        return Part(run, lambda: self._destinations.associate(title, propose(instances, self._transcoding)))

    def _attend(self, retrieving: Retrieving, move: Move) -> None:
        """Tell the requestor how far it is, and hear it cancel, until the move has ended."""
        progress = move.progress
        steps = Steps(progress.total)
        while not move.ended.wait(_LOOK):
            if not progress.canceled.is_set() and retrieving.association.canceled(retrieving.message):
                progress.canceled.set()
            counts = progress.counts
            if not progress.canceled.is_set() and steps.due(counts):
                retrieving.respond(PENDING, counts)


class Part(NamedTuple):
    """What goes over one association, and how that is opened."""

    run: SubOperationRun
    reach: Callable[[], Requestor]


class Move:
    """The sub-operations of one C-MOVE, in a thread of their own."""

    def __init__(self, parts: Sequence[Part], progress: Progress, originator: tuple[str, int]) -> None:
        self.progress = progress
        self.ended = threading.Event()
        self._parts = parts
        self._originator = originator
        self._association: Requestor | None = None
        self._thread = threading.Thread(target=self._work, name="move", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End it, also where the requestor is gone and the destination does not answer."""
        if not self.ended.is_set():
            self.progress.canceled.set()
            association = self._association
            if association is not None:
                association.connection.interrupt(socket.SHUT_RDWR)
            self._thread.join()

    def _work(self) -> None:
        try:
            for part in self._parts:
                if not self.progress.canceled.is_set():
                    self._send(part, last=part is self._parts[-1])
        except Exception as error:  # noqa: BLE001 - the requestor must get its final response
            log.error("move.failed", **describe(error))
            for part in self._parts:
                part.run.fail_rest("processing failed")
        finally:
            self.ended.set()
            for part in self._parts:
                part.run.close()

    def _send(self, part: Part, *, last: bool) -> None:
        why = "the destination ends its associations"
        for _ in range(_REACHES):
            settled = self.progress.completed + self.progress.warning
            try:
                with part.reach() as self._association:
                    channel = StoreChannel(self._association.connection, self._association.max_pdu, self._association.accepted)
                    part.run.run(channel, originator=self._originator)
                    if last:
                        self.ended.set()  # the release is no longer the requestor's concern
            except (DimseError, StorageError) as error:
                why = f"{error.step}: {type(error).__name__}" if isinstance(error, DimseError) else type(error).__name__
                log.warning("move.association_lost", why=str(error))
            if part.run.done or self.progress.canceled.is_set():
                return
            if self.progress.completed + self.progress.warning == settled:
                break  # nothing came through: another attempt would not either
        part.run.fail_rest(why)


def divide(instances: Sequence[StoredInstance], transcoding: Transcoding) -> list[list[StoredInstance]]:
    """Instances in as few groups as there must be for each to need no more presentation contexts than one association has."""
    classes: dict[str, list[StoredInstance]] = {}
    for each in instances:
        classes.setdefault(each.sop_class_uid, []).append(each)
    group: dict[str, int] = {}
    number = used = 0
    for sop_class, some in classes.items():
        needed = len(propose(some, transcoding))
        if used and used + needed > MAX_CONTEXTS:
            number, used = number + 1, 0
        used += needed
        group[sop_class] = number
    groups: list[list[StoredInstance]] = [[] for _ in range(number + 1)]
    for each in instances:  # in the order in which they lie on the disk
        groups[group[each.sop_class_uid]].append(each)
    return groups


def propose(instances: Sequence[StoredInstance], transcoding: Transcoding) -> Contexts:
    """Presentation contexts for exactly these instances.

    One for each SOP class and stored transfer syntax, so that each is accepted or refused by itself; and for each class one with what
    its instances can be changed to without loss, uncompressed first, and one with the compressed ones.
    """
    stored: dict[str, dict[str, None]] = {}
    for each in instances:
        stored.setdefault(each.sop_class_uid, {})[each.transfer_syntax_uid] = None
    exact: Contexts = [(sop_class, [syntax]) for sop_class, syntaxes in stored.items() for syntax in syntaxes]
    more: Contexts = []
    for sop_class, syntaxes in stored.items():
        changed = dict.fromkeys(target for syntax in syntaxes for target in transcoding.targets(syntax) if target not in syntaxes)
        native = [uid for uid in changed if uid in UNCOMPRESSED]
        compressed = [uid for uid in changed if uid not in UNCOMPRESSED]
        more += [(sop_class, group) for group in (native, compressed) if group]
    return (exact + more)[:MAX_CONTEXTS]


UNCOMPRESSED: Final = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2")
