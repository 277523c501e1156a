"""Ingest: instances per second with durable acknowledgement, this node beside Orthanc and storescp in the same run."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from benchmarks.instances import Identity
from benchmarks.load import Plan, run
from benchmarks.receivers import available, await_idle, await_true, cpu_seconds, file_system, fresh
from benchmarks.report import WORK, save, spread, table

# (cell, kind, shape, associations, studies of an association, instances of a study)
CELLS = {
    "CT, 1 association": ("ct", "studies", 1, 5, 100),
    "CT, 4 associations": ("ct", "studies", 4, 3, 100),
    "10 kB, 1 association": ("small", "studies", 1, 15, 100),
    "10 kB, 4 associations": ("small", "studies", 4, 12, 100),
    "CT, one association per instance": ("ct", "association-each", 1, 2, 100),
    "CT, 50 studies interleaved": ("ct", "interleaved", 1, 50, 10),
}


@dataclass(frozen=True)
class Sample:
    """One receiver, one cell, one repetition."""

    receiver: str
    cell: str
    repetition: int
    acknowledged: int
    per_second: float
    cpu_ms: float  # server CPU per instance until the last answer
    settled_s: float  # from the last answer until nothing is left to do
    settled_cpu_ms: float  # server CPU per instance of that
    sender_cpu_ms: float
    slowest_ms: float
    segments: int


MAX_SEGMENTS = 4  # of a study, and one more for each concurrent association


def segments_of(receiver: object, associations: int) -> int:
    """Return how many segments the node made, 0 for a peer; refuse a measurement that made too many of them."""
    query = getattr(receiver, "query", None)
    if query is None:
        return 0
    each = {str(study): int(str(count)) for study, count in query("SELECT study_uid, count(*) FROM segment GROUP BY study_uid")}
    check_segments(each, associations)
    return sum(each.values())


def check_segments(each: Mapping[str, int], associations: int) -> None:
    """Refuse a measurement in which studies were scattered over more files than they need."""
    most = max(each.values())
    if most > MAX_SEGMENTS + associations or sum(each.values()) > MAX_SEGMENTS * len(each) + associations:
        raise SystemExit(f"{sum(each.values())} segments for {len(each)} studies at {associations} associations, up to {most} of one study")


def measure(key: str, cell: str, repetition: int, shrink: int, folder: Path) -> Sample:
    """Start one receiver, send one cell's load, read everything back."""
    kind, shape, associations, studies, per_study = CELLS[cell]
    if shape == "interleaved":
        per_study = max(1, per_study // shrink)
    else:
        studies, per_study = max(1, studies // shrink), per_study if studies >= shrink else max(10, per_study * studies // shrink)
    receiver = available()[key]()
    receiver.start(fresh(folder / key))
    try:
        process = receiver.process()
        await_idle(process)
        warm = run("127.0.0.1", receiver.port, Plan(kind, studies=1, per_study=20, called=receiver.called), associations)
        await_true(receiver.settled, "the warm-up is settled")
        before, plan = cpu_seconds(process), Plan(kind, shape, studies, per_study, receiver.called)
        outcome = run("127.0.0.1", receiver.port, plan, associations)
        ended, after = time.monotonic(), cpu_seconds(process)
        await_true(receiver.settled, "the backlog is empty", 120)
        settled, later = time.monotonic() - ended, cpu_seconds(process)
        check(key, cell, associations * studies * per_study, outcome.acknowledged, outcome.errors + [str(one) for one in outcome.refused])
        problems = receiver.wrong(outcome.acknowledged + warm.acknowledged)
        if problems:
            raise SystemExit(f"{key}, {cell}: {len(problems)} acknowledged instances are not there as sent: {problems[:3]}")
        count = len(outcome.acknowledged)
        return Sample(
            receiver.name,
            cell,
            repetition,
            count,
            outcome.rate,
            1000 * (after - before) / count,
            settled,
            1000 * (later - after) / count,
            outcome.sender_cpu_ms,
            1000 * max(report.slowest for report in outcome.reports),
            segments_of(receiver, associations),
        )
    finally:
        receiver.stop()
        fresh(folder / key).rmdir()


def check(key: str, cell: str, sent: int, acknowledged: list[Identity], problems: list[str]) -> None:
    """Refuse a measurement in which something was not acknowledged."""
    if len(acknowledged) != sent or problems:
        raise SystemExit(f"{key}, {cell}: {len(acknowledged)} of {sent} acknowledged; {problems[:3]}")


def summary(samples: list[Sample]) -> list[list[str]]:
    """Return the table's rows: a row a cell, a column a receiver, and the ratio of each repetition's pair."""
    rows = []
    for cell in dict.fromkeys(sample.cell for sample in samples):
        of: dict[str, list[Sample]] = {}
        for sample in samples:
            if sample.cell == cell:
                of.setdefault(sample.receiver, []).append(sample)
        node = of.get("dicom-node", [])
        row = [cell, spread([sample.per_second for sample in node])]
        for peer in ("Orthanc", "DCMTK storescp"):
            row.append(spread([sample.per_second for sample in of.get(peer, [])]))
        for peer in ("Orthanc", "DCMTK storescp"):
            pairs = zip(node, of.get(peer, []))
            ratios = [ours.per_second / theirs.per_second for ours, theirs in pairs]
            row.append(spread(ratios, "{:.2f}"))
        for receiver in ("dicom-node", "Orthanc"):
            times = [sample.cpu_ms for sample in of.get(receiver, [])]
            row.append(f"{median(times):.2f}" if times else "-")
        row.append(f"{median([s.settled_s for s in node]):.1f} s, {median([s.settled_cpu_ms for s in node]):.2f} ms" if node else "-")
        rows.append(row)
    return rows


HEAD = [
    "instances per second",
    "dicom-node",
    "Orthanc",
    "storescp",
    "/ Orthanc",
    "/ storescp",
    "CPU ms each",
    "Orthanc's CPU ms",
    "header JSON after: time, CPU each",
]


def benchmark(repetitions: int, shrink: int, cells: list[str], receivers: list[str], folder: Path) -> list[Sample]:
    """Measure every cell, the receivers in turn within each repetition."""
    samples: list[Sample] = []
    for cell in cells:
        for repetition in range(repetitions):
            for key in receivers:
                sample = measure(key, cell, repetition, shrink, folder)
                samples.append(sample)
                print(f"{cell:34} {sample.receiver:15} {sample.per_second:8.0f}/s {sample.cpu_ms:6.2f} ms", flush=True)
    return samples


def main() -> None:
    """Measure, print the table and keep it in benchmarks/results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--shrink", type=int, default=1, help="divide the load by this: a small run for CI")
    parser.add_argument("--cell", action="append", choices=list(CELLS))
    parser.add_argument("--receivers", nargs="+", default=[key for key in ("node", "orthanc", "storescp") if key in available()])
    parser.add_argument("--folder", type=Path, default=WORK, help="where the receivers keep their bytes: a real disk")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    kind = file_system(arguments.folder)
    if kind in ("tmpfs", "ramfs"):
        parser.error(f"{arguments.folder} is on {kind}: a durable acknowledgement means nothing there; name a folder on a disk")
    folder = arguments.folder.resolve()
    samples = benchmark(arguments.repetitions, arguments.shrink, arguments.cell or list(CELLS), arguments.receivers, folder)
    text = table(HEAD, summary(samples))
    print(text)
    if arguments.save:
        save("ingest", {"file_system": kind, "samples": [asdict(sample) for sample in samples]}, text)
    else:
        print(json.dumps({"file_system": kind}))


if __name__ == "__main__":
    main()
