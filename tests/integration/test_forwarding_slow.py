"""Two peers that take a byte a second, and a good one beside them: the slow ones are given up, tried again, and hold up nobody."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dicom_node.dimse import pdu
from tests.dimse import receive_pdu, until
from tests.imaging import series
from tests.node import PLAIN, StepNode, peer, running, send, settings, uid_of

KEEP = '\n[[rule]]\nname = "keep"\nforward = ["slow", "slower", "good"]\n'


@contextlib.contextmanager
def a_byte_a_second(ended: threading.Event) -> Iterator[tuple[int, list[str]]]:
    """A peer that accepts associations and then reads one byte a second: its port, and who called it."""
    called, threads = list[str](), list[threading.Thread]()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    listener.settimeout(0.1)

    def associate(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError, EOFError):
            sock.settimeout(10)
            _, body = receive_pdu(sock)
            request = pdu.parse_associate_request(body)
            answers = [pdu.ContextResult(each.id, 0, each.transfer_syntaxes[0]) for each in request.contexts]
            sock.sendall(pdu.encode_associate_accept(request, answers, pdu.UserInformation(max_length=16384)))
            called.append(request.calling_ae)
            while not ended.wait(1.0) and sock.recv(1):
                pass

    def listen() -> None:
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                threads.append(threading.Thread(target=associate, args=(listener.accept()[0],)))
                threads[-1].start()

    accepting = threading.Thread(target=listen)
    accepting.start()
    try:
        yield listener.getsockname()[1], called
    finally:
        ended.set()
        accepting.join()
        for thread in threads:
            thread.join()
        listener.close()


@contextlib.contextmanager
def at_work(node: StepNode) -> Iterator[None]:
    """The node's workers in threads of their own, as the io worker has them."""
    threads = [threading.Thread(target=worker.run) for worker in node.deliveries]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for worker in node.deliveries:
            worker.stop()
        for thread in threads:
            thread.join()


def test_two_slow_peers_are_tried_again_and_the_good_one_is_served(tmp_path: Path) -> None:
    images = series(np.zeros((2, 2048, 2048), dtype=np.int16))  # 8 MB each: more than the buffers of a connection hold
    uid = uid_of(images)
    ended = threading.Event()
    with (
        a_byte_a_second(ended) as (slow, calls),
        a_byte_a_second(ended) as (slower, more_calls),
        running(settings(tmp_path / "pacs")) as good,
    ):
        peers = peer("slow", slow) + peer("slower", slower) + peer("good", good.port, title="NODE")
        config = settings(tmp_path / "node", more=peers + KEEP, plain=PLAIN.replace('response_timeout = "10s"', 'response_timeout = "1s"'))
        with running(config) as node:
            send(node, images, tmp_path / "files")
            node.complete()
            node.route.step()

            def states() -> dict[str, str]:
                return {each.delivery.peer: each.delivery.state for each in node.story(uid).deliveries}

            def errors() -> set[str | None]:
                return {each.job.error for each in node.story(uid).jobs if each.job.kind == "deliver" and each.job.state != "COMPLETED"}

            with at_work(node):
                until(lambda: states() == {"slow": "SCHEDULED", "slower": "SCHEDULED", "good": "DELIVERED"})
                until(lambda: min(len(calls), len(more_calls)) >= 2, 30)
                assert errors() == {f"{name}, store: the peer stopped reading" for name in ("slow", "slower")}
                assert states() == {"slow": "SCHEDULED", "slower": "SCHEDULED", "good": "DELIVERED"}
                ended.set()
            assert {each.sop_uid for each in good.node.archive.instances(uid)} == {str(image.SOPInstanceUID) for image in images}
