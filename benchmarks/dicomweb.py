"""DICOMweb against Orthanc's: search, metadata and a whole study, the same data and the same raw client, in turn in one run.

A study of 52.7 MB costs a client as much as a server, which makes servers look alike: it is measured with a client that reads every byte
into a small buffer, and once more with one that has the kernel count and drop them (MSG_TRUNC), which leaves the server's time.
"""

from __future__ import annotations

import argparse
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from benchmarks.instances import Identity
from benchmarks.load import Plan, run
from benchmarks.receivers import Node, Orthanc, await_true, cpu_seconds, fresh
from benchmarks.report import WORK, save, spread, table

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
INSTANCES = 'multipart/related; type="application/dicom"'
JSON = "application/dicom+json"
STUDIES, SLICES = 500, 100


class OrthancWeb(Orthanc):
    """Orthanc with its DICOMweb plugin."""

    settings = {"Plugins": [str(PLUGIN)], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"}}


class Client:
    """HTTP over one kept connection; bodies go into one buffer and are not looked at."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = memoryview(bytearray(256 << 10))

    def get(self, path: str, accept: str, sink: Callable[[memoryview], object] | None = None, *, drop: bool = False) -> int:
        """Return the bytes of the body (with its chunks' lengths, where it comes in chunks); `sink` is given them.

        With `drop` they are not copied out of the kernel; the body may not come in chunks.
        """
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += self._more()
        head, _, body = head.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode("latin-1"))
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if sink:
            sink(memoryview(body))
        length = int(fields[b"content-length"]) if b"content-length" in fields else None
        done, tail = len(body), body[-7:]
        if drop:
            return self._drop(done, length)
        while (done < length) if length is not None else (tail != b"\r\n0\r\n\r\n" and body != b"0\r\n\r\n"):
            count = self._socket.recv_into(self._buffer)
            if not count and length is None and b"transfer-encoding" not in fields:
                return done  # a body that ends with its connection
            if not count:
                raise RuntimeError(f"the connection ended within a body: {path}")
            if sink:
                sink(self._buffer[:count])
            done += count
            tail = (tail + bytes(self._buffer[max(count - 7, 0) : count]))[-7:]
        return done

    def _drop(self, done: int, length: int | None) -> int:
        """Count to `length`, or to the connection's end."""
        while done != length:
            count = self._socket.recv_into(self._buffer, 0, socket.MSG_TRUNC)
            if not count and length is not None:
                raise RuntimeError("the connection ended within a body")
            if not count:
                break
            done += count
        return done

    def _more(self) -> bytes:
        data = self._socket.recv(65536)
        if not data:
            raise RuntimeError("the connection ended before an answer")
        return data

    def close(self) -> None:
        self._socket.close()


@dataclass(frozen=True)
class Sample:
    what: str
    server: str
    milliseconds: float
    cpu_ms: float  # of the server, in steps of the kernel's clock: only sums of many tell something
    size: int


def filled(server: Node | Orthanc) -> Identity:
    """Give a server a study of 100 CT slices and 500 small studies; return an instance of the large one."""
    large = run("127.0.0.1", server.port, Plan("ct", studies=1, per_study=SLICES, called=server.called))
    small = run("127.0.0.1", server.port, Plan("small", studies=STUDIES - 1, per_study=1, called=server.called))
    if len(large.acknowledged) != SLICES or len(small.acknowledged) != STUDIES - 1:
        raise SystemExit(f"{server.name}: not everything was taken: {large.errors + small.errors}")
    await_true(server.settled, "everything is indexed", 300)
    if isinstance(server, Node):
        await_true(lambda: not busy(server), "all studies are complete and routed", 300)
    return large.acknowledged[0]


DROPPED = "WADO-RS study, as stored, to a client that drops it"


def soon_complete(text: str) -> str:
    """Let studies be complete soon, so that the work that this makes is not done while requests are measured."""
    return text.replace('quiet_period = "60s"', 'quiet_period = "2s"')


def busy(node: Node) -> int:
    """Return how many studies and jobs wait for something."""
    live = "SELECT count(*) FROM job WHERE state IN ('SCHEDULED', 'IN_PROGRESS')"
    rows = node.query(f"SELECT (SELECT count(*) FROM study WHERE state = 'RECEIVING') + ({live})")
    return int(str(rows[0][0]))


def requests_of(instance: Identity) -> dict[str, tuple[str, str]]:
    """What is measured: name > path and Accept."""
    study = f"/dicom-web/studies/{instance.study}"
    return {
        "QIDO by Study Instance UID": (f"/dicom-web/studies?StudyInstanceUID={instance.study}", JSON),
        f"QIDO {STUDIES} studies": (f"/dicom-web/studies?limit={STUDIES}", JSON),
        f"QIDO instances of a study ({SLICES})": (f"{study}/instances", JSON),
        f"WADO-RS metadata of a study ({SLICES})": (f"{study}/metadata", JSON),
        f"WADO-RS study of {SLICES} CT (52.7 MB), as stored": (study, f"{INSTANCES}; transfer-syntax=*"),
        DROPPED: (study, f"{INSTANCES}; transfer-syntax=*"),
        f"WADO-RS study of {SLICES} CT, no transfer syntax named": (study, INSTANCES),
    }


def benchmark(repetitions: int, folder: Path) -> list[Sample]:
    """Measure every request on both servers in turn."""
    servers: list[Node | Orthanc] = [Node(soon_complete)]
    if PLUGIN.exists():
        servers.append(OrthancWeb())
    samples: list[Sample] = []
    try:
        for server in servers:
            server.start(fresh(folder / server.name))
        asked = {server.name: requests_of(filled(server)) for server in servers}
        for name in next(iter(asked.values())):
            for server in servers:
                Client(server.http).get(*asked[server.name][name])  # warm
            for _ in range(repetitions):
                for server in servers:
                    samples.append(measured(server, name, *asked[server.name][name]))
    finally:
        for server in servers:
            server.stop()
            fresh(folder / server.name).rmdir()
    return samples


def measured(server: Node | Orthanc, name: str, path: str, accept: str) -> Sample:
    """One request on a connection that is open."""
    client, process = Client(server.http), server.process()
    try:
        before, begun = cpu_seconds(process), time.perf_counter()
        size = client.get(path, accept, drop=name == DROPPED)
        took = 1000 * (time.perf_counter() - begun)
        return Sample(name, server.name, took, 1000 * (cpu_seconds(process) - before), size)
    finally:
        client.close()


HEAD = ["milliseconds, median", "dicom-node", "Orthanc", "Orthanc / dicom-node", "CPU ms each", "Orthanc's CPU ms"]


def summary(samples: list[Sample]) -> list[list[str]]:
    """Return the table's rows."""
    rows = []
    for name in dict.fromkeys(sample.what for sample in samples):
        ours, theirs = ([s.milliseconds for s in samples if s.what == name and s.server == server] for server in ("dicom-node", "Orthanc"))
        ratio = f"{median(theirs) / median(ours):.1f}" if theirs else "-"
        cpu = [[s.cpu_ms for s in samples if s.what == name and s.server == server] for server in ("dicom-node", "Orthanc")]
        cells = [f"{sum(each) / len(each):.1f}" if each else "-" for each in cpu]
        rows.append([name, spread(ours, "{:.1f}"), spread(theirs, "{:.1f}"), ratio, *cells])
    return rows


def main() -> None:
    """Measure, print the table and keep it in benchmarks/results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--folder", type=Path, default=WORK, help="where the servers keep their bytes: a real disk")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    samples = benchmark(arguments.repetitions, arguments.folder.resolve())
    text = table(HEAD, summary(samples))
    print(text)
    if arguments.save:
        save("dicomweb", {"samples": [asdict(sample) for sample in samples]}, text)


if __name__ == "__main__":
    main()
