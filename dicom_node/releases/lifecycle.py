"""What a person does with releases. Each step is one transaction; files are there before the row that speaks of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dicom_node.config import Config
from dicom_node.errors import CommandFailed
from dicom_node.releases import gate
from dicom_node.releases.files import keep, read_release
from dicom_node.releases.history import written_down
from dicom_node.releases.report import Report, plain_metrics, read_report
from models.bundle import Bundle
from models.weights import resolve_weights
from storage import recalls, release_watch, releases
from storage.database import Database
from storage.records import EvaluationRecord, ReleaseRecord


@dataclass(frozen=True)
class Added:
    """A release that was added, or was there already."""

    release: ReleaseRecord
    new: bool
    evaluation: EvaluationRecord | None


@dataclass(frozen=True)
class Deployed:
    """A release that is in use now, the one that was, and the figures that let it in."""

    release: ReleaseRecord
    replaced: ReleaseRecord | None
    judged: tuple[gate.Judged, ...] = ()


def add(config: Config, database: Database, source: Path, report: Path | None, *, who: str, reason: str, now: float) -> Added:
    """Take a bundle's files in as a release, with an evaluation where there is one.

    Raises
    ------
    BundleInvalid, CommandFailed
        Bundle or report cannot be used; nothing is recorded then.
    """
    read = read_report(report) if report is not None else None
    bundle = keep(source, config.releases_root)
    if read is not None:
        _belongs(read[0], bundle)
    with written_down(database, config.releases_root) as connection:
        release, new = releases.add(
            connection, name=bundle.name, version=bundle.version, digest=bundle.digest, actor=who, reason=reason, now=now
        )
        kept = None
        if read is not None:
            kept = release_watch.add_evaluation(
                connection, release.pk, read[1], source="report", data=read[0].data.name, split=read[0].data.split,
                items=read[0].data.items, data_fingerprint=read[0].data.fingerprint, metrics=plain_metrics(read[0]), actor=who, now=now,
            )  # fmt: skip
    return Added(release, new, kept)


def _belongs(report: Report, bundle: Bundle) -> None:
    of = report.bundle
    if of.digest != bundle.digest:
        raise CommandFailed(
            f"the report is not of this bundle: it was made of {of.name} {of.version} with the release digest {of.digest[:12]}, "
            f"and this is {bundle.name} {bundle.version} with {bundle.digest[:12]}"
        )


def shadow(config: Config, database: Database, reference: str, *, who: str, reason: str, now: float) -> ReleaseRecord:
    """Let a release look on."""
    with written_down(database, config.releases_root) as connection:
        release = releases.find(connection, reference)
        recalls.refuse_recalled(connection, release)
        return releases.shadow(connection, release.pk, actor=who, reason=reason, now=now)


def retire(config: Config, database: Database, reference: str, *, who: str, reason: str, now: float) -> ReleaseRecord:
    """Take a release out of use."""
    with written_down(database, config.releases_root) as connection:
        return releases.retire(connection, releases.find(connection, reference).pk, actor=who, reason=reason, now=now)


def deploy(config: Config, database: Database, reference: str, *, who: str, reason: str, now: float) -> Deployed:
    """Put a release into use, if its evaluations let it.

    Raises
    ------
    CommandFailed
        They do not; with each figure and what is asked for.
    ReleaseConflict
        It was recalled.
    BundleInvalid, WeightsMissing, WeightsMismatch
        Its files are not what they were, or weights that it refers to are not here.
    """
    with database.read() as connection:
        release = releases.find(connection, reference)
    bundle = read_release(config.releases_root, release.digest)
    resolve_weights(bundle, config.node.weights)
    with written_down(database, config.releases_root) as connection:
        recalls.refuse_recalled(connection, release)
        verdict = gate.judge(gate.demands(config, bundle), release_watch.evaluations(connection, release.pk))
        if not verdict.passed or verdict.evaluation is None:
            raise CommandFailed(f"{release.name} {release.version} ({release.digest[:12]}) is not deployed: {verdict.why_not}")
        detail = {"judged": [str(each) for each in verdict.judged], "headline": verdict.headline}
        now_deployed, replaced = releases.deploy(
            connection, release.pk, actor=who, reason=reason, evaluation_pk=verdict.evaluation.pk, detail=detail, now=now
        )
    return Deployed(now_deployed, replaced, verdict.judged)


def rollback(config: Config, database: Database, name: str, *, who: str, reason: str, now: float) -> Deployed:
    """Put the release back that was deployed before the present one. It passed the gate then, and is not asked again."""
    with written_down(database, config.releases_root) as connection:
        release, replaced = releases.rollback(connection, name, actor=who, reason=reason, now=now)
        recalls.refuse_recalled(connection, release)
        resolve_weights(read_release(config.releases_root, release.digest), config.node.weights)  # else nothing is changed
    return Deployed(release, replaced)
