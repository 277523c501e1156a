"""OHIF's built files on loopback. Its configuration is the one it ships with, but for the address of its DICOMweb server."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SHIPPED = "https://d14fa38qiwhyfd.cloudfront.net/dicomweb"


class _Files(SimpleHTTPRequestHandler):
    """Static files; the viewer's own routes are its start page."""

    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".js": "text/javascript", ".wasm": "application/wasm"}

    def __init__(self, *arguments: Any, configuration: str, **keywords: Any) -> None:
        self._configuration = configuration.encode()
        super().__init__(*arguments, **keywords)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/app-config.js":
            self.send_response(200)
            self.send_header("Content-Type", "text/javascript")
            self.send_header("Content-Length", str(len(self._configuration)))
            self.end_headers()
            self.wfile.write(self._configuration)
            return
        if "." not in path.rpartition("/")[2]:
            self.path = "/index.html"
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            super().do_GET()

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        """Say nothing."""


class Site:
    """A running site; the viewer learns of its DICOMweb server by :meth:`point_at`."""

    def __init__(self, dist: Path) -> None:
        self._dist = dist
        self._shipped = (dist / "app-config.js").read_text()
        assert SHIPPED in self._shipped
        self._configuration = ""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def point_at(self, dicomweb: str) -> None:
        self._configuration = self._shipped.replace(SHIPPED, dicomweb)

    def _handler(self, *arguments: Any) -> _Files:
        return _Files(*arguments, configuration=self._configuration, directory=str(self._dist))

    @contextlib.contextmanager
    def running(self) -> Iterator[Site]:
        thread = threading.Thread(target=partial(self._server.serve_forever, poll_interval=0.05), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()
