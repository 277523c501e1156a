"""TLS: the handshake is each connection's own affair and holds up nobody else."""

from __future__ import annotations

import contextlib
import io
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dicom_node.dimse import pdu
from dicom_node.dimse.admission import Admitted, Caller, PeerAdmission, Refusal, Unknown
from dicom_node.dimse.contexts import VERIFICATION
from dicom_node.dimse.errors import AssociationRejected, Timeout, TlsFailed
from dicom_node.dimse.scu import Requestor, StoreItem, Timeouts, associate
from tests.dimse import CT, IMPLICIT, Node, raw_association, raw_socket, receiver, request_pdu

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
QUICK = Timeouts(connect=5, handshake=5, association=5, response=5, send=5)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, crt = folder / "key.pem", folder / "crt.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", str(key), "-out", str(crt)]
    subprocess.run(command, check=True, capture_output=True)
    return key, crt


@pytest.fixture(scope="module")
def server_context(certificate: tuple[Path, Path]) -> Callable[[], ssl.SSLContext]:
    def make() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate[1], certificate[0])
        return context

    return make


@pytest.fixture(scope="module")
def client_context(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate[1]))


def connect(node: Node | int, tls: ssl.SSLContext | None, timeouts: Timeouts = QUICK) -> Requestor:
    contexts = [(CT, [IMPLICIT]), (VERIFICATION, [IMPLICIT])]
    port = node if isinstance(node, int) else node.port
    return associate("127.0.0.1", port, calling_ae="US", called_ae="NODE", contexts=contexts, timeouts=timeouts, tls=tls)


def test_echo_and_store(server_context: Callable[[], ssl.SSLContext], client_context: ssl.SSLContext) -> None:
    data = bytes(range(250)) * 10_000
    with receiver(tls_context=server_context) as node:
        with connect(node, client_context) as association:
            assert association.echo() == 0
            for uid in ("1.2.3", "1.2.4"):
                assert association.store(StoreItem(CT, uid, IMPLICIT, len(data), lambda: io.BytesIO(data))).ok
            chunks = [data[:1000], data[1000:]]
            assert association.store(StoreItem(CT, "1.2.5", IMPLICIT, len(data), lambda: chunks)).ok
    assert {stored.data for stored in node.archive.instances.values()} == {data}
    assert node.hooks.events == [("opened", "US"), ("closed", "released")]


def test_echo_beside_200_silent_clients(server_context: Callable[[], ssl.SSLContext], client_context: ssl.SSLContext) -> None:
    with receiver(tls_context=server_context, per_address=512) as node, contextlib.ExitStack() as stack:
        threads = threading.active_count()
        for n in range(200):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", node.port)))
            if n % 4 == 0:
                sock.sendall(b"\x16\x03\x01")  # the start of a handshake, and no more
        before = time.perf_counter()
        with connect(node, client_context) as association:
            assert association.echo() == 0
        seconds = time.perf_counter() - before
        print(f"{seconds:.3f} s")
        assert seconds < 1.0
        assert threading.active_count() <= threads + 60


def test_handshakes_that_never_end_take_no_place(server_context: Callable[[], ssl.SSLContext], client_context: ssl.SSLContext) -> None:
    limits = {"max_associations": 4, "per_address": 1000, "pre_association_deadline": 60.0}
    with receiver(tls_context=server_context, **limits) as node, contextlib.ExitStack() as stack:
        threads = threading.active_count()
        for _ in range(300):
            stack.enter_context(raw_socket(node.port)).sendall(b"\x16\x03\x01")
        for _ in range(3):
            before = time.perf_counter()
            with connect(node, client_context) as association:
                assert association.echo() == 0
            assert time.perf_counter() - before < 1.0
        assert threading.active_count() < threads + 80


def test_one_tls_association_too_many(server_context: Callable[[], ssl.SSLContext], client_context: ssl.SSLContext) -> None:
    with receiver(tls_context=server_context, max_associations=1) as node, connect(node, client_context):
        with pytest.raises(AssociationRejected, match="local limit"):
            connect(node, client_context)


def test_half_a_handshake_ends_at_the_deadline(server_context: Callable[[], ssl.SSLContext]) -> None:
    with receiver(tls_context=server_context, pre_association_deadline=0.3) as node, raw_socket(node.port) as sock:
        before = time.monotonic()
        closed = False
        sock.settimeout(0.05)
        for byte in b"\x16\x03\x01\x02\x00" + bytes(100):
            try:
                sock.sendall(bytes((byte,)))
                closed = sock.recv(1) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                closed = True
            if closed:
                break
        assert closed
        assert time.monotonic() - before < 2.0


def test_a_handshake_without_a_request_ends_at_the_deadline(
    server_context: Callable[[], ssl.SSLContext], client_context: ssl.SSLContext
) -> None:
    with receiver(tls_context=server_context, pre_association_deadline=0.5) as node, raw_socket(node.port) as sock:
        with client_context.wrap_socket(sock, server_hostname="127.0.0.1") as secured:
            secured.sendall(b"\x01\x00")
            assert secured.recv(1) == b""


def test_plain_clients_on_the_tls_port(server_context: Callable[[], ssl.SSLContext], client_context: ssl.SSLContext) -> None:
    with receiver(tls_context=server_context) as node:
        with raw_socket(node.port) as sock:
            sock.sendall(request_pdu([(CT, [IMPLICIT])]))
            with contextlib.suppress(ConnectionError):
                while sock.recv(100):
                    pass
        with connect(node, client_context) as association:
            assert association.echo() == 0


def test_tls_errors_name_the_step(server_context: Callable[[], ssl.SSLContext], client_context: ssl.SSLContext) -> None:
    with receiver(tls_context=server_context) as node, pytest.raises(TlsFailed) as caught:
        connect(node, ssl.create_default_context())
    assert caught.value.step == "tls"
    assert "self-signed" in str(caught.value)
    with receiver() as node, pytest.raises(TlsFailed):
        connect(node, client_context)
    with socket.create_server(("127.0.0.1", 0)) as mute, pytest.raises(Timeout) as timed_out:
        connect(mute.getsockname()[1], client_context, Timeouts(handshake=0.2))
    assert timed_out.value.step == "tls"


class Remembering(PeerAdmission):
    """Admission that keeps who asked."""

    callers: list[Caller]

    def admit(self, caller: Caller) -> Admitted | Refusal:
        self.callers = [*getattr(self, "callers", []), caller]
        return super().admit(caller)


def test_admission_sees_the_certificate(certificate: tuple[Path, Path], server_context: Callable[[], ssl.SSLContext]) -> None:
    def mutual() -> ssl.SSLContext:
        context = server_context()
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificate[1])
        return context

    client = ssl.create_default_context(cafile=str(certificate[1]))
    client.load_cert_chain(certificate[1], certificate[0])
    admission = Remembering(["NODE"], unknown=Unknown.STORE)
    with receiver(tls_context=mutual, admission=admission) as node:
        with connect(node, client) as association:
            assert association.echo() == 0
        without = ssl.create_default_context(cafile=str(certificate[1]))
        with pytest.raises(Exception, match=r"(?i)tls|connection|certificate"):
            connect(node, without)
    (caller,) = admission.callers
    assert caller.certificate is not None
    assert dict(pair[0] for pair in caller.certificate["subject"])["commonName"] == "localhost"


@pytest.fixture
def stopped_node(server_context: Callable[[], ssl.SSLContext]) -> Iterator[Node]:
    with receiver(tls_context=server_context) as node:
        yield node


def test_stop_aborts_a_tls_association(stopped_node: Node, client_context: ssl.SSLContext) -> None:
    with socket.create_connection(("127.0.0.1", stopped_node.port), timeout=5) as plain:
        with client_context.wrap_socket(plain, server_hostname="127.0.0.1") as sock:
            sock.sendall(request_pdu([(CT, [IMPLICIT])]))
            assert sock.recv(1) == bytes((pdu.ASSOCIATE_AC,))
            stopped_node.server.stop(1.0)
            rest = b""
            with contextlib.suppress(OSError):
                while more := sock.recv(4096):
                    rest += more
            assert rest[-10:] == pdu.encode_abort(2, 0)


def test_plain_associations_are_unaffected() -> None:
    with receiver() as node, raw_association(node.port) as sock:
        sock.sendall(pdu.RELEASE_RQ_PDU)
        assert sock.recv(10) == pdu.RELEASE_RP_PDU


@pytest.mark.slow
def test_connects_and_aborts_leave_nothing(server_context: Callable[[], ssl.SSLContext], client_context: ssl.SSLContext) -> None:
    with receiver(tls_context=server_context) as node:

        def one(n: int) -> None:
            with raw_socket(node.port) as sock:
                if n % 3 == 1:
                    sock.sendall(b"\x16\x03\x01\x02\x00")
                elif n % 3 == 2 and n % 30 == 2:
                    with client_context.wrap_socket(sock, server_hostname="127.0.0.1") as secured:
                        secured.sendall(request_pdu([(CT, [IMPLICIT])]))

        def settled() -> bool:
            return node.server.associations == 0 and node.server.pending == 0

        def descriptors() -> int:
            return len(list(Path("/proc/self/fd").iterdir()))

        one(2)
        before = descriptors()
        for n in range(2000):
            one(n)
        end = time.monotonic() + 15
        while not (settled() and descriptors() <= before + 5):
            assert time.monotonic() < end
            time.sleep(0.01)
        began = time.perf_counter()
        with connect(node, client_context) as association:
            assert association.echo() == 0
        assert time.perf_counter() - began < 1.0


@pytest.mark.peer("echoscu")
@pytest.mark.parametrize("profile", ["+py", "+px", "+pz"])
def test_dcmtk_over_tls(profile: str, certificate: tuple[Path, Path], server_context: Callable[[], ssl.SSLContext]) -> None:
    with receiver(tls_context=server_context) as node:
        command = ["/usr/bin/echoscu", "-aec", "NODE", "-to", "5", "+tls", str(certificate[0]), str(certificate[1]), "-ic", profile]
        done = subprocess.run([*command, "127.0.0.1", str(node.port)], capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 0, done.stderr
