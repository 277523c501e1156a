"""Doorbells between the processes of one node: "there is work", and nothing more.

A datagram without content to a socket in the node's runtime folder. Losing one costs a poll interval, never a job: the job table is the
truth. Peers in other containers or machines are not reached and poll.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import socket
import tempfile
from pathlib import Path

_LONGEST = 90  # bytes of a socket's path that every system takes


def folder_for(runtime_dir: Path) -> Path:
    """Where the doorbells hang; in the system's temporary folder where the node's own path is too long for a socket."""
    if len(os.fsencode(str(runtime_dir.absolute()))) <= _LONGEST - 32:
        folder = runtime_dir
    else:
        digest = hashlib.sha256(str(runtime_dir.absolute()).encode()).hexdigest()[:16]
        folder = Path(tempfile.gettempdir()) / f"dicom-node-{os.getuid()}-{digest}"
    return folder


class Doorbell:
    """One thread's bell: :meth:`wait` until somebody rings or a time has passed."""

    def __init__(self, runtime_dir: Path, name: str) -> None:
        folder = folder_for(runtime_dir)
        self._path = folder / f"{name}.{os.getpid()}.bell"
        self._temporary = folder != runtime_dir
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._hang()
        self._socket.setblocking(False)

    def wait(self, seconds: float) -> bool:
        """Sleep; True when the bell rang."""
        ready, _, _ = select.select([self._socket], [], [], max(seconds, 0))
        if not ready:
            return False
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(1)
        return True

    def fileno(self) -> int:
        """The socket, for a loop that waits for several things."""
        return self._socket.fileno()

    def ring(self) -> None:
        """Ring this very bell (to end a wait)."""
        _ring(self._path)

    def close(self) -> None:
        """Take the bell down, and with the last one the folder, where it is one of the system's temporary ones."""
        self._socket.close()
        with contextlib.suppress(OSError):
            self._path.unlink()
            if self._temporary:
                self._path.parent.rmdir()

    def _hang(self) -> None:
        while True:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._path.unlink(missing_ok=True)
            try:
                self._socket.bind(str(self._path))
            except FileNotFoundError:
                continue  # another process took its last bell down, and the folder with it
            return


def ring(runtime_dir: Path, name: str) -> None:
    """Ring every bell of a name (``infer``, ``deliver-pacs``, ...) on this machine."""
    with contextlib.suppress(OSError):
        for path in folder_for(runtime_dir).glob(f"{name}.*.bell"):
            _ring(path)


def _ring(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        try:
            sender.sendto(b"", str(path))
        except ConnectionRefusedError:
            with contextlib.suppress(OSError):
                path.unlink()  # its owner died
        except OSError:
            return
