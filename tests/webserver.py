"""A node's web application behind a real socket, and requests to it as other programs make them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from dicom_node.config import Config, load
from dicom_node.node import Node, open_node, prepare
from dicom_node.web.app import serve
from tests.node import settings

BOUNDARY = "a-boundary"
MULTIPART = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'


@dataclass
class WebNode:
    """A node and where its web server listens."""

    node: Node
    port: int
    client: httpx.Client

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/dicom-web"

    def store(self, files: Sequence[bytes], *, study: str = "", **headers: str) -> httpx.Response:
        """STOW of Part 10 files in one request."""
        path = f"/studies/{study}" if study else "/studies"
        return self.client.post(self.url + path, content=multipart(files), headers={"Content-Type": MULTIPART, **headers})


def multipart(files: Sequence[bytes], *, headers: str = "Content-Type: application/dicom\r\n", boundary: str = BOUNDARY) -> bytes:
    """A multipart/related body."""
    lines = [f"--{boundary}\r\n{headers}\r\n".encode() + file + b"\r\n" for file in files]
    return b"".join(lines) + f"--{boundary}--\r\n".encode()


@contextlib.contextmanager
def web_node(folder: Path, *, web: str = "", more: str = "") -> Iterator[WebNode]:
    """A node whose web application answers on loopback; ``web`` are further settings of [web]."""
    with serving(configured(folder, web=web, more=more)) as node:
        yield node


def configured(folder: Path, *, web: str = "", more: str = "") -> Config:
    """The configuration of a node for tests, with further settings of [web]."""
    config = settings(folder, more=more)
    if not web:
        return config
    file = folder / "node.toml"
    file.write_text(file.read_text().replace("[web]\n", f"[web]\n{web}\n"))
    return load(file)


@contextlib.contextmanager
def serving(config: Config) -> Iterator[WebNode]:
    """Serve a configuration's web application on a free port, as the web role does."""
    prepare(config)
    stop, ready, said = threading.Event(), threading.Event(), []

    def announce(line: str) -> None:
        said.append(line)
        ready.set()

    with open_node(config, "web") as node:
        thread = threading.Thread(target=serve, args=(node, stop.wait, announce), name="web")
        thread.start()
        try:
            assert ready.wait(20)
            with httpx.Client(timeout=60, trust_env=False) as client:
                yield WebNode(node, int(said[0].rpartition(":")[2]), client)
        finally:
            stop.set()
            thread.join()


def value(model: dict[str, Any], tag: str) -> Any:
    """The first value of an attribute in the DICOM JSON Model; None where there is none."""
    return next(iter(model.get(tag, {}).get("Value", [])), None)
