"""Workitems over HTTP (UPS-RS): created, claimed, given what was performed, and completed, by several performers at once."""

from __future__ import annotations

import argparse
import http.client
import json
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.receivers import Node, await_true, fresh
from benchmarks.report import WORK, save, spread, table
from storage import workitem_values as values
from storage.workitem_values import Json, code, element

WANTED = 100  # workitems a second
HEADERS = {"Content-Type": "application/dicom+json"}
STEPS = ("create", "claim", "update", "complete")
CREATED: Json = {
    values.STATE: element("CS", "SCHEDULED"),
    values.PRIORITY: element("CS", "MEDIUM"),
    values.LABEL: element("LO", "segment"),
    values.READINESS: element("CS", "READY"),
    values.START: element("DT", "20240101120000"),
    values.WORKLIST: element("LO", "heads"),
}
PERFORMED: Json = {
    values.PERFORMED_STATION: element("SQ", code("S", "99LOAD", "station")),
    values.PERFORMED_AT: element("DT", "20240101"),
    values.PERFORMED_UNTIL: element("DT", "20240101"),
    values.PERFORMED_CODES: element("SQ", code("W", "99LOAD", "work")),
    values.OUTPUT: element("SQ"),
}


@dataclass(frozen=True)
class Sample:
    """One repetition. ``milliseconds``: of a request of each kind, the mean."""

    performers: int
    workitems: int
    per_second: float
    milliseconds: dict[str, float]


def perform(port: int, count: int) -> dict[str, float]:
    """Carry ``count`` workitems through their life on one connection; the seconds that each kind of request took."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    taken = dict.fromkeys(STEPS, 0.0)

    def ask(step: str, method: str, path: str, body: Any, expected: int) -> None:
        began = time.perf_counter()
        connection.request(method, f"/dicom-web/workitems{path}", json.dumps(body), HEADERS)
        answer = connection.getresponse()
        said = answer.read()
        taken[step] += time.perf_counter() - began
        if answer.status != expected:
            raise SystemExit(f"{step}: {answer.status} {said[:300]!r}")

    for _ in range(count):
        uid, lock = values.new_uid(), f"2.25.{uuid.uuid4().int}"

        def state(word: str, lock: str = lock) -> Json:
            return {values.STATE: element("CS", word), values.TRANSACTION: element("UI", lock)}

        ask("create", "POST", f"?{uid}", [CREATED], 201)
        ask("claim", "PUT", f"/{uid}/state", state("IN PROGRESS"), 200)
        ask("update", "POST", f"/{uid}?transaction={lock}", [{values.PERFORMED: element("SQ", PERFORMED)}], 200)
        ask("complete", "PUT", f"/{uid}/state", state("COMPLETED"), 200)
    connection.close()
    return taken


def measure(performers: int, count: int, folder: Path) -> Sample:
    """One repetition on a node of its own."""
    node = Node()
    node.start(fresh(folder / "workitems"))
    try:
        await_true(lambda: answers(node.http), "the node does not answer over HTTP")
        each = count // performers
        began = time.perf_counter()
        with ThreadPoolExecutor(performers) as pool:
            taken = list(pool.map(lambda _: perform(node.http, each), range(performers)))
        seconds = time.perf_counter() - began
        done = node.query("SELECT count(*) FROM workitem WHERE state = 'COMPLETED'")
        if done != [(each * performers,)]:
            raise SystemExit(f"{done} of {each * performers} workitems are COMPLETED")
    finally:
        node.stop()
    means = {step: 1000 * sum(one[step] for one in taken) / (each * performers) for step in STEPS}
    return Sample(performers, each * performers, each * performers / seconds, means)


def answers(port: int) -> bool:
    """Whether the web role answers yet."""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False


def rows_of(samples: Sequence[Sample]) -> list[list[str]]:
    """The table's row."""
    times = [spread([each.milliseconds[step] for each in samples], "{:.1f}") for step in STEPS]
    return [[str(samples[0].performers), spread([each.per_second for each in samples]), *times]]


def main() -> None:
    """Measure, print the table and keep it in benchmarks/results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--performers", type=int, default=4)
    parser.add_argument("--workitems", type=int, default=600)
    parser.add_argument("--folder", type=Path, default=WORK, help="where the node keeps its index: a real disk")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for _ in range(arguments.repetitions):
        samples.append(measure(arguments.performers, arguments.workitems, arguments.folder.resolve()))
        print(asdict(samples[-1]), flush=True)
    head = ["performers", f"workitems/s (wanted: {WANTED})", *(f"ms to {step}" for step in STEPS)]
    text = table(head, rows_of(samples))
    print(text)
    if arguments.save:
        save("workitems", {"samples": [asdict(sample) for sample in samples]}, text)


if __name__ == "__main__":
    main()
