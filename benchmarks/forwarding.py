"""What it costs to send on what came in: `python -m benchmarks.forwarding`.

`dicom-node serve` as `dicom-node init` configures it receives CT studies, which a rule holds; once they are complete and everything else is
done, they are released to one peer, or to three at once (DCMTK's storescp, which throws away what it gets): as they lie in memory, or after
the pages of their segments were dropped. Counted are the CPU time of the receiver and of the io worker, per instance and peer, and what the
io worker asked the system for and what came from the disk.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from benchmarks.instances import template
from benchmarks.load import Plan, run
from benchmarks.receivers import STORESCP, Node, _Program, await_idle, await_true, cpu_seconds, file_system, free_port, fresh, listening
from benchmarks.report import WORK, save, spread, table

LIMIT = 1.3  # CPU of sending an instance on, over that of receiving it
CELLS = ((1, False), (3, False), (3, True))  # peers, whether the pages are dropped
QUIET = '\n[[rule]]\nname = "all"\nhold = "until it is measured"\nforward = {names}\n'
PEER = '\n[[peer]]\nname = "{name}"\nae_title = "SINK"\nhost = "127.0.0.1"\nport = {port}\n'


class Sink(_Program):
    """DCMTK's storescp, throwing away what it gets."""

    name = "DCMTK storescp"

    def start(self, folder: Path) -> None:
        self.port = free_port()
        self._launch([STORESCP, "--ignore", str(self.port)], folder, TCP_NODELAY="1")
        await_true(lambda: listening(self.port), "storescp is listening")


@dataclass(frozen=True)
class Sample:
    """One repetition: CPU in milliseconds per instance, bytes over the bytes of the studies."""

    peers: int
    dropped: bool
    instances: int
    received_ms: float
    forwarded_ms: float
    asked: float
    from_disk: float

    @property
    def ratio(self) -> float:
        return self.forwarded_ms / self.received_ms


def forget_pages(files: Sequence[Path]) -> int:
    """Drop files from the page cache; their bytes."""
    size = 0
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            size += os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
    return size


def role(node: Node, argument: str) -> psutil.Process:
    """The process of the node that was started with this argument."""
    return next(each for each in node.process().children() if argument in each.cmdline())


def settings(text: str, sinks: Sequence[Sink]) -> str:
    """The default configuration with the sinks as peers and a quiet period of one second."""
    names = [f"sink{number}" for number in range(len(sinks))]
    peers = "".join(PEER.format(name=name, port=sink.port) for name, sink in zip(names, sinks, strict=True))
    return text.replace('quiet_period = "60s"', 'quiet_period = "1s"') + peers + QUIET.format(names=names)


def measure(peers: int, dropped: bool, studies: int, images: int, folder: Path) -> Sample:
    """Receive, release, and wait until every peer has everything."""
    with ExitStack() as stack:
        sinks = [Sink() for _ in range(peers)]
        for number, sink in enumerate(sinks):
            sink.start(fresh(folder / f"sink{number}"))
            stack.callback(sink.stop)
        node = Node(lambda text: settings(text, sinks))
        node.start(fresh(folder / "forwarding"))
        stack.callback(node.stop)
        process = node.process()
        await_idle(process)
        receiver, worker = role(node, "receiver"), role(node, "--io")
        before = cpu_seconds(receiver)
        outcome = run("127.0.0.1", node.port, Plan("ct", "studies", studies, images, node.called), 1)
        received = cpu_seconds(receiver) - before
        count = len(outcome.acknowledged)
        if count != studies * images or outcome.errors:
            raise SystemExit(f"{count} of {studies * images} acknowledged; {outcome.errors[:3]}")
        held = "SELECT count(*) FROM study WHERE state = 'COMPLETE' AND flag LIKE 'held%'"
        await_true(lambda: node.settled() and node.query(held) == [(studies,)], "everything is complete and held", 120)
        await_idle(process)
        if dropped:
            forget_pages([path for path in node.archive_root().rglob("*.tar") if "quarantine" not in path.parts])
        start, counters = cpu_seconds(worker), worker.io_counters()
        uids = dict.fromkeys(identity.study for identity in outcome.acknowledged)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda uid: node.command("rule", "release", uid, "--reason", "measured"), uids))
        done = "SELECT count(*) FROM delivery WHERE state = 'DELIVERED'"
        await_true(lambda: node.query(done) == [(studies * peers,)], "all is delivered", 300)
        forwarded, after = cpu_seconds(worker) - start, worker.io_counters()
        accepted = node.query("SELECT count(*) FROM delivery_instance WHERE state = 'ACCEPTED'")
        if accepted != [(count * peers,)]:
            raise SystemExit(f"{accepted} of {count * peers} instances accepted")
        size = count * len(template("ct").data)
        return Sample(
            peers,
            dropped,
            count,
            1000 * received / count,
            1000 * forwarded / (count * peers),
            (after.read_chars - counters.read_chars) / size,
            (after.read_bytes - counters.read_bytes) / size,
        )


def rows_of(samples: Sequence[Sample]) -> list[list[str]]:
    """The table's rows, one for each cell."""
    rows = []
    for peers, dropped in CELLS:
        of = [sample for sample in samples if (sample.peers, sample.dropped) == (peers, dropped)]
        values = [[each.received_ms for each in of], [each.forwarded_ms for each in of], [each.ratio for each in of]]
        read = [[each.asked for each in of], [each.from_disk for each in of]]
        name = f"{peers} peer{'s' if peers > 1 else ''}, {'pages dropped before' if dropped else 'just received'}"
        rows.append([name, *(spread(each, "{:.2f}") for each in (*values, *read))])
    return rows


def main() -> None:
    """Measure, print the table and keep it in benchmarks/results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--studies", type=int, default=5)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--folder", type=Path, default=WORK, help="where the node keeps its bytes: a real disk")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if (kind := file_system(arguments.folder)) in ("tmpfs", "ramfs"):
        parser.error(f"{arguments.folder} is on {kind}: nothing is read from a disk there")
    samples = []
    for _ in range(arguments.repetitions):
        for peers, dropped in CELLS:
            samples.append(measure(peers, dropped, arguments.studies, arguments.images, arguments.folder.resolve()))
            print(asdict(samples[-1]), f"{samples[-1].ratio:.2f}", flush=True)
    head = [
        "CT studies to",
        "CPU ms to receive an instance",
        "CPU ms to send it to a peer",
        f"ratio (limit {LIMIT})",
        "read, of their bytes",
        "from the disk",
    ]
    text = table(head, rows_of(samples))
    print(text)
    if arguments.save:
        save("forwarding", {"file_system": kind, "samples": [asdict(sample) for sample in samples]}, text)


if __name__ == "__main__":
    main()
