"""What every handler is made of: the node's parts that it works with."""

from __future__ import annotations

from collections.abc import Callable

from dicom_node.clock import Clock
from dicom_node.config import Config
from storage.archive import Archive
from storage.database import Database
from storage.jobs import JobQueue


class NodeHandler:
    """A handler of jobs on a node's index and archive; ``ring`` wakes the workers of what it brings about."""

    def __init__(
        self,
        config: Config,
        database: Database,
        archive: Archive,
        queue: JobQueue,
        *,
        clock: Clock,
        ring: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._config = config
        self._database = database
        self._archive = archive
        self._queue = queue
        self._clock = clock
        self._ring = ring
