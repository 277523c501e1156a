"""Many senders beside many silent sockets: the receiver still answers at once."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.instances import template
from benchmarks.load import Plan, Wire
from benchmarks.receivers import await_true

SENDERS, SILENT = 64, 1000
pytestmark = [pytest.mark.xdist_group("timing")]


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """A receiver in a process of its own, so that its descriptors are its own."""
    log = tmp_path / "log"
    with log.open("w", encoding="utf-8") as out:
        receiver = subprocess.Popen([sys.executable, "-m", "tests.receiving", str(tmp_path)], stdout=out)
    try:
        await_true(lambda: log.read_text(encoding="utf-8").partition("\n")[0].isdigit(), "the receiver tells its port")
        yield int(log.read_text(encoding="utf-8").partition("\n")[0])
    finally:
        receiver.terminate()
        receiver.wait(30)


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip(f"only {hard} descriptors may be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
@pytest.mark.usefixtures("many_descriptors")
def test_64_senders_beside_1000_silent_sockets(port: int) -> None:
    with ExitStack() as stack:
        for _ in range(SILENT):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        stop, answers, problems = threading.Event(), [0] * SENDERS, []

        def send(number: int) -> None:
            encoded = template("small")
            try:
                with Wire("127.0.0.1", port, timeout=60) as wire:
                    for identity in Plan("small", studies=50, per_study=100).identities():
                        if stop.is_set():
                            break
                        status, comment = wire.store(encoded.instance(identity), sop_instance=identity.sop)
                        if status:
                            problems.append(f"{status:04X} {comment}")
                        answers[number] += 1
            except Exception as problem:  # noqa: BLE001 - a failed sender is what the test is about
                problems.append(repr(problem))

        senders = [threading.Thread(target=send, args=(number,)) for number in range(SENDERS)]
        for sender in senders:
            sender.start()
        slowest = 0.0
        until = time.monotonic() + 30
        while min(answers) < 3 and time.monotonic() < until:
            began = time.monotonic()
            with Wire("127.0.0.1", port, contexts=[("1.2.840.10008.1.1", ["1.2.840.10008.1.2"])], timeout=10) as wire:
                assert wire.echo() == 0
            slowest = max(slowest, time.monotonic() - began)
        stop.set()
        for sender in senders:
            sender.join(60)
    assert not problems, problems[:3]
    assert min(answers) >= 3
    assert slowest < 1.0
