"""The archives that are queried and retrieved from, side by side: this node, Orthanc and DCMTK's dcmqrscp; what their benchmarks take."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.receivers import ORTHANC, Node, Orthanc, _Program, await_idle, await_true, free_port, fresh, listening
from benchmarks.report import WORK

DCMQRSCP = "/usr/bin/dcmqrscp"
TITLE = "BENCHDEST"  # of the destination of C-MOVE
LONGEST_PDU = 131_072  # that DCMTK takes


class Dcmqrscp(_Program):
    """DCMTK's archive: a file an instance, an index of its own."""

    name = "dcmqrscp"
    called = "QRSCP"

    def __init__(self, destination: int) -> None:
        super().__init__()
        self._destination = destination

    def start(self, folder: Path) -> None:
        store, self.port = folder / "store", free_port()
        store.mkdir()
        (folder / "dcmqrscp.cfg").write_text(
            f"NetworkTCPPort = {self.port}\nMaxPDUSize = {LONGEST_PDU}\nMaxAssociations = 16\n"
            f"HostTable BEGIN\ndest = ({TITLE}, 127.0.0.1, {self._destination})\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
            f"AETable BEGIN\nQRSCP {store} RW (400, 1024mb) ANY\nAETable END\n",
            encoding="utf-8",
        )
        self._launch([DCMQRSCP, "-c", str(folder / "dcmqrscp.cfg")], folder, TCP_NODELAY="1")
        await_true(lambda: listening(self.port), "dcmqrscp is listening")


def _archives(keys: Sequence[str], destination: int) -> Iterator[_Program]:
    """Make the archives that are asked for, each told of the destination."""
    for key in keys:
        if key == "node":
            peer = f'\n[[peer]]\nname = "destination"\nae_title = "{TITLE}"\nhost = "127.0.0.1"\nport = {destination}\n'
            yield Node(lambda text, peer=peer: text + peer)  # type: ignore[misc]
        elif key == "orthanc":
            orthanc = Orthanc()
            always = {"DicomAlwaysAllowGet": True, "DicomAlwaysAllowMove": True, "DicomAlwaysAllowFind": True}
            orthanc.settings = {"DicomModalities": {"destination": [TITLE, "127.0.0.1", destination]}, **always}
            yield orthanc
        else:
            yield Dcmqrscp(destination)


@contextmanager
def running(keys: Sequence[str], folder: Path, destination: int = 104) -> Iterator[list[_Program]]:
    """Start the archives, each told of the port of the destination; stop them and empty their folders afterwards."""
    started: list[_Program] = []
    try:
        for each in _archives(keys, destination):
            each.start(fresh(folder / each.called))
            started.append(each)
        yield started
    finally:
        for each in started:
            each.stop()
            fresh(folder / each.called).rmdir()


def await_settled(started: Sequence[_Program]) -> None:
    """Wait until what was stored is on disk and nobody works any more."""
    for archive in started:
        await_true(archive.settled, "the load is settled", 300)
        await_idle(archive.process())


def parser(description: str | None, repetitions: int) -> argparse.ArgumentParser:
    """What every benchmark of archives takes: repetitions, archives, folder, save."""
    installed = ["node"] + ["orthanc"] * Path(ORTHANC).exists() + ["dcmqrscp"] * Path(DCMQRSCP).exists()
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--repetitions", type=int, default=repetitions)
    made.add_argument("--archives", nargs="+", choices=installed, default=installed)
    made.add_argument("--folder", type=lambda text: Path(text).resolve(), default=WORK, help="where the archives keep their bytes")
    made.add_argument("--save", action="store_true", help="keep the result in benchmarks/results")
    return made
