"""Which bundle a rule's word means.

A rule names a model. Its deployed release is meant, whichever that is when a run is planned. A name of which no release was ever deployed
means the bundle of that name in a folder: one in [node] bundles, or one that ships. From the first deployment on only releases count for
a name: with none deployed nothing is run, and no folder takes a retired release's place.
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog
from sqlalchemy import Connection

from dicom_node.config import Config
from dicom_node.releases.files import read_release
from models.bundle import Bundle, load_bundle
from models.errors import BundleInvalid
from storage import releases
from storage.database import Database
from storage.records import ReleaseRecord

log = structlog.get_logger()


@dataclass(frozen=True)
class Chosen:
    """A bundle to run, and the release that it is of; None for one of a folder."""

    bundle: Bundle
    release: ReleaseRecord | None = None

    @property
    def release_pk(self) -> int | None:
        return self.release.pk if self.release is not None else None


@dataclass(frozen=True)
class Resolution:
    """What a name means now. ``problem``: what has to be repaired; ``unknown``: there is nothing of that name at all; ``idle``: why nothing
    is run on purpose."""

    name: str
    live: Chosen | None
    shadows: tuple[Chosen, ...] = ()
    problem: str = ""
    idle: str = ""
    unknown: bool = False


def resolve(config: Config, database: Database | None, name: str) -> Resolution:
    """Find out what a name means now. Without an index (of a node that was never started) there are folders only."""
    folder, problem = _of_folder(config, name)
    name_of = folder.name if folder is not None else name  # a folder may be called otherwise than its bundle
    known, released = _releases(database, name_of) if database is not None else ([], False)
    shadows = tuple(chosen for each in known if each.state == releases.State.SHADOW and (chosen := _shadow(config, each)) is not None)
    if not released:
        if folder is None and shadows:
            return Resolution(name_of, None, shadows, idle=f"no release of {name_of} was deployed yet; {len(shadows)} look on")
        if folder is None and known:
            problem = f"no release of {name_of} was deployed yet; {len(known)} known: dicom-node release list {name_of}"
        return Resolution(name_of, Chosen(folder) if folder is not None else None, shadows, problem, unknown=bool(problem) and not known)
    deployed = next((each for each in known if each.state == releases.State.DEPLOYED), None)
    if deployed is None:
        return Resolution(name_of, None, shadows, idle=f"no release of {name_of} is deployed any more")
    try:
        return Resolution(name_of, Chosen(read_release(config.releases_root, deployed.digest), deployed), shadows)
    except BundleInvalid as error:
        return Resolution(name_of, None, shadows, str(error))


def resolve_release(config: Config, database: Database, digest: str) -> Resolution:
    """One release, whatever its state, as what its name means."""
    with database.read() as connection:
        release = releases.by_digest(connection, digest)
    try:
        return Resolution(release.name, Chosen(read_release(config.releases_root, digest), release))
    except BundleInvalid as error:
        return Resolution(release.name, None, problem=str(error))


def bundle_of_run(config: Config, name: str, release_pk: int | None, digest: str) -> Bundle:
    """The bundle that a run was planned with.

    Raises
    ------
    BundleInvalid
        It is not there any more, or has changed.
    """
    if release_pk is not None:
        return read_release(config.releases_root, digest)
    bundle = load_bundle(name, config.node.bundles)
    if bundle.digest != digest:
        raise BundleInvalid(
            f"bundle {name} has changed since the run was queued: its release digest is {bundle.digest[:12]}, "
            f"the run's {digest[:12]}; put the release back, or complete the study again"
        )
    return bundle


def evaluation_line(connection: Connection, release_pk: int) -> str:
    """The evaluation by which a release was deployed, as its results carry it; empty for one that never was."""
    told = [event.detail.get("headline", "") for event in releases.events(connection, release_pk) if event.after == releases.State.DEPLOYED]
    return next((str(line) for line in reversed(told) if line), "")


def _releases(database: Database, name: str) -> tuple[list[ReleaseRecord], bool]:
    """All releases of a name, and whether one was ever deployed."""
    with database.read() as connection:
        known = releases.every(connection, name)
        return known, bool(known) and releases.was_ever_deployed(connection, name)


def _of_folder(config: Config, name: str) -> tuple[Bundle | None, str]:
    try:
        return load_bundle(name, config.node.bundles), ""
    except BundleInvalid as error:
        return None, str(error)


def _shadow(config: Config, release: ReleaseRecord) -> Chosen | None:
    try:
        return Chosen(read_release(config.releases_root, release.digest), release)
    except BundleInvalid as error:
        log.error("release.unreadable", name=release.name, release=release.digest[:12], why=str(error))
        return None
