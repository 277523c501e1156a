"""Objects that this node made: their bytes durable first, then their rows together with whatever else belongs to the fact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import blake3
from sqlalchemy import Connection, insert

from storage.errors import CannotUnderstand, IndexUnavailable, QuarantineConflict
from storage.headers import Header, HeaderScanner
from storage.ingest import DERIVED_CLASSES
from storage.members import MemberInfo, layout_of, padded
from storage.recovery import executor
from storage.rows import Entry, Place, insert_group
from storage.schema import emitted
from storage.segments import Segment

if TYPE_CHECKING:
    from storage.archive import Archive, EmittedObject


def store_emitted(archive: Archive, objects: Sequence[EmittedObject], in_transaction: Callable[[Connection], None]) -> None:
    """Append and sync `objects`, then commit their rows and `in_transaction` at once. Whatever it raises leaves nothing behind.

    Raises
    ------
    QuarantineConflict
        A UID is taken already.
    CannotUnderstand
        An object is none that can be indexed or recognized later.
    """
    segments: dict[str, Segment] = {}
    try:
        entries = [_append(archive, segments, each) for each in objects]
        for segment in segments.values():
            segment.sync()
        with archive.database.begin() as connection:
            _insert(connection, entries)
            in_transaction(connection)
    except IndexUnavailable:
        # The commit may have happened: the bytes stay, and whoever opens the segments next compares them with the rows.
        for segment in segments.values():
            segment.close()
        raise
    except BaseException:
        for segment in segments.values():
            segment.abandon()
        raise
    else:
        for entry in entries:
            segment = segments[entry.header.study_uid]
            segment.pk = entry.segment_pk
            segment.advance(entry.place.offset + entry.place.length)
    finally:
        for segment in segments.values():
            archive.pool.give_back(segment)


def _insert(connection: Connection, entries: Sequence[Entry]) -> None:
    lock = " FOR UPDATE OF study" if connection.dialect.name == "postgresql" else ""
    insert_group(executor(connection), entries, lock=lock)
    for entry in entries:
        if entry.pk is None:
            raise QuarantineConflict(f"instance {entry.header.sop_uid} is in the archive already")
        row = {"sop_uid": entry.header.sop_uid, "run_key": entry.run_key or "", "emitted_at": entry.received_at}
        connection.execute(insert(emitted).values(row))


def _append(archive: Archive, segments: dict[str, Segment], each: EmittedObject) -> Entry:
    header = _header(each)
    if each.study_uid not in segments:
        segments[each.study_uid] = archive.pool.borrow(each.study_uid)
    segment = segments[each.study_uid]
    digest, now = blake3.blake3(each.dataset_bytes).hexdigest(), archive.clock()
    layout = layout_of(
        MemberInfo(
            study_uid=each.study_uid,
            series_uid=each.series_uid,
            sop_uid=each.sop_instance_uid,
            sop_class_uid=each.sop_class_uid,
            transfer_syntax_uid=each.transfer_syntax_uid,
            digest=digest,
            received_at=now,
            origin="emitted",
            run_key=each.run_key,
        )
    )
    length = len(layout.meta) + len(each.dataset_bytes)
    start = segment.append_at
    offset = start + layout.prefix_length
    segment.write([layout.meta, each.dataset_bytes], offset, length)
    segment.write([layout.headers(digest=digest, received_at=now, length=length)], start, layout.prefix_length)
    segment.append_at = padded(offset + length)
    return Entry(
        header=header,
        sop_class_uid=each.sop_class_uid,
        transfer_syntax_uid=each.transfer_syntax_uid,
        digest=digest,
        data_length=len(each.dataset_bytes),
        received_at=now,
        place=Place(segment.name, segment.pk, start, offset, length, len(layout.meta)),
        origin="emitted",
        run_key=each.run_key,
    )


def _header(each: EmittedObject) -> Header:
    if not each.sop_class_uid.startswith(DERIVED_CLASSES):
        raise CannotUnderstand(f"SOP Class {each.sop_class_uid} could not be recognized as our own")
    scanner = HeaderScanner(each.transfer_syntax_uid)
    scanner.feed(each.dataset_bytes)
    scanner.finish()
    header = Header(scanner.values, each.transfer_syntax_uid)
    if (header.sop_uid, header.study_uid, header.series_uid) != (each.sop_instance_uid, each.study_uid, each.series_uid):
        raise CannotUnderstand("an object's UIDs are not those of its data set")
    return header
