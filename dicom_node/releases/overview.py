"""Everything that is known of a release, read in one snapshot: what ``release show`` tells."""

from __future__ import annotations

from dataclasses import dataclass

from dicom_node.config import Config
from dicom_node.releases import gate
from dicom_node.releases.files import place_of, read_release
from dicom_node.releases.shadow import Agreement, summarise
from models.errors import BundleInvalid
from storage import release_watch, releases
from storage.database import Database
from storage.records import DriftRecord, EvaluationRecord, FlagRecord, ReleaseEventRecord, ReleaseRecord


@dataclass(frozen=True)
class Overview:
    """A release and its surroundings. ``problem`` says what is wrong with its files where they are not sound."""

    release: ReleaseRecord
    folder: str
    sound: bool
    problem: str
    events: tuple[ReleaseEventRecord, ...]
    evaluations: tuple[EvaluationRecord, ...]
    gate: gate.Verdict
    flags: tuple[FlagRecord, ...]
    shadow: Agreement
    drift: DriftRecord | None


def overview(config: Config, database: Database, reference: str) -> Overview:
    """Read all about the release that a person means."""
    with database.read() as connection:
        release = releases.find(connection, reference)
        evaluations = release_watch.evaluations(connection, release.pk)
        events = releases.events(connection, release.pk)
        flags = release_watch.flags(connection, release.pk)
        shadow = summarise(release_watch.shadow_runs(connection, release.pk))
        drift = release_watch.latest_drift(connection, release.pk)
    try:
        bundle, problem = read_release(config.releases_root, release.digest), ""
        verdict = gate.judge(gate.demands(config, bundle), evaluations)
    except BundleInvalid as error:
        problem = str(error)
        verdict = gate.Verdict(False, (), ("its files cannot be read",))
    return Overview(
        release=release,
        folder=str(place_of(config.releases_root, release.digest)),
        sound=not problem,
        problem=problem,
        events=tuple(events),
        evaluations=tuple(evaluations),
        gate=verdict,
        flags=tuple(flags),
        shadow=shadow,
        drift=drift,
    )
