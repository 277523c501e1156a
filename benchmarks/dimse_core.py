"""What the message layer alone can do: a receiver that discards, pre-encoded senders in processes of their own."""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
from statistics import median
from typing import Any

import psutil
import structlog

from benchmarks.load import Plan, run
from benchmarks.receivers import cpu_seconds
from dicom_node.dimse.admission import PeerAdmission, Unknown
from dicom_node.dimse.contexts import VERIFICATION, storage_classes
from dicom_node.dimse.server import Server, ServerSettings
from dicom_node.dimse.services.echo import EchoService
from dicom_node.dimse.services.store import StoreService
from dicom_node.dimse.testing import DiscardingSession, RememberingHooks

CELLS = (("ct", 1), ("ct", 4), ("small", 1), ("small", 4))


def serve(max_pdu: int) -> None:
    """Run a discarding receiver until standard input closes; its port is printed."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    services: dict[str, Any] = dict.fromkeys(storage_classes(), StoreService(DiscardingSession))
    services[VERIFICATION] = EchoService()
    admission = PeerAdmission(["ANY-SCP"], unknown=Unknown.STORE)
    server = Server(ServerSettings(host="127.0.0.1", port=0, max_pdu=max_pdu), services, admission, RememberingHooks())
    server.start()
    print(server.port, flush=True)
    sys.stdin.read()
    server.stop()


def measure(kind: str, associations: int, repetitions: int, max_pdu: int, shape: str) -> dict[str, Any]:
    """Measure one cell: medians of instances per second and of the receiver's CPU."""
    command = [sys.executable, "-m", "benchmarks.dimse_core", "--serve", "--max-pdu", str(max_pdu)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        watched = psutil.Process(process.pid)
        rates, cpu, sender = [], [], []
        per_study = {"ct": 1500, "small": 5000}[kind] // (5 if shape == "association-each" else 1)
        for _ in range(repetitions):
            before = cpu_seconds(watched)
            outcome = run("127.0.0.1", port, Plan(kind, shape, 1, per_study), associations)
            assert not outcome.errors, outcome.errors
            rates.append(outcome.rate)
            cpu.append((cpu_seconds(watched) - before) * 1000 / len(outcome.acknowledged))
            sender.append(outcome.sender_cpu_ms)
        process.communicate("")
    return {
        "kind": kind, "associations": associations, "shape": shape, "per_second": round(median(rates)),
        "range": [round(min(rates)), round(max(rates))], "cpu_ms": round(median(cpu), 4), "sender_cpu_ms": round(median(sender), 4),
    }  # fmt: skip


def main() -> None:
    """Measure every cell and print one line of JSON each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help="be the receiver")
    parser.add_argument("--max-pdu", type=int, default=131_072)
    parser.add_argument("--shape", default="studies")
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.max_pdu)
        return
    for kind, associations in CELLS:
        print(json.dumps(measure(kind, associations, arguments.repetitions, arguments.max_pdu, arguments.shape)), flush=True)


if __name__ == "__main__":
    main()
