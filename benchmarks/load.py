"""A load generator that is no bottleneck: pre-encoded PDUs over plain sockets, one process an association.

pynetdicom's PDU classes make the A-ASSOCIATE; after it, an instance is one buffer that was laid out for the peer's PDU length once, and
gets its UIDs written in place before each send. Everything acknowledged is reported, so that it can be read back.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.synchronize import Barrier
from typing import Any

from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification
from pynetdicom.presentation import build_context

from benchmarks.instances import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN, Identity, Template, new_uid, template

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
VERIFICATION = "1.2.840.10008.1.1"
RELEASE_RQ = b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00"
SHAPES = ("studies", "association-each", "interleaved")
LARGEST_PDU = 1 << 20  # what we use where the peer says "unlimited"


class LoadError(Exception):
    """The peer refused, aborted or answered something unexpected."""


def associate_rq(called: str, calling: str, contexts: Sequence[tuple[str, Sequence[str]]] = ()) -> bytes:
    """Return the bytes of an A-ASSOCIATE-RQ; by default for CT Image Storage, Explicit VR Little Endian."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = APPLICATION_CONTEXT
    primitive.calling_ae_title, primitive.called_ae_title = calling, called
    proposed = []
    for number, (abstract, syntaxes) in enumerate(contexts or [(CT_IMAGE_STORAGE, [EXPLICIT_VR_LITTLE_ENDIAN])]):
        context = build_context(abstract, list(syntaxes))
        context.context_id = 2 * number + 1
        proposed.append(context)
    primitive.presentation_context_definition_list = proposed
    length = MaximumLengthNotification()
    length.maximum_length_received = 16384
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = "2.25.1"
    primitive.user_information = [length, implementation]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(primitive)
    return pdu.encode()


def element(number: int, value: bytes) -> bytes:
    """Return one element of the command group, Implicit VR Little Endian."""
    return struct.pack("<HHI", 0, number, len(value)) + value


def store_command(sop_class: str, sop_instance: str, message_id: int = 1) -> bytes:
    """Return the bytes of a C-STORE-RQ command set."""
    body = (
        element(0x0002, sop_class.encode() + b"\x00" * (len(sop_class) % 2))
        + element(0x0100, b"\x01\x00")
        + element(0x0110, struct.pack("<H", message_id))
        + element(0x0700, b"\x00\x00")
        + element(0x0800, b"\x00\x00")
        + element(0x1000, sop_instance.encode() + b"\x00" * (len(sop_instance) % 2))
    )
    return element(0x0000, struct.pack("<I", len(body))) + body


def echo_command(message_id: int = 1) -> bytes:
    """Return the bytes of a C-ECHO-RQ command set."""
    body = (
        element(0x0002, VERIFICATION.encode() + b"\x00")
        + element(0x0100, b"\x30\x00")
        + element(0x0110, struct.pack("<H", message_id))
        + element(0x0800, b"\x01\x01")
    )
    return element(0x0000, struct.pack("<I", len(body))) + body


def p_data(context_id: int, control: int, value: bytes) -> bytes:
    """Return one P-DATA-TF PDU with one PDV; `control`: 1 command, 2 last."""
    return struct.pack(">BBIIBB", 4, 0, len(value) + 6, len(value) + 2, context_id, control) + value


def message(context_id: int, command: bytes, data: bytes | None, pdu_length: int) -> bytearray:
    """Return a whole DIMSE message as PDUs no longer than `pdu_length`."""
    step = (pdu_length or LARGEST_PDU) - 6
    out = bytearray()
    for control, value in ((1, command), (0, data)):
        if value is None:
            continue
        for at in range(0, max(len(value), 1), step):
            out += p_data(context_id, control | (2 if at + step >= len(value) else 0), value[at : at + step])
    return out


class Wire:
    """One association as a client that knows only bytes."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        called: str = "ANY-SCP",
        calling: str = "LOAD",
        contexts: Sequence[tuple[str, Sequence[str]]] = (),
        timeout: float = 60.0,
    ) -> None:
        request = associate_rq(called, calling, contexts)
        self.socket = socket.create_connection((host, port), timeout=timeout)
        try:
            self._associate(request)
        except BaseException:
            self.socket.close()
            raise

    def _associate(self, request: bytes) -> None:
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        self.socket.sendall(request)
        kind, pdu = self.read_pdu()
        if kind != 2:
            raise LoadError(f"association not accepted: PDU type {kind}, {pdu[6:10].hex()}")
        accepted = A_ASSOCIATE_AC()
        accepted.decode(pdu)
        self.accepted = {item.presentation_context_id: item.result == 0 for item in accepted.presentation_context}
        self.pdu_length = accepted.user_information.maximum_length

    def read_pdu(self) -> tuple[int, bytes]:
        """Return the type and the whole bytes of the next PDU."""
        buffer = self._buffer
        while len(buffer) < 6 or len(buffer) < 6 + int.from_bytes(buffer[2:6], "big"):
            more = self.socket.recv(65536)
            if not more:
                raise LoadError("the peer closed the connection")
            buffer += more
        end = 6 + int.from_bytes(buffer[2:6], "big")
        self._buffer = buffer[end:]
        return buffer[0], buffer[:end]

    def read_response(self) -> tuple[int, str]:
        """Return (status, error comment) of the next response without a data set."""
        command = b""
        while True:
            kind, pdu = self.read_pdu()
            if kind != 4:
                raise LoadError(f"expected a response, got PDU type {kind}")
            at, last = 6, False
            while at < len(pdu):
                length = int.from_bytes(pdu[at : at + 4], "big")
                if pdu[at + 5] & 1:
                    command += pdu[at + 6 : at + 4 + length]
                    last = bool(pdu[at + 5] & 2)
                at += 4 + length
            if last:
                return parse_response(command)

    def send(self, payload: bytes | bytearray) -> tuple[int, str]:
        """Send one whole message and return its response."""
        self.socket.sendall(payload)
        return self.read_response()

    def store(
        self, data: bytes, *, sop_class: str = CT_IMAGE_STORAGE, sop_instance: str, context_id: int = 1, message_id: int = 1
    ) -> tuple[int, str]:
        """Send these very bytes as one C-STORE and return (status, comment)."""
        return self.send(message(context_id, store_command(sop_class, sop_instance, message_id), data, self.pdu_length))

    def echo(self, context_id: int = 1) -> int:
        """Return the status of a C-ECHO."""
        return self.send(message(context_id, echo_command(), None, self.pdu_length))[0]

    def release(self) -> None:
        """Release the association and close the socket."""
        self.socket.sendall(RELEASE_RQ)
        kind, _ = self.read_pdu()
        if kind != 6:
            raise LoadError(f"expected A-RELEASE-RP, got PDU type {kind}")
        self.close()

    def close(self) -> None:
        """Drop the connection without a word."""
        self.socket.close()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None:
            self.release()
        else:
            self.close()


def parse_response(command: bytes) -> tuple[int, str]:
    """Return (status, error comment) of a response's command set."""
    status, comment, at = -1, "", 0
    while at < len(command):
        _, number, length = struct.unpack_from("<HHI", command, at)
        value = command[at + 8 : at + 8 + length]
        if number == 0x0900:
            status = int.from_bytes(value, "little")
        elif number == 0x0902:
            comment = value.decode("ascii", "replace").strip()
        at += 8 + length
    return status, comment


class Encoded:
    """One kind of instance, laid out for one peer's PDU length."""

    def __init__(self, source: Template, pdu_length: int) -> None:
        self.source = source
        marker = "2.25." + "9" * 39
        self.buffer = message(1, store_command(CT_IMAGE_STORAGE, marker), source.data, pdu_length)
        self._command_uid = self.buffer.index(marker.encode())
        self._data = self.buffer.index(source.data[:64])
        if (pdu_length or LARGEST_PDU) < source.number_at + 64:
            raise LoadError("the peer's PDU length is too short for patching in place")

    def address(self, identity: Identity) -> bytearray:
        """Return the message for `identity`: the same buffer every time."""
        raw = identity.sop.encode()
        self.buffer[self._command_uid : self._command_uid + len(raw)] = raw
        self.source.patch(self.buffer, self._data, identity)
        return self.buffer


@dataclass(frozen=True)
class Plan:
    """What one association (or one row of associations) sends."""

    kind: str = "ct"
    shape: str = "studies"
    studies: int = 5
    per_study: int = 100
    called: str = "ANY-SCP"
    calling: str = "LOAD"
    seed: int = 0
    give_up: float = 60.0

    def identities(self) -> Iterator[Identity]:
        """Yield what is sent, in order; another seed gives other UIDs."""
        source = random.Random(self.seed or None)
        studies = [(new_uid(source), new_uid(source)) for _ in range(self.studies)]
        if self.shape == "interleaved":
            order = [(study, number) for number in range(self.per_study) for study in studies]
        else:
            order = [(study, number) for study in studies for number in range(self.per_study)]
        for (study, series), number in order:
            yield Identity(self.kind, study, series, new_uid(source), number + 1)


@dataclass
class Report:
    """What one sender did."""

    acknowledged: list[Identity] = field(default_factory=list)
    refused: list[tuple[Identity, int, str]] = field(default_factory=list)
    started: float = 0.0
    ended: float = 0.0
    cpu: float = 0.0
    slowest: float = 0.0
    error: str = ""
    in_flight: Identity | None = None  # sent, but never answered


def send(host: str, port: int, plan: Plan, *, ready: Barrier | None = None) -> Report:
    """Send what the plan says; a lost association ends the sending and is reported, never raised."""
    report = Report()
    each = plan.shape == "association-each"
    identities = list(plan.identities())
    wire: Wire | None = None
    encoded: Encoded | None = None
    try:
        wire = Wire(host, port, called=plan.called, calling=plan.calling, timeout=plan.give_up)
        encoded = Encoded(template(plan.kind), wire.pdu_length)
        if each:
            wire.release()
            wire = None
        if ready is not None:
            ready.wait(60)
        report.started, cpu = time.monotonic(), time.process_time()
        for identity in identities:
            began = time.monotonic()
            if wire is None:
                wire = Wire(host, port, called=plan.called, calling=plan.calling, timeout=plan.give_up)
            report.in_flight = identity
            status, comment = wire.send(encoded.address(identity))
            report.in_flight = None
            if status == 0:
                report.acknowledged.append(identity)
            else:
                report.refused.append((identity, status, comment))
            if each:
                wire.release()
                wire = None
            report.slowest = max(report.slowest, time.monotonic() - began)
        report.ended, report.cpu = time.monotonic(), time.process_time() - cpu
        if wire is not None:
            wire.release()
    except (OSError, LoadError) as problem:
        report.ended = time.monotonic()
        report.error = f"{type(problem).__name__}: {problem}"
        if wire is not None:
            wire.close()
    return report


@dataclass
class Outcome:
    """What all senders of one load did together."""

    reports: list[Report]

    @property
    def acknowledged(self) -> list[Identity]:
        return [identity for report in self.reports for identity in report.acknowledged]

    @property
    def refused(self) -> list[tuple[Identity, int, str]]:
        return [item for report in self.reports for item in report.refused]

    @property
    def in_flight(self) -> list[Identity]:
        return [report.in_flight for report in self.reports if report.in_flight is not None]

    @property
    def errors(self) -> list[str]:
        return [report.error for report in self.reports if report.error]

    @property
    def seconds(self) -> float:
        return max(report.ended for report in self.reports) - min(report.started for report in self.reports)

    @property
    def rate(self) -> float:
        """Instances per second over all senders."""
        return len(self.acknowledged) / self.seconds

    @property
    def sender_cpu_ms(self) -> float:
        """Sender's CPU per instance in milliseconds."""
        return 1000 * sum(report.cpu for report in self.reports) / max(1, len(self.acknowledged))


def _sender(host: str, port: int, plan: Plan, ready: Barrier, out: Any) -> None:
    out.send(send(host, port, plan, ready=ready))
    out.close()


class Load:
    """Several senders at once, each a process of its own."""

    def __init__(self, host: str, port: int, plan: Plan, associations: int) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.instances", "pynetdicom.presentation"])
        self._ready = context.Barrier(associations + 1)
        self._running = []
        for number in range(associations):
            mine, theirs = context.Pipe(duplex=False)
            one = Plan(**{**asdict(plan), "seed": plan.seed and plan.seed + number})
            process = context.Process(target=_sender, args=(host, port, one, self._ready, theirs), daemon=True)
            process.start()
            theirs.close()
            self._running.append((process, mine))

    def go(self) -> None:
        """Let the senders start together, once every association stands."""
        self._ready.wait(60)

    def result(self) -> Outcome:
        """Wait for the senders and return what they did."""
        reports = []
        for process, pipe in self._running:
            reports.append(pipe.recv())
            process.join()
            pipe.close()
        return Outcome(reports)


def run(host: str, port: int, plan: Plan, associations: int = 1) -> Outcome:
    """Run a whole load and return what was acknowledged."""
    load = Load(host, port, plan, associations)
    load.go()
    return load.result()


def main() -> None:
    """Send a load and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--called", default="ANY-SCP")
    parser.add_argument("--kind", choices=("ct", "small"), default="ct")
    parser.add_argument("--shape", choices=SHAPES, default="studies")
    parser.add_argument("--studies", type=int, default=5)
    parser.add_argument("--per-study", type=int, default=100)
    parser.add_argument("--associations", type=int, default=1)
    arguments = parser.parse_args()
    plan = Plan(arguments.kind, arguments.shape, arguments.studies, arguments.per_study, arguments.called)
    outcome = run(arguments.host, arguments.port, plan, arguments.associations)
    print(
        json.dumps(
            {
                "acknowledged": len(outcome.acknowledged),
                "refused": len(outcome.refused),
                "errors": outcome.errors,
                "per_second": round(outcome.rate, 1),
                "sender_cpu_ms": round(outcome.sender_cpu_ms, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
