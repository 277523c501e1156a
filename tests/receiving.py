"""A real receiver, nothing more: sockets, archive and index as the node wires them, without rules, workers or pages.

In a test: ``with receiving(folder) as node``. As a process of its own: ``python -m tests.receiving FOLDER`` prints its port when ready.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import func, select

from dicom_node.config import Config
from dicom_node.dimse.admission import PeerAdmission, Unknown
from dicom_node.dimse.contexts import VERIFICATION, storage_classes
from dicom_node.dimse.server import Server, ServerSettings
from dicom_node.dimse.services.echo import EchoService
from dicom_node.dimse.services.store import StoreService
from dicom_node.node import LeasedAssociations, Node
from storage.archive import Archive
from storage.database import Database, open_database
from storage.schema import instance, study


@dataclass
class Receiving:
    """A running receiver."""

    server: Server
    archive: Archive
    database: Database
    root: Path
    index: Path

    @property
    def port(self) -> int:
        return self.server.port

    def database_rows(self, sop_uid: str) -> int:
        """Return how many instances the index holds under a UID."""
        with self.database.read() as connection:
            query = select(func.count()).select_from(instance).where(instance.c.sop_uid == sop_uid)
            return int(connection.execute(query).scalar_one())

    def revision(self, study_uid: str) -> int:
        """Return a study's revision."""
        with self.database.read() as connection:
            return int(connection.execute(select(study.c.revision).where(study.c.study_uid == study_uid)).scalar_one())


def index_url(folder: Path) -> str:
    """Return the URL of the index in `folder`."""
    return f"sqlite:///{folder / 'index.sqlite'}"


def open_archive(root: Path, database: Database, **options: Any) -> Archive:
    """Open the archive at `root`, making it where there is none, and recover it."""
    if not (root / "archive-id").exists():
        Archive.create(root, database).close()
    archive = Archive.open(root, database, process="receiver", **options)
    archive.recover()
    return archive


@contextlib.contextmanager
def receiving(
    folder: Path, *, port: int = 0, busy_seconds: float = 5.0, root: Path | None = None, **options: Any
) -> Iterator[Receiving]:
    """Run a receiver on `folder`; `options` go to the archive."""
    database = open_database(index_url(folder), create=True, busy_seconds=busy_seconds)
    root = root or folder / "archive"
    archive = open_archive(root, database, **options)
    hooks = LeasedAssociations(Node(Config(), time.time, database, archive, "", "receiver"), lease=3600.0)
    store = StoreService(hooks.session)
    services: dict[str, Any] = dict.fromkeys(storage_classes(), store)
    services[VERIFICATION] = EchoService()
    server = Server(
        ServerSettings(host="127.0.0.1", port=port),
        services,
        PeerAdmission(["ANY-SCP"], check_called=False, unknown=Unknown.STORE),
        hooks,
    )
    server.start()
    try:
        yield Receiving(server, archive, database, root, folder / "index.sqlite")
    finally:
        server.stop(5.0)
        archive.close()
        database.close()


def main() -> None:
    """Receive until SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with receiving(Path(sys.argv[1]), port=int(sys.argv[2]) if len(sys.argv) > 2 else 0) as node:
        print(node.port, flush=True)
        signal.sigwait([signal.SIGTERM])


if __name__ == "__main__":
    main()
