"""The Device UIDs by which a result of ours is known when it comes back under another SOP Instance UID (DESIGN, promise 4)."""

from __future__ import annotations

import contextlib

from sqlalchemy import func, select

from dicom_node.config import Config
from dicom_node.results.uids import device_uid
from models.bundle import load_bundle
from models.errors import BundleInvalid
from storage.database import Database
from storage.errors import IndexUnavailable
from storage.schema import run


class OwnDevices:
    """Device UIDs of every release that this node has run, or may run by its rules; a release run since is known at once.

    A release's run is in the index before its result leaves, so looking for newer runs is enough.
    """

    def __init__(self, config: Config, database: Database, archive_id: str) -> None:
        self._database = database
        self._archive_id = archive_id
        self._newest: int | None = -1
        self._by_rules = frozenset(_named_by_rules(config))
        self._uids = self._uids_of(self._by_rules)

    def __call__(self) -> frozenset[str]:
        with contextlib.suppress(IndexUnavailable), self._database.read() as connection:
            newest = connection.scalar(select(func.max(run.c.pk)))
            if newest != self._newest:
                digests = connection.scalars(select(run.c.release_digest).distinct())
                self._uids = self._uids_of(self._by_rules.union(digests))
                self._newest = newest
        return self._uids

    def _uids_of(self, digests: frozenset[str]) -> frozenset[str]:
        return frozenset(device_uid(self._archive_id, digest) for digest in digests)


def _named_by_rules(config: Config) -> set[str]:
    digests = set()
    for name in {name for rule in config.rule for name in rule.run}:
        with contextlib.suppress(BundleInvalid):
            digests.add(load_bundle(name, config.node.bundles).digest)
    return digests
