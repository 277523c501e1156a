"""STOW-RS beside C-STORE: the same instances, one client, 100 a request, this node and Orthanc with its DICOMweb plugin in turn."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.instances import CT_IMAGE_STORAGE, Identity, new_uid, part10, template
from benchmarks.load import Plan, run
from benchmarks.receivers import Node, Orthanc, await_true, cpu_seconds, fresh
from benchmarks.report import WORK, save, spread, table

PLUGIN = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
PER_REQUEST = 100
BOUNDARY = "stow-benchmark-boundary-0123456789"
CONTENT_TYPE = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
KINDS = {"CT": ("ct", 5), "10 kB": ("small", 15)}  # kind, studies


class OrthancWeb(Orthanc):
    """Orthanc with its DICOMweb plugin."""

    settings = {"Plugins": [PLUGIN], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"}}


class Request:
    """The bytes of one request with room for other UIDs."""

    def __init__(self, kind: str, instances: int) -> None:
        source, marker = template(kind), "2.25." + "9" * 39
        file = part10(source.data, CT_IMAGE_STORAGE, marker)
        head = f"\r\n--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        part = head + file
        self._source, self._step, self._data = source, len(part), len(part) - len(source.data)
        self._meta = part.index(marker.encode())
        self.body = bytearray(part * instances + f"\r\n--{BOUNDARY}--\r\n".encode())

    def address(self, identities: list[Identity]) -> bytearray:
        """Write these UIDs into the body."""
        for number, identity in enumerate(identities):
            base, raw = number * self._step, identity.sop.encode()
            self.body[base + self._meta : base + self._meta + len(raw)] = raw
            self._source.patch(self.body, base + self._data, identity)
        return self.body


def identities(kind: str, studies: int, seed: int) -> list[list[Identity]]:
    """Return the identities of each request."""
    source = random.Random(seed)
    made = []
    for _ in range(studies):
        study, series = new_uid(source), new_uid(source)
        made.append([Identity(kind, study, series, new_uid(source), number + 1) for number in range(PER_REQUEST)])
    return made


def post(connection: socket.socket, body: bytearray) -> dict[str, Any]:
    """Send one request and return the DICOM JSON of its answer."""
    head = (
        f"POST /dicom-web/studies HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/dicom+json\r\n"
        f"Content-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode())
    connection.sendall(body)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += _more(connection)
    head_bytes, _, content = answer.partition(b"\r\n\r\n")
    if not head_bytes.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(answer[:500].decode("latin-1"))
    fields = dict(line.lower().split(b": ", 1) for line in head_bytes.split(b"\r\n")[1:])
    while len(content) < int(fields[b"content-length"]):
        content += _more(connection)
    found: dict[str, Any] = json.loads(content)
    return found


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 20)
    if not data:
        raise RuntimeError("the connection ended before the answer")
    return data


def send(port: int, kind: str, studies: int, seed: int, out: Any) -> None:
    """Send all requests over one connection; put (seconds, answered instances) into `out`."""
    request = Request(kind, PER_REQUEST)
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began, stored = time.monotonic(), 0
        for one in identities(kind, studies, seed):
            stored += len(post(connection, request.address(one))["00081199"]["Value"])
        out.send((time.monotonic() - began, stored))
    out.close()


@dataclass(frozen=True)
class Sample:
    """One receiver, one way in, one kind, one repetition."""

    receiver: str
    way: str
    kind: str
    repetition: int
    per_second: float
    cpu_ms: float


def stow(receiver: Node | Orthanc, kind: str, studies: int, seed: int) -> tuple[float, list[Identity]]:
    """Run the client in a process of its own and return instances per second and what was sent."""
    context = multiprocessing.get_context("forkserver")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=send, args=(receiver.http, kind, studies, seed, theirs))
    process.start()
    theirs.close()
    seconds, stored = mine.recv()
    process.join()
    sent = [identity for one in identities(kind, studies, seed) for identity in one]
    if stored != len(sent):
        raise SystemExit(f"{receiver.name}: {stored} of {len(sent)} stored")
    return len(sent) / seconds, sent


def measure(receiver: Node | Orthanc, name: str, repetition: int, shrink: int, folder: Path) -> list[Sample]:
    """Start one receiver, store by STOW and by C-STORE in turn, read everything back."""
    kind, studies = KINDS[name]
    studies = max(1, studies // shrink)
    receiver.start(fresh(folder / f"stow-{receiver.name.lower()}"))
    samples = []
    try:
        await_true(receiver.settled, "nothing is left to do", 60)
        stow(receiver, kind, 1, 1)
        run("127.0.0.1", receiver.port, Plan(kind, "studies", 1, PER_REQUEST, receiver.called))
        for way in ("STOW-RS", "C-STORE") if repetition % 2 else ("C-STORE", "STOW-RS"):
            await_true(receiver.settled, "the backlog is empty", 120)
            before = cpu_seconds(receiver.process())
            if way == "STOW-RS":
                rate, sent = stow(receiver, kind, studies, 100 + repetition)
            else:
                outcome = run("127.0.0.1", receiver.port, Plan(kind, "studies", studies, PER_REQUEST, receiver.called))
                rate, sent = outcome.rate, outcome.acknowledged
            cpu = 1000 * (cpu_seconds(receiver.process()) - before) / len(sent)
            problems = receiver.wrong(sent)
            if problems:
                raise SystemExit(f"{receiver.name}: {len(problems)} instances are not there as sent: {problems[:3]}")
            samples.append(Sample(receiver.name, way, name, repetition, rate, cpu))
            print(f"{name:8} {receiver.name:12} {way:8} {rate:8.0f}/s {cpu:6.2f} ms", flush=True)
    finally:
        receiver.stop()
    return samples


HEAD = ["instances per second", "STOW-RS", "C-STORE", "STOW / C-STORE", "Orthanc's STOW-RS", "/ Orthanc", "CPU ms each", "Orthanc's CPU ms"]


def summary(samples: list[Sample]) -> list[list[str]]:
    """Return the table's rows."""
    rows = []
    for kind in dict.fromkeys(sample.kind for sample in samples):

        def of(receiver: str, way: str, kind: str = kind) -> list[Sample]:
            return [s for s in samples if (s.receiver, s.way, s.kind) == (receiver, way, kind)]

        ours, store, theirs = of("dicom-node", "STOW-RS"), of("dicom-node", "C-STORE"), of("Orthanc", "STOW-RS")
        rows.append(
            [
                f"{kind}, 1 client, {PER_REQUEST} a request",
                spread([s.per_second for s in ours]),
                spread([s.per_second for s in store]),
                spread([a.per_second / b.per_second for a, b in zip(ours, store)], "{:.2f}"),
                spread([s.per_second for s in theirs]),
                spread([a.per_second / b.per_second for a, b in zip(ours, theirs)], "{:.2f}"),
                f"{median(s.cpu_ms for s in ours):.2f}" if ours else "-",
                f"{median(s.cpu_ms for s in theirs):.2f}" if theirs else "-",
            ]
        )
    return rows


def main() -> None:
    """Measure, print the table and keep it in benchmarks/results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--shrink", type=int, default=1, help="divide the load by this")
    parser.add_argument("--kind", action="append", choices=list(KINDS))
    peers = ["orthanc"] if Path(PLUGIN).exists() else []
    parser.add_argument("--receivers", nargs="+", choices=("node", "orthanc"), default=["node", *peers])
    parser.add_argument("--folder", type=Path, default=WORK, help="where the receivers keep their bytes: a real disk")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    samples: list[Sample] = []
    for kind in arguments.kind or KINDS:
        for repetition in range(arguments.repetitions):
            for key in arguments.receivers:
                receiver = Node() if key == "node" else OrthancWeb()
                samples += measure(receiver, kind, repetition, arguments.shrink, arguments.folder.resolve())
    text = table(HEAD, summary(samples))
    print(text)
    if arguments.save:
        save("stow", {"samples": [asdict(sample) for sample in samples]}, text)


if __name__ == "__main__":
    main()
