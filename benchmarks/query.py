"""C-FIND: milliseconds to the last match, this node beside Orthanc over the same studies, and dcmqrscp over what it can hold.

The client is a plain socket that counts matches and decodes nothing. Every query's number of matches must be the one that the population
says, at this node and at Orthanc; where dcmqrscp finds another number, it has no figure.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path

from pydicom.dataset import Dataset

from benchmarks.archives import Dcmqrscp, await_settled, parser, running
from benchmarks.instances import CT_IMAGE_STORAGE, encode_explicit
from benchmarks.load import Wire, element, message
from benchmarks.receivers import _Program
from benchmarks.report import save, spread, table
from benchmarks.retrieve_client import Stream, Taken, padded, parse

STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
A_DAY = 500  # studies on one date
FIRST = date(2024, 1, 1)
ROOT_UID = "1.2.826.0.1.3680043.10.1024.7"
SMALL = 450  # dcmqrscp holds 500 studies at most
RETURNED = (0x00080020, 0x00080030, 0x00080050, 0x00081030, 0x00100010, 0x00100020, 0x0020000D, 0x00200010)
COUNTED = (0x00080061, 0x00201206, 0x00201208)


@dataclass(frozen=True)
class Search:
    """A query by one key, and how many of so many studies it matches."""

    name: str
    tag: int
    value: str
    counts: bool

    def matches(self, studies: int) -> int:
        if not self.value:
            return studies
        wanted = {
            0x0020000D: lambda n: study_uid(n) == self.value,
            0x00100020: lambda n: patient_id(n) == self.value,
            0x00100010: lambda n: name(n).startswith(self.value.rstrip("*")),
            0x00080020: lambda n: day(n) == self.value[:8],
        }[self.tag]
        return sum(wanted(number) for number in range(studies))


def study_uid(number: int) -> str:
    return f"{ROOT_UID}.{1 + number * 7919}"


def patient_id(number: int) -> str:
    return f"PAT{number:06d}"


def name(number: int) -> str:
    return f"{'WILDCARD' if number % 45 == 7 and number < 450 else f'FAMILY{number:05d}'}^GIVEN{number % 97}"


def day(number: int) -> str:
    return f"{FIRST + timedelta(days=number // A_DAY):%Y%m%d}"


def searches() -> Iterator[Search]:
    """What is asked, with and without Modalities in Study and the counts."""
    for counts in (False, True):
        yield Search("by Study Instance UID", 0x0020000D, study_uid(123), counts)
        yield Search("by Patient ID", 0x00100020, patient_id(123), counts)
        yield Search("name wildcard, 10 matches", 0x00100010, "WILDCARD*", counts)
        yield Search("date range, 500 matches", 0x00080020, f"{day(0)}-{day(0)}", counts)
        yield Search("all", 0x0020000D, "", counts)


def instance(number: int) -> tuple[bytes, str]:
    """One study's only instance: its data set and its UID."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID, ds.SOPInstanceUID = CT_IMAGE_STORAGE, f"{study_uid(number)}.1.1"
    ds.StudyDate, ds.StudyTime, ds.AccessionNumber = day(number), f"{number % 24:02d}1500", f"ACC{number:06d}"
    ds.Modality, ds.StudyDescription = "CT", f"Exam {number % 40}"
    ds.ReferringPhysicianName = "REFERRER^BENCH"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = name(number), patient_id(number), "19700101", "O"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study_uid(number), f"{study_uid(number)}.1"
    ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = str(number), "1", "1"
    return encode_explicit(ds), ds.SOPInstanceUID


def fill(archive: _Program, studies: int) -> None:
    """Store the population by C-STORE."""
    with Wire("127.0.0.1", archive.port, called=archive.called) as wire:
        for number in range(studies):
            data, uid = instance(number)
            status, comment = wire.store(data, sop_instance=uid)
            if status:
                raise SystemExit(f"{archive.name} refused study {number}: {status:04X} {comment}")


def identifier(search: Search) -> bytes:
    """The query in Implicit VR Little Endian."""
    values = dict.fromkeys((*RETURNED, *(COUNTED if search.counts else ())), "")
    values[0x00080052] = "STUDY"
    values[search.tag] = search.value
    out = b""
    for tag in sorted(values):
        raw = padded(values[tag], b"\0" if tag == 0x0020000D else b" ")
        out += (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little") + len(raw).to_bytes(4, "little") + raw
    return out


def request(message_id: int = 1) -> bytes:
    """The command set of a C-FIND-RQ."""
    body = (
        element(0x0002, padded(STUDY_ROOT_FIND))
        + element(0x0100, b"\x20\x00")
        + element(0x0110, message_id.to_bytes(2, "little"))
        + element(0x0700, b"\0\0")
        + element(0x0800, b"\0\0")
    )
    return element(0x0000, len(body).to_bytes(4, "little")) + body


class Client:
    """One open association that queries."""

    def __init__(self, archive: _Program) -> None:
        contexts = [(STUDY_ROOT_FIND, [IMPLICIT_VR_LITTLE_ENDIAN])]
        self._wire = Wire("127.0.0.1", archive.port, called=archive.called, contexts=contexts, timeout=120)
        self._stream = Stream(self._wire.socket, Taken())
        self._archive = archive

    def find(self, search: Search) -> tuple[float, int]:
        """Milliseconds to the final response, and the number of matches."""
        asked, matches = bytes(message(1, request(), identifier(search), self._wire.pdu_length)), 0
        gc.collect()
        began = time.perf_counter()
        self._wire.socket.sendall(asked)
        while (answer := self._stream.next_response()) is not None:
            status = int.from_bytes(answer[0x0900], "little")
            if status not in (0xFF00, 0xFF01):
                break
            matches += 1
        took = 1000 * (time.perf_counter() - began)
        if answer is None or status:
            raise SystemExit(f"{self._archive.name}: {search.name} ended with {parse(b'') if answer is None else f'{status:04X}'}")
        return took, matches

    def close(self) -> None:
        self._wire.close()


@dataclass(frozen=True)
class Sample:
    """One query at one archive."""

    archive: str
    search: str
    counts: bool
    studies: int
    milliseconds: float


def benchmark(studies: int, repetitions: int, keys: Sequence[str], folder: Path) -> list[Sample]:
    """Measure every search, the archives in turn within each repetition."""
    samples: list[Sample] = []
    with running(keys, folder) as started:
        held = {archive.name: min(studies, SMALL) if isinstance(archive, Dcmqrscp) else studies for archive in started}
        for archive in started:
            fill(archive, held[archive.name])
        await_settled(started)
        clients = [(archive, Client(archive)) for archive in started]
        for search in searches():
            for repetition in range(repetitions + 1):
                for archive, client in clients:
                    took, matches = client.find(search)
                    expected = search.matches(held[archive.name])
                    if matches != expected and not isinstance(archive, Dcmqrscp):
                        raise SystemExit(f"{archive.name}, {search.name}: {matches} matches of {expected}")
                    if repetition and matches == expected:
                        samples.append(Sample(archive.name, search.name, search.counts, held[archive.name], took))
        for _, client in clients:
            client.close()
    return samples


def summary(samples: Sequence[Sample]) -> list[list[str]]:
    """The table's rows; the ratios are those of each repetition's pair."""
    rows = []
    for what, counts in dict.fromkeys((sample.search, sample.counts) for sample in samples):
        of: dict[str, list[float]] = {}
        for sample in samples:
            if (sample.search, sample.counts) == (what, counts):
                of.setdefault(sample.archive, []).append(sample.milliseconds)
        node, orthanc = of.get("dicom-node", []), of.get("Orthanc", [])
        row = [f"{what}{', with modalities and counts' if counts else ''}"]
        row += [spread(of.get(each, []), "{:.1f}") for each in ("dicom-node", "Orthanc", "dcmqrscp")]
        rows.append([*row, spread([theirs / ours for ours, theirs in zip(node, orthanc)], "{:.1f}")])
    return rows


def main() -> None:
    """Measure, print the table and keep it in benchmarks/results."""
    taking = parser(__doc__, repetitions=21)
    taking.add_argument("--studies", type=int, default=5000)
    arguments = taking.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    samples = benchmark(arguments.studies, arguments.repetitions, arguments.archives, arguments.folder)
    held = f"{arguments.studies} studies" + (f"; dcmqrscp {min(arguments.studies, SMALL)}" if "dcmqrscp" in arguments.archives else "")
    head = [f"C-FIND at STUDY level, ms ({held})", "dicom-node", "Orthanc", "dcmqrscp", "Orthanc / dicom-node"]
    text = table(head, summary(samples))
    print(text)
    if arguments.save:
        save("query", {"samples": [asdict(sample) for sample in samples]}, text)


if __name__ == "__main__":
    main()
