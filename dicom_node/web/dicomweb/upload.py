"""The parts of a STOW request on their way into the archive: the same path as C-STORE, several instances' commits at a time.

One thread reads a request, takes the Part 10 preamble and file meta off each part and writes its data set where it will stay. While the
next part is written, the ones before it are made durable by other threads, so that their syncs and index rows go together.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final

import structlog

from dicom_node.dimse.faults import describe
from dicom_node.dimse.services.store import (
    CANNOT_UNDERSTAND,
    CONFLICT,
    PROCESSING_FAILURE,
    SOP_CLASS_NOT_SUPPORTED,
    SUCCESS,
    status_of,
)
from dicom_node.web.dicomweb.errors import BadRequest, TooLarge
from dicom_node.web.dicomweb.multipart_reader import MultipartError, MultipartReader, PartBegin, PartData, parse_media_type
from dicom_node.web.dicomweb.stow_answer import TRANSFER_SYNTAX_NOT_SUPPORTED, Stored
from storage.archive import IngestSession, InstanceWriter, Outcome
from storage.errors import IndexUnavailable, StorageError
from storage.headers import clean_uid
from storage.part10 import META_LIMIT, NotDicom, Part10Header, read_part10_header

log = structlog.get_logger()

DICOM: Final = "application/dicom"
IN_FLIGHT: Final = 4  # instances of one request whose commits overlap
NO_ATTEMPT: Final = 10.0  # seconds after the index was not available
FIRST_LOOK: Final = 144  # bytes: preamble, prefix and the group length of the file meta
LONGEST_HEAD: Final = 132 + META_LIMIT
GROUP_LENGTH: Final = b"\x02\x00\x00\x00UL\x04\x00"


@dataclass(frozen=True)
class Policy:
    """What is taken: SOP classes, transfer syntaxes, bytes of a part, number of parts; and the answer to a conflict."""

    sop_classes: frozenset[str]
    transfer_syntaxes: frozenset[str]
    max_part_size: int
    max_parts: int
    conflict_status: int = CONFLICT

    def status_of_outcome(self, outcome: Outcome) -> int:
        if outcome is Outcome.CONFLICT:
            return self.conflict_status
        return CANNOT_UNDERSTAND if outcome is Outcome.QUARANTINED else SUCCESS


class Lanes:
    """The request's sessions, one for each instance in flight; the one used last is used first, so that few segments are touched."""

    def __init__(self, open_session: Callable[[], IngestSession], limit: int) -> None:
        self._open_session = open_session
        self._limit = limit
        self._free: list[IngestSession] = []
        self._count = 0
        self._changed = threading.Condition()

    def take(self) -> IngestSession:
        """A session that is not in use; waits for one. Raises StorageError where none can be opened."""
        with self._changed:
            while not self._free and self._count == self._limit:
                self._changed.wait()
            if self._free:
                return self._free.pop()
            self._count += 1
        try:
            return self._open_session()
        except BaseException:
            with self._changed:
                self._count -= 1
            raise

    def give_back(self, session: IngestSession) -> None:
        with self._changed:
            self._free.append(session)
            self._changed.notify()

    def close(self) -> None:
        """Wait until all are back, and close them."""
        with self._changed:
            while len(self._free) < self._count:
                self._changed.wait()
            sessions, self._free, self._count = self._free, [], 0
        for session in sessions:
            session.close()


class Upload:
    """One request's instances.

    Parameters
    ----------
    open_session
        Opens a session of the request's association; at most `IN_FLIGHT` of them are open.
    commits
        Runs the commits.
    """

    def __init__(self, open_session: Callable[[], IngestSession], commits: Executor, policy: Policy) -> None:
        self.policy = policy
        self._lanes = Lanes(open_session, IN_FLIGHT)
        self._commits = commits
        self._results: list[Stored | None] = []
        self._away_until = 0.0

    def run_single(self, pieces: Iterable[bytes]) -> list[Stored]:
        """Store a body that is one Part 10 file."""
        return self._run(lambda: self._single(pieces))

    def run_multipart(self, pieces: Iterable[bytes], boundary: str) -> list[Stored]:
        """Store the parts of a multipart/related body.

        Raises
        ------
        BadRequest
            It is no multipart, or breaks off; instances before that stay.
        TooLarge
            More or larger parts than allowed.
        """
        return self._run(lambda: self._multipart(pieces, boundary))

    def stored(self) -> int:
        """How many instances the archive has taken so far."""
        return sum(1 for result in self._results if result is not None and result.ok)

    def _run(self, read: Callable[[], None]) -> list[Stored]:
        try:
            read()
        except MultipartError as error:
            raise BadRequest(str(error)) from None
        finally:
            self._lanes.close()
        return [result or Stored(PROCESSING_FAILURE, "processing failed") for result in self._results]

    def _single(self, pieces: Iterable[bytes]) -> None:
        part = _Part(self)
        try:
            for piece in pieces:
                part.write(memoryview(piece))
            part.end()
        except BaseException:
            part.abandon()
            raise

    def _multipart(self, pieces: Iterable[bytes], boundary: str) -> None:
        reader = MultipartReader(boundary)
        part: _Part | None = None
        try:
            for piece in pieces:
                for event in reader.feed(piece):
                    if isinstance(event, PartData):
                        assert part is not None
                        part.write(event.data)
                    elif isinstance(event, PartBegin):
                        part = self._begin(event.headers.get("content-type"))
                    else:
                        assert part is not None
                        part.end()
                        part = None
            reader.close()
        except BaseException:
            if part is not None:
                part.abandon()
            raise

    def _begin(self, content_type: str | None) -> _Part:
        if len(self._results) >= self.policy.max_parts:
            raise TooLarge(f"a request may have {self.policy.max_parts} parts")
        part = _Part(self)
        if content_type is not None and parse_media_type(content_type)[0] != DICOM:
            part.fail(CANNOT_UNDERSTAND, f"a part is not of type {DICOM}")
        return part

    # -- what parts use ---------------------------------------------------------------------------------------------------------------

    def place(self) -> int:
        """The number under which a part's result will stand."""
        self._results.append(None)
        return len(self._results) - 1

    def begin(self, header: Part10Header) -> tuple[IngestSession, InstanceWriter]:
        """Open an instance; raises StorageError."""
        if time.monotonic() < self._away_until:
            raise IndexUnavailable("index is not available")
        try:
            session = self._lanes.take()
        except IndexUnavailable:
            self._index_is_away()
            raise
        try:
            writer = session.begin(
                sop_class_uid=header.sop_class_uid,
                sop_instance_uid=header.sop_instance_uid,
                transfer_syntax_uid=header.transfer_syntax_uid,
                binding=False,
            )
        except BaseException:
            self._lanes.give_back(session)
            raise
        return session, writer

    def _index_is_away(self) -> None:
        """Each attempt waits for seconds: the request's next instances are refused at once, so that its answer comes in time."""
        self._away_until = time.monotonic() + NO_ATTEMPT

    def keep(self, place: int, result: Stored) -> None:
        self._results[place] = result
        if not result.ok:
            uid = result.sop_instance[:64]
            log.warning("instance.refused", sop_instance_uid=uid, status=f"{result.status:04X}", comment=result.comment)

    def give_back(self, session: IngestSession) -> None:
        self._lanes.give_back(session)

    def commit(self, place: int, header: Part10Header, session: IngestSession, writer: InstanceWriter) -> None:
        """Make an instance durable in another thread; its session is free again afterwards."""
        self._commits.submit(self._commit, place, header, session, writer)

    def _commit(self, place: int, header: Part10Header, session: IngestSession, writer: InstanceWriter) -> None:
        try:
            self.keep(place, self._outcome(header, writer))
        finally:
            self._lanes.give_back(session)  # whatever happens: the request waits for all of them at its end

    def _outcome(self, header: Part10Header, writer: InstanceWriter) -> Stored:
        names = (header.sop_class_uid, header.sop_instance_uid)
        try:
            receipt = writer.commit()
        except StorageError as error:
            if isinstance(error, IndexUnavailable):
                self._index_is_away()
            return Stored(status_of(error), error.comment, *names)
        except Exception as error:  # noqa: BLE001 - one instance that fails must not take the others' answers with it
            log.error("stow.instance_failed", sop_instance_uid=names[1], **describe(error))
            return Stored(PROCESSING_FAILURE, "processing failed", *names)
        status = self.policy.status_of_outcome(receipt.outcome)
        comment = receipt.detail if status != SUCCESS else ""
        return Stored(status, comment, header.sop_class_uid, receipt.sop_uid, receipt.study_uid, receipt.series_uid)


class _Part:
    """One part: its head is gathered until the file meta is complete, what follows goes straight to its place."""

    __slots__ = ("_failed", "_head", "_header", "_need", "_place", "_session", "_size", "_upload", "_writer")

    def __init__(self, upload: Upload) -> None:
        self._upload = upload
        self._place = upload.place()
        self._head = b""
        self._need = FIRST_LOOK
        self._size = 0
        self._failed = False
        self._header: Part10Header | None = None
        self._session: IngestSession | None = None
        self._writer: InstanceWriter | None = None

    def write(self, data: memoryview) -> None:
        """Take some bytes of the part; they are not referred to afterwards."""
        self._size += len(data)
        if self._size > self._upload.policy.max_part_size:
            raise TooLarge(f"a part may have {self._upload.policy.max_part_size} bytes")
        if self._failed:
            return
        try:
            if self._writer is not None:
                self._writer.write([data])
                return
            self._head = self._head + data if self._head else bytes(data)
            if len(self._head) >= self._need:
                self._look(last=False)
        except StorageError as error:
            self._give_up(error)

    def end(self) -> None:
        """The part is complete."""
        if self._failed:
            return
        try:
            if self._writer is None:
                self._look(last=True)
        except StorageError as error:
            self._give_up(error)
        if self._header is None or self._session is None or self._writer is None:
            return  # it failed
        self._upload.commit(self._place, self._header, self._session, self._writer)
        self._session = self._writer = None

    def abandon(self) -> None:
        """The request breaks off inside this part: nothing of it stays."""
        writer, session = self._writer, self._session
        self._writer = self._session = None
        if writer is not None and session is not None:
            try:
                writer.abandon()
            finally:
                self._upload.give_back(session)

    def fail(self, status: int, comment: str) -> None:
        """Nothing of this part is taken; the rest of its bytes are passed over."""
        self._failed, self._head = True, b""
        header = self._header
        names = (header.sop_class_uid, header.sop_instance_uid) if header is not None else ("", "")
        self._upload.keep(self._place, Stored(status, comment, *names))
        self.abandon()

    def _give_up(self, error: StorageError) -> None:
        self.fail(status_of(error), error.comment)

    def _look(self, *, last: bool) -> None:
        """Read the head as far as it is there, and begin the instance when it is complete."""
        head = self._head
        if not last and self._need == FIRST_LOOK and head[128:132] == b"DICM" and head[132:140] == GROUP_LENGTH:
            self._need = min(FIRST_LOOK + int.from_bytes(head[140:144], "little") + 8, LONGEST_HEAD)
        elif not last and self._need == FIRST_LOOK:
            self._need = LONGEST_HEAD
        if len(head) < self._need and not last:
            return
        try:
            header = read_part10_header(io.BytesIO(head))
        except NotDicom as error:
            if last or len(head) >= LONGEST_HEAD:
                self.fail(CANNOT_UNDERSTAND, str(error))
            self._need = LONGEST_HEAD
            return
        self._begin(header)

    def _begin(self, header: Part10Header) -> None:
        self._header = header
        policy = self._upload.policy
        if clean_uid(header.sop_class_uid.encode("ascii", "replace")) not in policy.sop_classes:
            self.fail(SOP_CLASS_NOT_SUPPORTED, "SOP class is no storage class")
            return
        if header.transfer_syntax_uid not in policy.transfer_syntaxes:
            self.fail(TRANSFER_SYNTAX_NOT_SUPPORTED, "transfer syntax is not supported")
            return
        self._session, self._writer = self._upload.begin(header)
        rest, self._head = self._head[header.dataset_offset :], b""
        if rest:
            self._writer.write([rest])
