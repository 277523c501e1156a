"""A node whose web application is served on loopback, as ``dicom-node serve`` would, and the real files to put into it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from dicom_node.config import Config
from dicom_node.node import Node, open_node, prepare
from dicom_node.web.app import serve
from storage.header_json import build_missing
from storage.importer import import_files


@dataclass
class Web:
    """A served node, and a client that keeps its connection."""

    node: Node
    url: str
    client: httpx.Client

    def get(self, path: str, accept: str | None = None, **headers: str) -> httpx.Response:
        return self.client.get(path, headers={**({"Accept": accept} if accept else {}), **headers})


@contextlib.contextmanager
def served(config: Config, files: Sequence[Path] = (), *, headers: bool = True) -> Iterator[Web]:
    """Import files, make their header JSON, and serve."""
    prepare(config)
    with open_node(config, "web-test") as node:
        import_files(node.archive, files)
        while headers and build_missing(node.archive):
            pass
        stop, ready, said = threading.Event(), threading.Event(), []

        def announce(line: str) -> None:
            said.append(line)
            ready.set()

        thread = threading.Thread(target=serve, args=(node, stop.wait, announce))
        thread.start()
        try:
            assert ready.wait(10)
            url = said[0].partition("http://")[2]
            with httpx.Client(base_url=f"http://{url}/dicom-web", trust_env=False, timeout=30) as client:
                yield Web(node, f"http://{url}/dicom-web", client)
        finally:
            stop.set()
            thread.join()
