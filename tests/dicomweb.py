"""A node whose web application is served on loopback, as ``dicom-node serve`` would, and the real files to put into it."""

from __future__ import annotations

import contextlib
import email
import io
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import blake3
import httpx
from pydicom import Dataset, dcmread
from sqlalchemy import select

from dicom_node.config import Config
from dicom_node.node import Node, open_node, prepare
from dicom_node.web.app import serve
from storage.header_json import build_missing
from storage.importer import import_files
from storage.part10 import NotDicom, read_part10_header
from storage.schema import study


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


FOLDERS = ("charsets", "multiframe", "seg-sr-rt", "transfer-syntax")


@dataclass(frozen=True)
class Stored:
    """A real file that the archive has taken: what was stored, and where it is found."""

    name: str
    data: bytes
    transfer_syntax: str
    study: str
    series: str
    sop: str

    @property
    def path(self) -> str:
        return f"/studies/{self.study}/series/{self.series}/instances/{self.sop}"

    @property
    def dataset_bytes(self) -> bytes:
        with io.BytesIO(self.data) as file:
            return self.data[read_part10_header(file).dataset_offset :]

    def dataset(self) -> Dataset:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return dcmread(io.BytesIO(self.data), force=True)


def real_files(source: Path, target: Path) -> list[Path]:
    """Copies of all real files, of which several have one UID in the source: here each has its own, of the same length."""
    target.mkdir(parents=True, exist_ok=True)
    seen: set[bytes] = set()
    copies = []
    files = [path for folder in FOLDERS for path in sorted((source / folder).rglob("*")) if path.is_file()]
    for number, path in enumerate(sorted(files, key=lambda each: "Deflated" not in each.name)):  # whose UID cannot be changed in place
        data = path.read_bytes()
        try:
            with io.BytesIO(data) as file:
                uid = read_part10_header(file).sop_instance_uid.encode()
        except NotDicom:
            continue
        if uid in seen:
            data = data.replace(uid, uid[:-3] + b"%03d" % (100 + number))
        seen.add(uid)
        copy = target / f"{number:03d}-{path.name}"
        copy.write_bytes(data)
        copies.append(copy)
    return copies


def stored_files(web: Web, files: Sequence[Path]) -> list[Stored]:
    """Those of the files that the archive holds."""
    known = {stored.digest: stored for study in _studies(web) for stored in web.node.archive.instances(study)}
    result = []
    for path in files:
        data = path.read_bytes()
        with io.BytesIO(data) as file:
            offset = read_part10_header(file).dataset_offset
        found = known.get(blake3.blake3(data[offset:]).hexdigest())
        if found is not None:
            result.append(Stored(path.name, data, found.transfer_syntax_uid, found.study_uid, found.series_uid, found.sop_uid))
    return result


def _studies(web: Web) -> list[str]:
    with web.node.database.read() as connection:
        return [str(uid) for uid in connection.scalars(select(study.c.study_uid))]


def parts_of(response: httpx.Response) -> list[tuple[dict[str, str], bytes]]:
    """The parts of a multipart/related response, read by the standard library."""
    message = email.message_from_bytes(b"Content-Type: " + response.headers["content-type"].encode() + b"\r\n\r\n" + response.content)
    assert message.is_multipart(), response.headers["content-type"]
    boundary = message.get_boundary()
    assert boundary is not None
    parts = response.content.split(f"\r\n--{boundary}".encode())
    assert parts[0] == b""
    assert parts[-1].strip() == b"--"
    result = []
    for part in parts[1:-1]:
        head, _, body = part.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().strip().split("\r\n"))
        result.append(({name.lower(): value for name, value in fields.items()}, body))
    return result
