"""The C-STORE sub-operations of one retrieve: instances sent one after the other, each settled by what the receiver answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from dicom_node.buffers import Buffers
from dicom_node.dimse.errors import ContextNotAccepted
from dicom_node.dimse.services.progress import Progress
from dicom_node.dimse.services.read_ahead import ReadAhead, Ready, Unready
from dicom_node.dimse.suboperations import Outbound, StoreChannel
from dicom_node.errors import NodeError
from dicom_node.retrieve import SequentialReader
from dicom_node.transcode import MAX_BYTES, TranscodeError
from storage.archive import Archive, StoredInstance
from storage.errors import StorageError


class Transcoding(Protocol):
    """Puts data sets into another transfer syntax."""

    def targets(self, source: str) -> Sequence[str]: ...
    def transcode(self, data: bytes, source: str, target: str) -> bytes: ...


class SubOperationRun:
    """Sends instances one after the other; while one is sent and answered the next is read.

    It can be run again on another channel: it goes on behind the instance at which the last one was lost.
    """

    def __init__(
        self,
        archive: Archive,
        transcoding: Transcoding,
        instances: Sequence[StoredInstance],
        progress: Progress,
        buffers: Buffers,
        *,
        priority: int = 0,
    ) -> None:
        self._archive = archive
        self._transcoding = transcoding
        self._buffers = buffers
        self._left = deque(instances)
        self._reading: list[ReadAhead] = []
        self._sent = 0
        self._priority = priority
        self.progress = progress

    @property
    def done(self) -> bool:
        return not self._left

    def run(
        self,
        channel: StoreChannel,
        *,
        originator: tuple[str, int] | None = None,
        settled: Callable[[], None] = lambda: None,
        listen: Callable[[], None] = lambda: None,
    ) -> None:
        """Send what is left; ``settled`` is called after each answer, ``listen`` while an instance takes long to be ready.

        Raises
        ------
        DimseError, StorageError
            The association is lost; the instance under way counts as failed.
        """

        def canceled() -> bool:
            listen()
            return self.progress.canceled.is_set()

        ahead = ReadAhead(self._archive, tuple(self._left), partial(self._outbound, channel), self._buffers, canceled)
        self._reading.append(ahead)
        try:
            for item in ahead:
                if self.progress.canceled.is_set():
                    return
                self._left.popleft()
                if isinstance(item, Unready):
                    self.progress.fail(item.stored, item.why)
                else:
                    self._send(channel, ahead, item, originator)
                settled()
        finally:
            ahead.stop()

    def _send(self, channel: StoreChannel, ahead: ReadAhead, item: Ready, originator: tuple[str, int] | None) -> None:
        self._sent = self._sent % 0xFFFF + 1
        try:
            channel.send(self._sent, item.outbound, self._priority, originator)
            ahead.sent(item)
            status, _ = channel.answer()
        except StorageError as error:
            self.progress.fail(item.stored, str(error))
            if channel.begun:  # what is out cannot be taken back
                raise
            ahead.sent(item)
            return
        except BaseException as error:
            self.progress.fail(item.stored, f"association lost: {type(error).__name__}")
            raise
        self.progress.settle(item.stored, status)

    def fail_rest(self, why: str) -> None:
        """Count everything that is left as failed."""
        for stored in self._left:
            self.progress.fail(stored, why)
        self._left.clear()

    def close(self) -> None:
        """Await the end of what is being read."""
        for ahead in self._reading:
            ahead.close()

    def _outbound(self, channel: StoreChannel, reader: SequentialReader, stored: StoredInstance) -> Outbound:
        accepted = channel.syntaxes(stored.sop_class_uid)
        source = stored.transfer_syntax_uid
        if source in accepted:
            loaded = reader.load(stored)
            return Outbound(stored.sop_class_uid, stored.sop_uid, source, loaded.length, loaded.chunks())
        data = b""
        why: Exception = ContextNotAccepted(stored.sop_class_uid, source)
        for target in self._transcoding.targets(source):
            if target not in accepted:
                continue
            if stored.length > MAX_BYTES:
                raise TranscodeError("the instance is larger than what is transcoded")
            data = data or b"".join(reader.load(stored).chunks())
            try:
                changed = self._transcoding.transcode(data, source, target)
            except NodeError as error:  # not every image can be compressed by every codec
                why = error
                continue
            return Outbound(stored.sop_class_uid, stored.sop_uid, target, len(changed), [memoryview(changed)])
        raise why
