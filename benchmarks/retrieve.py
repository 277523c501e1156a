"""Retrieve: milliseconds for C-GET and C-MOVE of a CT study of 100 slices, this node beside Orthanc and dcmqrscp in the same run."""

from __future__ import annotations

import gc
import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.archives import LONGEST_PDU, TITLE, await_settled, parser, running
from benchmarks.instances import Identity, template
from benchmarks.load import Plan, run
from benchmarks.receivers import _Program, cpu_seconds
from benchmarks.report import save, spread, table
from benchmarks.retrieve_client import Destination, Taken, retrieve

SERVICES = ("C-GET", "C-MOVE")
PDUS = (LONGEST_PDU, 16_384)  # and what most clients announce


@dataclass(frozen=True)
class Sample:
    """One retrieve of one study."""

    archive: str
    service: str
    max_pdu: int
    repetition: int
    milliseconds: float
    cpu_ms: float  # of the archive


def fill(archive: _Program, studies: int, slices: int) -> list[list[Identity]]:
    """Store the studies; what was stored, a list a study."""
    outcome = run("127.0.0.1", archive.port, Plan("ct", studies=studies, per_study=slices, called=archive.called), 1)
    if len(outcome.acknowledged) != studies * slices:
        raise SystemExit(f"{archive.name} took {len(outcome.acknowledged)} of {studies * slices} instances: {outcome.errors}")
    by_study: dict[str, list[Identity]] = {}
    for identity in outcome.acknowledged:
        by_study.setdefault(identity.study, []).append(identity)
    return list(by_study.values())


def once(archive: _Program, service: str, max_pdu: int, study: list[Identity], destination: Destination, *, verify: bool = False) -> float:
    """Retrieve a study; milliseconds from the connection to the final response. Refuses what is not complete."""
    taken = Taken()
    destination.taken, destination.max_pdu, destination.verify = taken, max_pdu, verify
    target = None if service == "C-GET" else TITLE
    gc.collect()
    began = time.perf_counter()
    response = retrieve(archive.port, archive.called, study[0].study, max_pdu=max_pdu, destination=target, taken=taken, verify=verify)
    took = 1000 * (time.perf_counter() - began)
    status = int.from_bytes(response[0x0900], "little")
    if status or taken.instances != len(study):
        raise SystemExit(f"{archive.name}, {service}: status {status:04X}, {taken.instances} of {len(study)} instances")
    if verify and archive.name != "Orthanc":  # Orthanc rewrites what it sends
        sent = {each.sop: hashlib.md5(template(each.kind).instance(each)).hexdigest() for each in study}
        if archive.name == "dicom-node" and taken.digests != sent:
            raise SystemExit(f"{archive.name}, {service}: not what was stored")
    return took


def benchmark(repetitions: int, slices: int, keys: list[str], folder: Path) -> list[Sample]:
    """Measure every service and PDU length, the archives in turn within each repetition."""
    samples: list[Sample] = []
    destination = Destination(TITLE, PDUS[0])
    with running(keys, folder, destination.port) as started:
        studies = {archive.name: fill(archive, repetitions + 1, slices) for archive in started}
        await_settled(started)
        for service in SERVICES:
            for max_pdu in PDUS:
                for archive in started:
                    once(archive, service, max_pdu, studies[archive.name][0], destination, verify=True)
                for repetition in range(repetitions):
                    for archive in started:
                        before = cpu_seconds(archive.process())
                        took = once(archive, service, max_pdu, studies[archive.name][repetition + 1], destination)
                        cpu = 1000 * (cpu_seconds(archive.process()) - before)
                        samples.append(Sample(archive.name, service, max_pdu, repetition, took, cpu))
                        print(f"{service:7} {max_pdu:7} {archive.name:12} {took:7.1f} ms", flush=True)
    destination.close()
    return samples


HEAD = ["ms a study", "dicom-node", "Orthanc", "dcmqrscp", "Orthanc / dicom-node", "dcmqrscp / dicom-node"]


def summary(samples: list[Sample], slices: int) -> list[list[str]]:
    """Return the table's rows; the ratios are those of each repetition's pair."""
    rows = []
    for service, max_pdu in dict.fromkeys((sample.service, sample.max_pdu) for sample in samples):
        of: dict[str, list[float]] = {}
        for sample in samples:
            if (sample.service, sample.max_pdu) == (service, max_pdu):
                of.setdefault(sample.archive, []).append(sample.milliseconds)
        node = of.get("dicom-node", [])
        row = [f"{service} of {slices} CT, PDUs of {max_pdu >> 10} KiB"]
        row += [spread(of.get(name, []), "{:.1f}") for name in ("dicom-node", "Orthanc", "dcmqrscp")]
        for name in ("Orthanc", "dcmqrscp"):
            row.append(spread([theirs / ours for ours, theirs in zip(node, of.get(name, []))], "{:.2f}"))
        rows.append(row)
    return rows


def main() -> None:
    """Measure, print the table and keep it in benchmarks/results."""
    taking = parser(__doc__, repetitions=9)
    taking.add_argument("--slices", type=int, default=100)
    arguments = taking.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    samples = benchmark(arguments.repetitions, arguments.slices, arguments.archives, arguments.folder)
    text = table(HEAD, summary(samples, arguments.slices))
    print(text)
    result = {"slices": arguments.slices, "samples": [asdict(sample) for sample in samples]}
    if arguments.save:
        save("retrieve", result, text)
    else:
        print(json.dumps({"samples": len(samples)}))


if __name__ == "__main__":
    main()
