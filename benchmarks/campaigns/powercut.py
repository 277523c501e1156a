"""Power cuts: an ext4 image is shut down under the receiver without a flush (FS_IOC_SHUTDOWN), mounted again, recovered, compared.

Root only, on Linux. What the page cache held is gone, as it is when the power goes; only what was synced stands.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import random
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.campaigns.check import Verdict, check
from benchmarks.instances import Identity
from benchmarks.load import Load, Plan
from benchmarks.receivers import Node, Orthanc, await_true
from benchmarks.report import WORK, save, table

FS_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2


class Unsupported(Exception):
    """This machine cannot do it, and why."""


class Disk:
    """An ext4 file system of its own in a file, whose power can be cut."""

    def __init__(self, folder: Path, size_mb: int = 2048) -> None:
        if os.geteuid() != 0:
            raise Unsupported("needs root")
        self.image, self.mount_point = folder / "disk.ext4", folder / "mnt"
        self.mount_point.mkdir(exist_ok=True)
        with self.image.open("wb") as image:
            image.truncate(size_mb << 20)
        self._run("mkfs.ext4", "-q", "-F", str(self.image))
        self.mount()

    def _run(self, *command: str) -> None:
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as problem:
            raise Unsupported(f"{' '.join(command[:3])}: {getattr(problem, 'stderr', problem)!r}") from problem

    def mount(self) -> None:
        self._run("mount", "-o", "loop", str(self.image), str(self.mount_point))

    def cut(self) -> None:
        """Shut the file system down at once; nothing that is not on the disk yet gets there."""
        descriptor = os.open(self.mount_point, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, FS_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        except OSError as problem:
            raise Unsupported(f"FS_IOC_SHUTDOWN: {problem}") from problem
        finally:
            os.close(descriptor)

    def remount(self) -> None:
        """Bring the power back: the journal is replayed."""
        await_true(self._back, "the file system is free and mounted anew", 120, 0.2)

    def _back(self) -> bool:
        if subprocess.run(["umount", str(self.mount_point)], capture_output=True, timeout=60).returncode:
            return False
        self.mount()
        try:
            (self.mount_point / "probe").touch()
        except OSError:  # another mount namespace still holds the one that was shut down
            return False
        return True

    def remove(self) -> None:
        subprocess.run(["umount", str(self.mount_point)], capture_output=True, timeout=60)
        self.image.unlink(missing_ok=True)


@contextmanager
def disk(folder: Path | None = None, size_mb: int = 2048) -> Iterator[Disk]:
    """Make such a disk, and remove it at the end."""
    if folder is None:
        WORK.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder or WORK) as made:
        one = Disk(Path(made), size_mb)
        try:
            yield one
        finally:
            one.remove()


def round_of(receiver: Any, place: Disk, source: random.Random, kind: str, associations: int) -> list[Identity]:
    """Load the receiver, cut the power at some moment, return what it had acknowledged."""
    plan = Plan(kind, studies=50, per_study=20, called=receiver.called, give_up=20)
    load = Load("127.0.0.1", receiver.port, plan, associations)
    load.go()
    time.sleep(source.uniform(0.15, 0.8))
    place.cut()
    time.sleep(0.1)
    receiver.kill()
    acknowledged = load.result().acknowledged
    place.remount()
    return acknowledged


def cut_node(place: Disk, cuts: int, seed: int, associations: int = 4) -> list[Verdict]:
    """Cut the power `cuts` times under this node; one verdict a cut, over everything acknowledged so far."""
    source, verdicts, acknowledged = random.Random(seed), [], []
    outside = place.mount_point.parent / "node"
    outside.mkdir()
    node = Node(lambda text: text.replace(str(outside / "data"), str(place.mount_point / "data")))
    node.configure(outside)
    node.data_folder = place.mount_point / "data"
    for number in range(cuts):
        node.launch()
        acknowledged += round_of(node, place, source, ("ct", "small")[number % 2], associations)
        node.launch()
        node.stop()
        verdicts.append(check(node.index, node.archive_root(), acknowledged))
        print(f"cut {number + 1}: {verdicts[-1]}", flush=True)
    return verdicts


def cut_orthanc(place: Disk, cuts: int, seed: int, associations: int = 4) -> tuple[int, int]:
    """Cut the power under Orthanc; return (acknowledged, kept)."""
    source, acknowledged, kept = random.Random(seed), 0, 0
    for number in range(cuts):
        folder = place.mount_point / f"orthanc-{number}"
        folder.mkdir()
        peer = Orthanc()
        peer.start(folder)
        told = round_of(peer, place, source, ("ct", "small")[number % 2], associations)
        try:
            peer.start(folder)
            wrong = len(peer.wrong(told))
        except (OSError, TimeoutError):
            wrong = len(told)
        peer.stop()
        acknowledged, kept = acknowledged + len(told), kept + len(told) - wrong
        print(f"Orthanc, cut {number + 1}: {len(told) - wrong} of {len(told)} kept", flush=True)
    return acknowledged, kept


def main() -> None:
    """Cut the power under this node, and under Orthanc beside it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--orthanc-cuts", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    with disk(size_mb=16384) as place:
        verdicts = cut_node(place, arguments.cuts, arguments.seed)
    rows = [["dicom-node", str(len(verdicts)), str(verdicts[-1].acknowledged), str(sum(len(v.missing) + len(v.altered) for v in verdicts))]]
    result: dict[str, Any] = {"cuts": arguments.cuts, "acknowledged": verdicts[-1].acknowledged, "good": all(v.good for v in verdicts)}
    if arguments.orthanc_cuts and Path("/usr/sbin/Orthanc").exists():
        with disk(size_mb=16384) as place:
            told, kept = cut_orthanc(place, arguments.orthanc_cuts, arguments.seed)
        rows.append(["Orthanc", str(arguments.orthanc_cuts), str(told), str(told - kept)])
        result["orthanc"] = {"acknowledged": told, "kept": kept}
    text = table(["power cuts at 4 associations", "cuts", "instances acknowledged", "of these lost or altered"], rows)
    print(text)
    if arguments.save:
        save("powercut", result, text)
    if not result["good"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
