"""Ingest: an instance's bytes into a segment, durable, then its row, durable, then the receipt (DESIGN, "Order of an ingest").

Fragments are consumed as they come: scanned, hashed and written at their place, so memory does not grow with the instance. The
study is known from the first of them; where it is not, they wait in a spool file. What cannot be indexed is kept in quarantine.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import blake3
import structlog

from storage import audit
from storage.disk import translated
from storage.errors import CannotUnderstand, DataSetMismatch, StorageError
from storage.headers import Header, HeaderScanner, clean_uid, is_uid
from storage.members import MemberInfo, MemberLayout, fixed_records
from storage.needles import watch_for
from storage.receipt import Outcome, Receipt, Source
from storage.rows import Entry, Known, Opening, Place
from storage.scan import digest_of
from storage.segments import SMALL, Segment
from storage.writer import OutcomeUnknown

if TYPE_CHECKING:
    from storage.archive import Archive

log = structlog.get_logger()

T = TypeVar("T")
SPOOL_IN_MEMORY = 128 << 10
# SOP Classes of objects that a node like this one makes: structured reports, segmentations, key objects, presentation states,
# secondary captures, parametric maps, encapsulated documents. Only these can be our own results coming back.
DERIVED_CLASSES = tuple(
    f"1.2.840.10008.5.1.4.1.1.{number}" for number in ("7", "7.", "11.", "30", "66", "66.", "67", "68.", "88.", "90.", "104.")
)


class IngestSession:
    """One association's, request's or import's way into the archive. Not thread-safe.

    It holds the segment of the study it is busy with, and gives it back when another study comes or at its end.
    """

    def __init__(self, archive: Archive, source: Source) -> None:
        self.archive = archive
        self.source = source
        self._segment: Segment | None = None
        self._fixed: dict[tuple[str, str, str, str], bytes] = {}
        self._announced = source.association_id is None or not source.lease
        self._opened_at = archive.clock()

    def begin(self, *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, binding: bool = True) -> InstanceWriter:
        """Start an instance.

        Parameters
        ----------
        binding
            A data set of another SOP Instance UID is refused: a C-STORE announces it, while a file's meta may be wrong.

        Raises
        ------
        CannotUnderstand
            A UID that is not valid.
        NoSpace
            The disk is below its watermark.
        """
        sop_class_uid, sop_instance_uid = sop_class_uid.strip(" \0"), sop_instance_uid.strip(" \0")
        if not is_uid(sop_instance_uid) or not is_uid(sop_class_uid):
            raise CannotUnderstand("SOP Class or SOP Instance UID is not a valid UID")
        self.archive.check_space()
        return InstanceWriter(self, sop_class_uid, sop_instance_uid, transfer_syntax_uid, binding=binding)

    def close(self) -> None:
        """Give the borrowed segment back."""
        segment, self._segment = self._segment, None
        if segment is not None:
            self.archive.pool.give_back(segment)

    def borrow(self, study_uid: str) -> Segment:
        """The segment to append to; of the study and not full."""
        segment = self._segment
        if segment is not None:
            if segment.study_uid == study_uid and not segment.closed and segment.end < self.archive.settings.max_segment:
                return segment
            self.close()
        self._segment = segment = self.archive.pool.borrow(study_uid)
        return segment

    def opening(self) -> Opening | None:
        """The association's row, until an instance took it along."""
        if self._announced:
            return None
        source = self.source
        assert source.association_id is not None
        names = (source.process, source.calling_ae, source.called_ae, source.address)
        return Opening(source.association_id, *names, self._opened_at, self.archive.clock() + source.lease)

    def announced(self) -> None:
        """The association's row is durable."""
        self._announced = True

    def lay_out(self, header: Header, sop_class_uid: str, transfer_syntax_uid: str) -> MemberLayout:
        """The member headers of an instance of this session."""
        key = (header.study_uid, header.series_uid, sop_class_uid, transfer_syntax_uid)
        fixed = self._fixed.get(key)
        if fixed is None:
            if len(self._fixed) > 1000:
                self._fixed.clear()
            source = self.source
            fixed = self._fixed[key] = fixed_records(
                study_uid=header.study_uid,
                series_uid=header.series_uid,
                sop_class_uid=sop_class_uid,
                transfer_syntax_uid=transfer_syntax_uid,
                origin=source.origin,
                calling_ae=source.calling_ae,
                called_ae=source.called_ae,
                address=source.address,
                association_id=source.association_id or "",
            )
        return MemberLayout(fixed, header.series_uid, header.sop_uid, sop_class_uid, transfer_syntax_uid)


class InstanceWriter:
    """One instance on its way in: `write` as often as needed, then `commit` or `abandon`."""

    def __init__(self, session: IngestSession, sop_class_uid: str, sop_uid: str, transfer_syntax_uid: str, *, binding: bool) -> None:
        self._session = session
        self._binding = binding
        self._archive = session.archive
        self._sop_class_uid = sop_class_uid
        self._sop_uid = sop_uid
        self._transfer_syntax_uid = transfer_syntax_uid
        self._scanner = HeaderScanner(transfer_syntax_uid)
        self._hasher = blake3.blake3()
        self._length = 0
        self._problem: StorageError | None = None
        self._segment: Segment | None = None
        self._layout: MemberLayout | None = None
        self._spool: Any = None
        self._derived = sop_class_uid.startswith(DERIVED_CLASSES)
        ours = self._archive.own_device_uids() if self._derived else ()
        self._own_devices = watch_for(ours, self._scanner) if ours else None
        self._read: Header | None = None

    def write(self, fragments: Sequence[memoryview | bytes]) -> None:
        """Consume the next fragments of the data set; nothing of them is referred to afterwards."""
        length = 0
        for fragment in fragments:
            length += len(fragment)
            self._hasher.update(fragment)
            if self._problem is None:
                self._scan(fragment)
            if self._own_devices is not None:
                self._own_devices.feed(fragment)
        if self._segment is None:
            self._start(fragments, length)
        else:
            self._append(fragments, length)

    def commit(self) -> Receipt:
        """Make the instance durable, bytes first, and tell what became of it.

        Raises
        ------
        StorageError
            Nothing of it stays: no space, read-only, index unavailable, or not the instance that was announced.
        """
        try:
            return self._commit()
        except OutcomeUnknown:
            # The row may be durable: its bytes stay. Whoever opens the segment next compares both.
            if self._segment is not None:
                self._segment.close()
            raise
        except BaseException:
            self._undo()
            raise
        finally:
            self._close_spool()

    def abandon(self) -> None:
        """Forget the instance; its bytes are zeros again before their place is used."""
        self._undo()
        self._close_spool()

    # -- bytes ----------------------------------------------------------------------------------------------------------------------

    def _scan(self, fragment: memoryview | bytes) -> None:
        try:
            self._scanner.feed(fragment)
        except StorageError as error:
            self._problem = error

    def _start(self, fragments: Sequence[memoryview | bytes], length: int) -> None:
        if self._problem is None and self._scanner.identified:
            try:
                header = self._header()
            except StorageError as error:
                self._problem = error
            else:
                self._open(header, fragments, length)
                return
        if self._spool is None:
            with translated():
                self._spool = tempfile.SpooledTemporaryFile(SPOOL_IN_MEMORY, dir=str(self._archive.spool))  # noqa: SIM115 closed by commit or abandon
        with translated():
            for fragment in fragments:
                self._spool.write(fragment)
        self._length += length

    def _open(self, header: Header, fragments: Sequence[memoryview | bytes], length: int) -> None:
        layout = self._session.lay_out(header, self._sop_class_uid, self._transfer_syntax_uid)
        segment = self._session.borrow(header.study_uid)
        self._layout, self._segment = layout, segment
        spooled, self._length = self._length, 0
        start = segment.end + layout.prefix_length
        if spooled:
            segment.write([layout.meta], start, len(layout.meta))
            self._unspool()
            self._append(fragments, length)
            return
        total = len(layout.meta) + length
        segment.write([layout.meta, *fragments], start, total, small=total < SMALL)
        self._length = length

    def _unspool(self) -> None:
        self._spool.seek(0)
        while piece := self._spool.read(1 << 20):
            self._append([piece], len(piece))

    def _append(self, fragments: Sequence[memoryview | bytes], length: int) -> None:
        segment, layout = self._segment, self._layout
        assert segment is not None
        assert layout is not None
        segment.write(fragments, segment.end + layout.prefix_length + len(layout.meta) + self._length, length)
        self._length += length

    # -- the end ----------------------------------------------------------------------------------------------------------------------

    def _header(self) -> Header:
        if self._read is None:
            read = Header(self._scanner.values, self._transfer_syntax_uid)
            if self._session.source.study_uid not in ("", read.study_uid):
                raise DataSetMismatch("Study Instance UID is not the one of the request")
            self._read = read
        return self._read

    def _commit(self) -> Receipt:
        digest = self._hasher.hexdigest()
        try:
            if self._problem is not None:
                raise self._problem
            self._scanner.finish()
            header = self._header()
        except CannotUnderstand as error:
            return self._quarantine("malformed", str(error), digest)
        if header.sop_uid != self._sop_uid:
            if self._binding:
                raise DataSetMismatch("SOP Instance UID is not the one announced")
            self._sop_uid = header.sop_uid
        if header.sop_class_uid and header.sop_class_uid != self._sop_class_uid:
            raise DataSetMismatch("SOP Class UID is not the one announced")
        if self._own_devices is not None and self._own_devices.found:
            return self._own_result(header, digest)
        if self._segment is None:
            self._open(header, [], 0)
        return self._index(header, digest)

    def _index(self, header: Header, digest: str) -> Receipt:
        segment, layout, source = self._segment, self._layout, self._session.source
        assert segment is not None
        assert layout is not None
        received_at = self._archive.clock()
        start, length = segment.end, len(layout.meta) + self._length
        segment.write([layout.headers(digest=digest, received_at=received_at, length=length)], start, layout.prefix_length)
        segment.sync()
        entry = Entry(
            header=header,
            sop_class_uid=self._sop_class_uid,
            transfer_syntax_uid=self._transfer_syntax_uid,
            digest=digest,
            data_length=self._length,
            received_at=received_at,
            place=Place(segment.name, segment.pk, start, start + layout.prefix_length, length, len(layout.meta)),
            origin=source.origin,
            association_id=source.association_id,
            calling_ae=source.calling_ae,
            called_ae=source.called_ae,
            may_be_own=self._derived,
            opening=self._session.opening(),
        )
        self._archive.writer.submit(entry)
        if entry.own:
            return self._own_result(header, digest)
        if entry.known is not None:
            return self._met(entry, entry.known, header, digest)
        self._session.announced()
        segment.pk = entry.segment_pk
        segment.advance(start + layout.prefix_length + length)
        return Receipt(Outcome.STORED, header.study_uid, header.series_uid, header.sop_uid, digest)

    def _met(self, entry: Entry, known: Known, header: Header, digest: str) -> Receipt:
        """The UID is taken: the same content, our own object, or a conflict."""
        if known.origin == "emitted":
            return self._own_result(header, digest)
        if known.digest == digest or self._same_content(known):
            if known.digest == digest and self._repaired(entry, self._info(header, digest)):
                return Receipt(Outcome.STORED, header.study_uid, header.series_uid, header.sop_uid, digest, "its stored bytes were broken")
            self._undo()
            return Receipt(Outcome.DUPLICATE, header.study_uid, header.series_uid, header.sop_uid, digest)
        if self._mended(known, header):
            return Receipt(Outcome.STORED, header.study_uid, header.series_uid, header.sop_uid, digest, "its stored bytes were broken")
        return self._quarantine("conflict", "other content under a UID that is taken", digest, header, known)

    def _repaired(self, entry: Entry, info: MemberInfo) -> bool:
        """Take these bytes where the stored ones are broken; a duplicate is told Success only for a whole copy."""
        from storage.repair import repair

        segment = self._segment
        assert segment is not None
        segment_pk = repair(self._archive, entry, info, segment)
        if segment_pk is None:
            return False
        segment.pk = segment_pk
        segment.advance(entry.place.offset + entry.place.length)
        return True

    def _same_content(self, known: Known) -> bool:
        if known.transfer_syntax_uid == self._transfer_syntax_uid or self._segment is None or self._layout is None or known.status != "OK":
            return False
        from storage.compare import same_content

        offset = self._segment.end + self._layout.prefix_length
        existing = self._archive.open_instance(self._sop_uid)
        ours = (self._segment.path, offset, len(self._layout.meta) + self._length)
        return same_content((existing.path, existing.offset, existing.length), ours)

    def _mended(self, known: Known, header: Header) -> bool:
        """The stored bytes are broken, and this is their content in another syntax: encoded as it was, it has their digest."""
        from storage.compare import encoded_as
        from storage.repair import broken_member, mend

        segment, layout = self._segment, self._layout
        assert segment is not None
        assert layout is not None
        if known.transfer_syntax_uid == self._transfer_syntax_uid or broken_member(self._archive, header, known.digest) is None:
            return False
        offered = (segment.path, segment.end + layout.prefix_length, len(layout.meta) + self._length)
        with tempfile.TemporaryDirectory(dir=self._archive.spool) as folder:
            target = Path(folder) / "encoded"
            if not encoded_as(offered, known.transfer_syntax_uid, target):
                return False
            with target.open("rb") as file:
                length = os.fstat(file.fileno()).st_size
                if digest_of(file.fileno(), 0, length) != known.digest:
                    return False
                self._undo()
                return mend(self._archive, header, known.digest, file.fileno(), 0, length)

    def _own_result(self, header: Header, digest: str) -> Receipt:
        self._mend_own(header, digest)
        self._undo()
        with self._archive.database.begin() as connection:
            audit.record(
                connection,
                "instance.own_result",
                actor=self._session.source.calling_ae,
                study_uid=header.study_uid,
                sop_uid=header.sop_uid,
                detail={"called_ae": self._session.source.called_ae},
                at=self._archive.clock(),
            )
        return Receipt(Outcome.OWN_RESULT, header.study_uid, header.series_uid, header.sop_uid, digest)

    def _mend_own(self, header: Header, digest: str) -> None:
        """Where our own copy is broken, take the bytes that came back; the answer does not hang on it."""
        from storage.repair import mend

        try:
            self._copy_out(lambda source, offset: mend(self._archive, header, digest, source, offset, self._length))
        except StorageError as error:
            log.warning("instance.not_repaired", sop_uid=header.sop_uid, why=str(error))

    def _quarantine(self, kind: str, reason: str, digest: str, header: Header | None = None, known: Known | None = None) -> Receipt:
        from storage import quarantine, quarantine_file

        info = self._info(header, digest)
        why = quarantine_file.Why(kind, reason, known.digest if known else None)
        disk, root = self._archive.disk, self._archive.root
        with translated():
            name = self._copy_out(
                lambda descriptor, offset: quarantine_file.write(disk, root, info, why, descriptor, offset, self._length)
            )
        self._undo()
        with self._archive.database.begin() as connection:
            quarantine.record(connection, info, why, name)
        outcome = Outcome.CONFLICT if known else Outcome.QUARANTINED
        log.warning("instance.quarantined", kind=kind, sop_uid=info.sop_uid, reason=reason)
        return Receipt(outcome, info.study_uid, info.series_uid, info.sop_uid, digest, reason[:64])

    def _copy_out(self, write: Callable[[int, int], T]) -> T:
        if self._segment is not None:
            assert self._layout is not None
            return write(self._segment.descriptor, self._segment.end + self._layout.prefix_length + len(self._layout.meta))
        if self._spool is None:
            raise CannotUnderstand("data set is empty")
        self._spool.rollover()
        self._spool.flush()
        return write(self._spool.fileno(), 0)

    def _info(self, header: Header | None, digest: str) -> MemberInfo:
        source, values = self._session.source, self._scanner.values
        return MemberInfo(
            study_uid=header.study_uid if header else _uid_or_nothing(values.get(0x0020000D)),
            series_uid=header.series_uid if header else _uid_or_nothing(values.get(0x0020000E)),
            sop_uid=self._sop_uid,
            sop_class_uid=self._sop_class_uid,
            transfer_syntax_uid=self._transfer_syntax_uid,
            digest=digest,
            received_at=self._archive.clock(),
            calling_ae=source.calling_ae,
            called_ae=source.called_ae,
            address=source.address,
            association_id=source.association_id or "",
            origin=source.origin,
        )

    def _undo(self) -> None:
        if self._segment is not None:
            self._segment.abandon()

    def _close_spool(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None


def _uid_or_nothing(value: bytes | None) -> str:
    uid = clean_uid(value or b"")
    return uid if is_uid(uid) else ""
