"""Recall of a release: it is retired, its results are marked, and the peers that have them get a rejection note.

Run by run, each in a transaction of its own: a recall that was cut short is done again, and goes on where it ended.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import structlog
from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import Connection

import dicom_node
from dicom_node.errors import CommandFailed
from dicom_node.node import Node
from dicom_node.releases.history import written_down
from dicom_node.results.context import EncodedObject
from dicom_node.results.rejection import rejection_note
from dicom_node.results.uids import device_uid
from storage import recalls, releases, runs
from storage.errors import Damaged, NotFound, QuarantineConflict
from storage.records import RunRecord

log = structlog.get_logger()


@dataclass(frozen=True)
class Recalled:
    """What became of one run. ``note``: the rejection note; ``new``: by this call, not by one before."""

    run: int
    study_uid: str
    state: str
    note: str | None
    peers: tuple[str, ...]
    new: bool


@dataclass(frozen=True)
class Recall:
    """A recalled release and every run that it touched."""

    name: str
    version: str
    digest: str
    runs: tuple[Recalled, ...]

    @property
    def studies(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(each.study_uid for each in self.runs))


def recall(node: Node, reference: str, *, who: str, reason: str, now: float) -> Recall:
    """Recall a release, or the bundle of a folder that runs were made with.

    Raises
    ------
    NotFound, CommandFailed
        There is none, or the reference may mean several.
    """
    name, version, digest = _which(node, reference)
    _retire(node, digest, who, reason, now)
    with node.database.read() as connection:
        found = recalls.touched(connection, digest)
    done = tuple(_recall(node, each, who, reason, now) for each in found)
    log.warning("release.recalled", release=digest[:12], runs=len(done), notes=sum(each.note is not None for each in done))
    return Recall(name, version, digest, done)


def _which(node: Node, reference: str) -> tuple[str, str, str]:
    with node.database.read() as connection:
        try:
            release = releases.find(connection, reference)
        except NotFound:
            name, _, which = reference.partition("@")
            found = recalls.digests_of(connection, name, which)
            if not found:
                raise
            if len(found) > 1:
                choices = ", ".join(f"{name}@{digest[:12]} ({version})" for digest, version in found.items())
                raise CommandFailed(f"'{reference}' ran in several versions; say which: {choices}") from None
            ((digest, version),) = found.items()
            return name, version, digest
    return release.name, release.version, release.digest


def _retire(node: Node, digest: str, who: str, reason: str, now: float) -> None:
    """First of all, so that no study gets it while its results are taken back. The bundle of a folder has no state to change."""
    with written_down(node.database, node.config.releases_root) as connection:
        try:
            release = releases.by_digest(connection, digest)
        except NotFound:
            return
        if release.state != releases.State.RETIRED:
            releases.retire(connection, release.pk, actor=who, reason=f"{recalls.RETIRED_FOR}{reason}", now=now)


def _recall(node: Node, run: RunRecord, who: str, reason: str, now: float) -> Recalled:
    if run.recalled_at is not None:
        return Recalled(run.pk, run.study_uid, run.state, None, (), False)
    headers = _headers(node, run)
    note = _note(node, run, headers, reason, now) if headers else None
    peers: list[str] = []

    def mark(connection: Connection) -> None:
        peers.extend(recalls.holders(connection, run.pk))
        marked = recalls.mark(
            connection, node.queue(), run, actor=who, reason=reason, note=note.sop_instance_uid if note else None, peers=peers,
            attempts=node.config.delivery.attempts, now=now,
        )  # fmt: skip
        if not marked:
            raise QuarantineConflict(f"run {run.pk} was recalled at this moment by somebody else")

    new = True
    try:
        if note is None:
            with node.database.begin() as connection:
                mark(connection)
        else:
            node.archive.store_emitted([note.emitted(run.run_key)], in_transaction=mark)
    except QuarantineConflict:
        new = False
    if new:
        for peer in peers:
            node.ring(f"deliver-{peer}")
    with node.database.read() as connection:
        state = runs.get_run(connection, run.pk).state
    return Recalled(run.pk, run.study_uid, state, note.sop_instance_uid if note else None, tuple(peers), new)


def _headers(node: Node, run: RunRecord) -> list[Dataset]:
    """Headers of a run's objects, but for those that were deleted."""
    with node.database.read() as connection:
        made = runs.objects_of(connection, run.run_key)
    headers: list[Dataset] = []
    for uid in made:
        with suppress(NotFound, Damaged):
            headers.append(dcmread(node.archive.open_instance(uid).file(), stop_before_pixels=True))
    return headers


def _note(node: Node, run: RunRecord, headers: list[Dataset], reason: str, now: float) -> EncodedObject:
    return rejection_note(
        headers,
        run_key=run.run_key,
        device_uid=device_uid(node.archive_id, run.release_digest),
        station=node.config.node.ae_title,
        software_version=dicom_node.__version__,
        reason=reason,
        at=now,
    )
