"""The process that a model runs in: ``python -m dicom_node.work.child FD DEVICE CACHE THREADS MEMORY``.

It reads requests from a socket, those together that are to be carried out together, and answers each with its number. What a model does
to it (crash, endless loop, all memory) ends it and nothing else; it ends by itself when its worker does.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from dicom_node import log
from dicom_node.work.inference import Runner
from dicom_node.work.parent import die_with_parent


def main(arguments: list[str]) -> int:
    descriptor, device, cache, threads, memory = arguments
    parent = os.getppid()
    die_with_parent()
    if os.getppid() != parent:
        return 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt at the terminal is the worker's to handle
    log.configure("warning", role="inference-child")
    os.dup2(2, 1)  # what a model prints is log, not protocol
    runner = Runner(device, cache=Path(cache) if cache else None, threads=int(threads) if threads else None)
    with Connection(int(descriptor)) as connection:
        connection.send("ready")
        runner.preload()
        if memory and device == "cpu":  # a driver's address space says nothing of a device's memory
            resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
        while True:
            try:
                requests = connection.recv()
            except EOFError:
                return 0
            for numbered in runner.together(requests):
                connection.send(numbered)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
