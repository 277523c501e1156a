"""What C-MOVE and C-GET share (PS3.4 C.4.2, C.4.3): the identifier, the run through the instances, the counts and the responses."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from struct import pack
from typing import Final, Protocol

import structlog

from dicom_node.dimse.association import Acceptor, Message
from dicom_node.dimse.contexts import DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from dicom_node.dimse.errors import ContextNotAccepted, IdentifierTooLong
from dicom_node.dimse.message import SubOperations, encode_retrieve_response, even, frame_command_split, frame_data_set
from dicom_node.dimse.services.retrieve_keys import MAX_IDENTIFIER, IdentifierRefused, read_keys
from dicom_node.dimse.suboperations import Outbound, StoreChannel
from dicom_node.errors import NodeError
from dicom_node.retrieve import SequentialReader
from dicom_node.transcode import MAX_BYTES, TranscodeError
from storage.archive import Archive, StoredInstance
from storage.errors import StorageError
from storage.retrieval import select_instances

log = structlog.get_logger()

SUCCESS: Final = 0x0000
PENDING: Final = 0xFF00
CANCELED: Final = 0xFE00
SOME_FAILED: Final = 0xB000
CANNOT_COUNT: Final = 0xA701
CANNOT_PERFORM: Final = 0xA702
UNKNOWN_DESTINATION: Final = 0xA801
IDENTIFIER_DOES_NOT_MATCH: Final = 0xA900
UNABLE_TO_PROCESS: Final = 0xC000
NOT_AUTHORIZED: Final = 0x0124


class Transcoding(Protocol):
    """Puts data sets into another transfer syntax."""

    def targets(self, source: str) -> Sequence[str]: ...
    def transcode(self, data: bytes, source: str, target: str) -> bytes: ...


class Progress:
    """How far a retrieve is. One thread counts, another may read."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.completed = self.failed = self.warning = 0
        self.failed_uids: list[str] = []
        self.canceled = threading.Event()

    def fail(self, stored: StoredInstance, why: str, status: int | None = None) -> None:
        self.failed += 1
        self.failed_uids.append(stored.sop_uid)
        shown = None if status is None else f"{status:04X}"
        log.warning("retrieve.instance_failed", sop_instance_uid=stored.sop_uid, why=why, status=shown)

    def settle(self, stored: StoredInstance, status: int) -> None:
        """Count what the receiver answered."""
        if status == SUCCESS:
            self.completed += 1
        elif status >> 12 == 0xB or status in (0x0001, 0x0107, 0x0116):
            self.warning += 1
        else:
            self.fail(stored, "refused by the receiver", status)

    @property
    def counts(self) -> SubOperations:
        done = self.completed + self.failed + self.warning
        return SubOperations(max(self.total - done, 0), self.completed, self.failed, self.warning)

    @property
    def status(self) -> int:
        """The final status: PS3.4 tables C.4-2 and C.4-3."""
        if self.canceled.is_set() and self.counts.remaining:
            return CANCELED
        if self.failed and not self.completed and not self.warning:
            return CANNOT_PERFORM
        return SOME_FAILED if self.failed or self.warning else SUCCESS


class Steps:
    """When a pending response is due: each second, and each tenth of the way."""

    def __init__(self, total: int, *, interval: float = 1.0) -> None:
        self._step = max(total // 10, 1)
        self._interval = interval
        self._at = time.monotonic()
        self._done = 0

    def due(self, counts: SubOperations) -> bool:
        now, done = time.monotonic(), counts.completed + counts.failed + counts.warning
        if done - self._done < self._step and now - self._at < self._interval:
            return False
        self._at, self._done = now, done
        return bool(counts.remaining)


@dataclass(frozen=True)
class Ready:
    """An instance that was read and is in the transfer syntax in which it goes."""

    stored: StoredInstance
    outbound: Outbound


class SubOperationRun:
    """Sends instances one after the other; while one is answered the next is read.

    It can be run again on another channel: it goes on behind the instance at which the last one was lost.
    """

    def __init__(
        self, archive: Archive, transcoding: Transcoding, instances: Sequence[StoredInstance], progress: Progress, *, priority: int = 0
    ) -> None:
        self._reader = SequentialReader(archive)
        self._transcoding = transcoding
        self._left = list(reversed(instances))
        self._ready: Ready | None = None
        self._sent = 0
        self._priority = priority
        self.progress = progress

    @property
    def done(self) -> bool:
        return not self._left and self._ready is None

    def run(
        self, channel: StoreChannel, *, originator: tuple[str, int] | None = None, settled: Callable[[], None] = lambda: None
    ) -> None:
        """Send what is left; ``settled`` is called after each answer.

        Raises
        ------
        DimseError, StorageError
            The association is lost; the instance under way counts as failed.
        """
        progress = self.progress
        ready = self._ready or self._read(channel)
        while ready is not None and not progress.canceled.is_set():
            self._ready = None
            self._sent = self._sent % 0xFFFF + 1
            try:
                channel.send(self._sent, ready.outbound, self._priority, originator)
                self._ready = self._read(channel)
                status, _ = channel.answer()
            except ContextNotAccepted as error:
                progress.fail(ready.stored, str(error))
                self._ready = self._read(channel)
            except BaseException as error:
                progress.fail(ready.stored, f"association lost: {type(error).__name__}")
                raise
            else:
                progress.settle(ready.stored, status)
            settled()
            ready = self._ready
        self._ready = ready

    def fail_rest(self, why: str) -> None:
        """Count everything that is left as failed."""
        rest = [self._ready.stored] if self._ready else []
        for stored in (*rest, *reversed(self._left)):
            self.progress.fail(stored, why)
        self._left, self._ready = [], None

    def close(self) -> None:
        self._reader.close()

    def _read(self, channel: StoreChannel) -> Ready | None:
        """Read the next instance that can be read and sent; those that cannot count as failed."""
        while self._left:
            stored = self._left.pop()
            try:
                return Ready(stored, self._outbound(channel, stored))
            except (StorageError, NodeError, ContextNotAccepted) as error:
                self.progress.fail(stored, str(error))
        return None

    def _outbound(self, channel: StoreChannel, stored: StoredInstance) -> Outbound:
        accepted = channel.syntaxes(stored.sop_class_uid)
        source = stored.transfer_syntax_uid
        if source in accepted:
            loaded = self._reader.load(stored)
            if self._left:
                self._reader.expect(self._left[-1])
            return Outbound(stored.sop_class_uid, stored.sop_uid, source, loaded.length, loaded.chunks())
        data = b""
        why: Exception = ContextNotAccepted(stored.sop_class_uid, source)
        for target in self._transcoding.targets(source):
            if target not in accepted:
                continue
            if stored.length > MAX_BYTES:
                raise TranscodeError("the instance is larger than what is transcoded")
            data = data or b"".join(self._reader.load(stored).chunks())
            try:
                changed = self._transcoding.transcode(data, source, target)
            except NodeError as error:  # not every image can be compressed by every codec
                why = error
                continue
            return Outbound(stored.sop_class_uid, stored.sop_uid, target, len(changed), [memoryview(changed)])
        raise why


class Retrieving:
    """One C-MOVE or C-GET request and its responses."""

    def __init__(self, association: Acceptor, message: Message) -> None:
        self._association = association
        self._message = message

    def instances(self, archive: Archive) -> list[StoredInstance] | None:
        """Find what is to be sent; None where the request was answered with a refusal."""
        association, message = self._association, self._message
        if not association.context.may_retrieve:
            association.respond(message, NOT_AUTHORIZED, "this AE title may not retrieve here")
            return None
        try:
            identifier = association.read_identifier(MAX_IDENTIFIER)
            keys = read_keys(identifier, message.context.transfer_syntax, message.context.abstract_syntax)
            return select_instances(archive, keys)
        except (IdentifierRefused, IdentifierTooLong) as error:
            association.respond(message, IDENTIFIER_DOES_NOT_MATCH, str(error))
        except StorageError as error:
            log.warning("retrieve.not_counted", why=str(error))
            association.respond(message, CANNOT_COUNT, "the index is not available")
        return None

    def respond(self, status: int, counts: SubOperations, identifier: bytes = b"", comment: str = "") -> None:
        """Send a response with its counts."""
        context_id, limit = self._message.context.id, self._association.context.max_pdu
        command = encode_retrieve_response(
            self._message.command, status, counts, comment, has_data_set=bool(identifier), remaining=status in (PENDING, CANCELED)
        )
        data = frame_data_set(context_id, identifier, limit) if identifier else b""
        self._association.connection.send(frame_command_split(context_id, command, limit) + data)

    def conclude(self, progress: Progress, comment: str = "") -> None:
        """Send the final response, with the list of what failed."""
        identifier = failed_list(progress.failed_uids, self._message.context.transfer_syntax) if progress.failed_uids else b""
        counts, status = progress.counts, progress.status
        log.info("retrieve.ended", status=f"{status:04X}", **counts._asdict())
        self.respond(status, counts, identifier, comment)


def failed_list(uids: Sequence[str], transfer_syntax: str) -> bytes:
    """Encode Failed SOP Instance UID List (0008,0058), as UN where it is too long for an explicit UI (PS3.5 6.2.2)."""
    value = even("\\".join(uids).encode("ascii", "replace"))
    order = ">" if transfer_syntax == EXPLICIT_VR_BIG_ENDIAN else "<"
    if transfer_syntax == IMPLICIT_VR_LITTLE_ENDIAN:
        data = pack("<HHL", 0x0008, 0x0058, len(value)) + value
    elif len(value) < 0xFFFF:
        data = pack(order + "HH2sH", 0x0008, 0x0058, b"UI", len(value)) + value
    else:
        data = pack(order + "HH2sHL", 0x0008, 0x0058, b"UN", 0, len(value)) + value
    if transfer_syntax == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = even(deflater.compress(data) + deflater.flush())
    return data
