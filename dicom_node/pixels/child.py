"""The process that transcodes and decodes: ``python -m dicom_node.pixels.child FD LIMIT``.

It reads requests from a socket and answers each: a line of JSON, then bytes. What a data set does to it (crash, endless loop, all
memory) ends it and nothing else; it ends by itself when its parent does.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from dicom_node.pixels.codecs import CodecError
from dicom_node.pixels.elements import NotReadable
from dicom_node.pixels.recode import decode_frame, recode
from dicom_node.work.parent import die_with_parent


def answer(request: dict[str, Any], data: bytes, limit: int) -> tuple[dict[str, Any], bytes]:
    """Carry out one request; what a data set does wrong is part of the answer."""
    try:
        if request["do"] == "recode":
            return {"ok": True}, recode(data, request["source"], request["target"], limit)
        decoded = decode_frame(data, request["source"], request["frame"], limit)
        return {"ok": True, **decoded.description()}, decoded.pixels
    except (NotReadable, CodecError) as error:
        return {"ok": False, "why": str(error)}, b""
    except MemoryError:
        return {"ok": False, "why": "it takes more memory than allowed"}, b""
    except Exception as error:  # noqa: BLE001 - the parent says what failed, and goes on with the next
        return {"ok": False, "why": f"it cannot be read: {type(error).__name__}"}, b""


def limit_memory(limit: int) -> None:
    """What is mapped already, and four times the decoded pixels: the data set, the pixels, a copy, the result."""
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * os.sysconf("SC_PAGESIZE") + 4 * limit + (256 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(arguments: list[str]) -> int:
    descriptor, limit = int(arguments[0]), int(arguments[1])
    parent = os.getppid()
    die_with_parent()
    if os.getppid() != parent:
        return 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt at the terminal is the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    limit_memory(limit)
    with Connection(descriptor) as connection:
        connection.send_bytes(b"ready")
        while True:
            try:
                request, data = json.loads(connection.recv_bytes()), connection.recv_bytes()
            except EOFError:
                return 0
            head, body = answer(request, data, limit)
            connection.send_bytes(json.dumps(head).encode())
            connection.send_bytes(body)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
