"""dcmsend and storescu as they come (Nagle on): how fast a sender that waits for ACKs gets its images into the node."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.instances import CT_IMAGE_STORAGE, Identity, new_uid, part10, template
from benchmarks.receivers import available, fresh
from benchmarks.report import WORK, save, spread, table

SENDERS = {
    "dcmsend": lambda called, port, folder: ["/usr/bin/dcmsend", "-nh", "-aec", called, "-aet", "LOAD", "127.0.0.1", port, "+sd", folder],
    "storescu": lambda called, port, folder: ["/usr/bin/storescu", "-aec", called, "-aet", "LOAD", "127.0.0.1", port, "+sd", folder],
}


@dataclass(frozen=True)
class Sample:
    """One sender, one kind, one repetition."""

    receiver: str
    sender: str
    kind: str
    per_second: float


def files(folder: Path, kind: str, count: int) -> list[Identity]:
    """Write `count` instances of new studies into `folder`."""
    source, made = random.Random(), []
    study, series = new_uid(source), new_uid(source)
    for number in range(count):
        if number % 100 == 0:
            study, series = new_uid(source), new_uid(source)
        one = Identity(kind, study, series, new_uid(source), number + 1)
        (folder / f"{number:05d}.dcm").write_bytes(part10(template(kind).instance(one), CT_IMAGE_STORAGE, one.sop))
        made.append(one)
    return made


def started_and_ended(command: list[str]) -> float:
    """Run a sender with Nagle's algorithm on and return its seconds."""
    environment = {key: value for key, value in os.environ.items() if key != "TCP_NODELAY"}
    began = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise SystemExit(f"{command[0]}: {done.returncode} {done.stderr[-500:]}")
    return time.monotonic() - began


def measure(key: str, sender: str, kind: str, count: int, folder: Path) -> Sample:
    """Send once; a first pass with one file tells what starting and scanning costs, and is taken off."""
    place = fresh(folder / "files")
    receiver = available()[key]()
    receiver.start(fresh(folder / key))
    try:
        files(place, kind, 1)
        empty = started_and_ended(SENDERS[sender](receiver.called, str(receiver.port), str(place)))
        sent = files(fresh(place), kind, count)
        seconds = started_and_ended(SENDERS[sender](receiver.called, str(receiver.port), str(place)))
        problems = receiver.wrong(sent)
        if problems:
            raise SystemExit(f"{sender} to {key}: {problems[:3]}")
        return Sample(receiver.name, sender, kind, (count - 1) / (seconds - empty))
    finally:
        receiver.stop()
        shutil.rmtree(place)
        shutil.rmtree(folder / key)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--receivers", nargs="+", default=[key for key in ("node", "orthanc") if key in available()])
    parser.add_argument("--folder", type=Path, default=WORK)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    samples = []
    for sender in SENDERS:
        for kind in ("ct", "small"):
            for _ in range(arguments.repetitions):
                samples += [measure(key, sender, kind, arguments.count, folder) for key in arguments.receivers]
                print(samples[-len(arguments.receivers) :], flush=True)
    rows = []
    for sender in SENDERS:
        for kind in ("ct", "small"):
            row = [f"{sender}, {'CT' if kind == 'ct' else '10 kB'}"]
            for name in dict.fromkeys(sample.receiver for sample in samples):
                row.append(spread([one.per_second for one in samples if (one.receiver, one.sender, one.kind) == (name, sender, kind)]))
            rows.append(row)
    text = table(["sender with default settings, instances per second", *dict.fromkeys(sample.receiver for sample in samples)], rows)
    print(text)
    if arguments.save:
        save("senders", {"samples": [asdict(sample) for sample in samples]}, text)


if __name__ == "__main__":
    main()
