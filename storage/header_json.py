"""Header attributes as compact DICOM JSON (PS3.18 Annex F), made after the acknowledgement and never on the path to it.

Bulk (binary values above 1 kB, pixel data of any size) is left out; a ``BulkDataURI`` holding the attribute's tag path marks its place, and
whoever serves the JSON puts the resource's address before it. What follows pixel data is not part of the header.
"""

from __future__ import annotations

import io
import json
import struct
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pydicom import Dataset, dcmread
from pydicom.dataelem import DataElement
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian
from sqlalchemy import ColumnElement, Select, and_, func, outerjoin, select

from storage.filepart import FilePart
from storage.schema import instance, instance_header, location, segment, study
from storage.statements import insert_new

if TYPE_CHECKING:
    from storage.archive import Archive

BULK_THRESHOLD = 1024
INFLATE_LIMIT = 16 * 1024 * 1024
OVERLAP = 1000  # rows below the watermark that are looked at again: their transactions may have ended later than others
SLICE = 20_000  # rows of one step of a pass over all
PIXELS = {0x7FE00008: "OF", 0x7FE00009: "OD", 0x7FE00010: "OW"}  # and their VR where it is implicit

# What pydicom raises on values and structures that break form.
UNREADABLE = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    OverflowError,
    ArithmeticError,
    NotImplementedError,
    LookupError,
    RecursionError,
    EOFError,
    struct.error,
    zlib.error,
    InvalidDicomError,
    BytesLengthException,
)


def encode_header(file: BinaryIO, transfer_syntax_uid: str) -> bytes:
    """Return the zlib-compressed JSON of the Part 10 `file`'s header; ``{}`` compressed where nothing can be read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings show values
        try:
            dataset, pixels = _read(file, transfer_syntax_uid)
            header = {**header_dict(dataset), **pixels}
        except UNREADABLE:
            header = {}
    return zlib.compress(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode(), 6)


def backlog(archive: Archive) -> int:
    """How many intact instances have no header JSON yet."""
    with archive.database.read() as connection:
        return int(connection.execute(_missing(func.count())).scalar_one())


def build_missing(archive: Archive, limit: int = 200) -> int:
    """Make the header JSON of up to `limit` instances in one transaction; return how many were looked at, 0 where none is missing.

    Looks through the whole index; what does so again and again uses `HeaderMaker`.
    """
    return len(_build(archive, limit))


def build_study(archive: Archive, study_uid: str, batch: int = 200) -> int:
    """Make the header JSON that a study still lacks; return how many instances were looked at."""
    with archive.database.read() as connection:
        study_pk = connection.scalar(select(study.c.pk).where(study.c.study_uid == study_uid))
    total = 0
    while study_pk is not None:
        done = len(_build(archive, batch, instance.c.study_pk == study_pk))
        total += done
        if done < batch:
            break
    return total


class HeaderMaker:
    """Makes header JSON as instances come; on an idle node it looks at the newest rows only, however many there are.

    Keys rise, so what is new stands above the watermark. What does not (a row that committed late, a revision that was accepted, the
    backlog of an earlier process) is found by a pass over all rows, one slice a call, at the start and once per `every` seconds.
    """

    def __init__(self, archive: Archive, *, every: float = 3600.0) -> None:
        self._archive = archive
        self._every = every
        self._newest = self._highest()
        self._position: int | None = 0  # of the pass over all rows, None between two
        self._next_pass = 0.0

    def build(self, limit: int = 200) -> int:
        """Make the header JSON of up to `limit` instances; return how many were looked at."""
        highest = self._highest()
        done = _build(self._archive, limit, instance.c.pk > min(self._newest, highest) - OVERLAP)
        if len(done) == limit:
            self._newest = max(done)
            return limit
        self._newest = highest
        return len(done) + self._pass(limit - len(done), highest)

    def _pass(self, limit: int, highest: int) -> int:
        now = self._archive.clock()
        if self._position is None:
            if now < self._next_pass:
                return 0
            self._position = 0
        end = self._position + SLICE
        done = _build(self._archive, limit, instance.c.pk > self._position, instance.c.pk <= end)
        self._position = max(done) if len(done) == limit else end
        if self._position >= highest:
            self._position, self._next_pass = None, now + self._every
        return len(done)

    def _highest(self) -> int:
        with self._archive.database.read() as connection:
            return connection.scalar(select(func.max(instance.c.pk))) or 0


def _build(archive: Archive, limit: int, *which: ColumnElement[bool]) -> list[int]:
    """Make the header JSON of up to `limit` instances that lack it; return their keys.

    Instances whose bytes are gone meanwhile (deleted) are passed over, so it may run beside anything.
    """
    columns = (instance.c.pk, instance.c.transfer_syntax_uid, segment.c.name, location.c.offset, location.c.length)
    query = _missing(*columns).join(location, _current()).join(segment, segment.c.pk == location.c.segment_pk).where(*which)
    with archive.database.read() as connection:
        wanted = connection.execute(query.order_by(instance.c.pk).limit(limit)).all()
    if not wanted:
        return []
    packed = {row.pk: _pack(archive.root / row.name, row.offset, row.length, row.transfer_syntax_uid) for row in wanted}
    with archive.database.begin() as connection:
        alive = select(instance.c.pk).where(instance.c.pk.in_(packed)).with_for_update(read=True)
        rows = [{"instance_pk": pk, "json_zlib": packed[pk]} for pk in connection.execute(alive).scalars()]
        if rows:
            connection.execute(insert_new(connection, instance_header), rows)
    return list(packed)


def _missing(*columns: Any) -> Select[Any]:
    without = outerjoin(instance, instance_header, instance_header.c.instance_pk == instance.c.pk)
    return select(*columns).select_from(without).where(instance_header.c.instance_pk.is_(None), instance.c.status == "OK")


def _current() -> ColumnElement[bool]:
    return and_(location.c.instance_pk == instance.c.pk, location.c.instance_revision == instance.c.revision)


def _pack(path: Path, offset: int, length: int, transfer_syntax_uid: str) -> bytes:
    try:
        with path.open("rb") as file:
            return encode_header(io.BufferedReader(FilePart(file, offset, length)), transfer_syntax_uid)
    except OSError:
        return zlib.compress(b"{}")  # verification tells what happened to the bytes


def decode_header(data: bytes) -> dict[str, Any]:
    """The DICOM JSON object that `encode_header` packed."""
    header: dict[str, Any] = json.loads(zlib.decompress(data))
    return header


def header_dict(dataset: Dataset, path: str = "") -> dict[str, Any]:
    """DICOM JSON of `dataset`; an attribute whose value breaks its VR keeps its place without a value."""
    result: dict[str, Any] = {}
    for tag in sorted(dataset.keys()):
        if not tag & 0xFFFF:
            continue  # Group Length is no part of the JSON model
        name = f"{int(tag):08X}"
        try:
            result[name] = _element(dataset[tag], f"{path}{name}")
        except UNREADABLE:
            result[name] = {"vr": "UN"}
    return result


def _element(element: DataElement, path: str) -> dict[str, Any]:
    if element.VR == "SQ":
        items = [header_dict(item, f"{path}/{number}/") for number, item in enumerate(element.value or [], 1)]
        return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    value = element.value
    if isinstance(value, bytes) and len(value) > BULK_THRESHOLD:
        return {"vr": element.VR, "BulkDataURI": path}
    encoded: dict[str, Any] = element.to_json_dict(lambda _: path, BULK_THRESHOLD)
    json.dumps(encoded, allow_nan=False)
    return encoded


def read_header(file: BinaryIO, transfer_syntax_uid: str) -> Dataset:
    """Read a Part 10 file up to its pixel data, a deflated one up to a limit; raises one of `UNREADABLE`."""
    return _read(file, transfer_syntax_uid)[0]


def _read(file: BinaryIO, transfer_syntax_uid: str) -> tuple[Dataset, dict[str, Any]]:
    """The header, and the JSON that stands for the pixel data where there is some."""
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        file = _inflated(file.read())
        dataset = read_dataset(file, is_implicit_VR=False, is_little_endian=True, stop_when=_at_pixel_data)
        return dataset, _pixels(file.read(6), False, True)
    dataset = dcmread(file, stop_before_pixels=True, force=True)
    implicit, little = dataset.original_encoding
    return dataset, _pixels(file.read(6), bool(implicit), little is not False)


def _pixels(start: bytes, implicit: bool, little: bool) -> dict[str, Any]:
    """What stands for the element that begins with these bytes: tag, and VR where it is explicit."""
    if len(start) < 6:
        return {}
    group, element = struct.unpack("<HH" if little else ">HH", start[:4])
    vr = PIXELS.get(group << 16 | element)
    if vr is None:
        return {}
    name = f"{group:04X}{element:04X}"
    return {name: {"vr": vr if implicit else start[4:].decode("ascii", "replace"), "BulkDataURI": name}}


def _inflated(data: bytes) -> io.BytesIO:
    """Inflate up to a limit: a small file may deflate gigabytes of zeros."""
    (group_length,) = struct.unpack_from("<I", data, 140)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    body = inflater.decompress(data[144 + group_length :], INFLATE_LIMIT + 1)
    if len(body) > INFLATE_LIMIT:
        raise ValueError("deflated data set beyond the limit")
    return io.BytesIO(body)


def _at_pixel_data(tag: BaseTag, vr: str | None, length: int) -> bool:
    return int(tag) >= 0x7FE00008
