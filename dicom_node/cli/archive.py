"""``archive import | export | reindex | verify | delete``, ``backup`` and ``restore``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicom_node.cli import output
from dicom_node.cli.common import command, configuration, group, quiet_node, who, with_json, with_reason
from dicom_node.errors import EXIT_FAILED, EXIT_OK, CommandFailed, UsageError

if TYPE_CHECKING:
    from dicom_node.node import Node


def add(commands: Any) -> None:
    archive = group(commands, "archive", "the stored bytes: import, export, reindex, verify, delete")
    _add_import(archive)
    _add_export(archive)
    reindex = command(
        archive,
        "reindex",
        "rebuild the index from the bytes alone, into an empty database",
        description="Rebuild the index from the segments. The database of the configuration must be empty or absent, and the node must "
        "not be running. Nothing is completed, run or delivered.",
    )
    with_json(reindex)
    reindex.set_defaults(run=_reindex)
    verify = command(archive, "verify", "compare every instance's bytes with its digest, and disk with index in both directions")
    verify.add_argument("--study", metavar="UID", help="only this study")
    verify.add_argument("--quick", action="store_true", help="compare places and lengths, do not read the data")
    with_json(verify)
    verify.set_defaults(run=_verify)
    delete = command(archive, "delete", "delete a study or an instance for good, leaving a tombstone")
    delete.add_argument("uid", metavar="UID", help="Study or SOP Instance UID")
    with_reason(delete)
    delete.set_defaults(run=_delete)
    backup = command(commands, "backup", "write a consistent backup while the node runs", example="dicom-node backup /mnt/backup/today")
    backup.add_argument("destination", type=Path, metavar="DIR", help="new or empty folder")
    backup.add_argument("--link", action="store_true", help="hard links for sealed segments: quick, on the same disk")
    with_json(backup)
    backup.set_defaults(run=_backup)
    restore = command(commands, "restore", "make archive and index of the configuration from a backup; neither may exist yet")
    restore.add_argument("source", type=Path, metavar="DIR")
    with_json(restore)
    restore.set_defaults(run=_restore)


def _add_import(archive: Any) -> None:
    parser = command(
        archive,
        "import",
        "store DICOM files from folders",
        description="Store every DICOM file below the folders. Imported studies are not run unless --run-rules is given.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    parser.add_argument("--run-rules", action="store_true", help="route the imported studies as if they had just been completed")
    with_json(parser)
    parser.set_defaults(run=_import)


def _add_export(archive: Any) -> None:
    parser = command(archive, "export", "write studies as plain files", example="dicom-node archive export ./out --study 1.2.3")
    parser.add_argument("directory", type=Path, metavar="DIR")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--study", action="append", metavar="UID", help="may be given several times")
    which.add_argument("--all", action="store_true", help="every study")
    with_json(parser)
    parser.set_defaults(run=_export)


def _report(arguments: argparse.Namespace, report: Any, sentence: str) -> None:
    if arguments.json:
        output.data(report)
    else:
        output.line(sentence)


def _import(arguments: argparse.Namespace) -> int:
    from dicom_node.node import prepare
    from storage.importer import import_files

    config = configuration(arguments)
    absent = [str(path) for path in arguments.paths if not path.exists()]
    if absent:
        raise UsageError(f"there is no {', '.join(absent)}")
    prepare(config)
    with quiet_node(config) as node:
        report = import_files(node.archive, arguments.paths, progress=output.counter())
        if arguments.run_rules:
            _route(node, report.study_uids)
    outcomes = ", ".join(f"{count} {name}" for name, count in sorted(report.outcomes.items())) or "nothing found"
    _report(arguments, report, f"{outcomes}; {len(report.study_uids)} studies")
    return EXIT_FAILED if report.failed else EXIT_OK


def _route(node: Node, study_uids: Sequence[str]) -> None:
    from storage import index
    from storage.jobs import JobSpec

    queue = node.queue()
    with node.database.begin() as connection:
        for uid in study_uids:
            study = index.study_record(connection, uid)
            if study is not None:
                payload = {"study_uid": uid, "revision": study.revision, "previous_revision": study.completed_revision}
                key = f"route:{uid}:{study.revision}"
                queue.enqueue(connection, JobSpec(kind="route", queue="route", dedupe_key=key, payload=payload, study_uid=uid))
    node.ring("route")


def _export(arguments: argparse.Namespace) -> int:
    from storage import index
    from storage.exporter import export

    with quiet_node(configuration(arguments)) as node:
        with node.database.read() as connection:
            uids = arguments.study or [each.study_uid for each in index.studies(connection, limit=10_000_000)]
            unknown = [uid for uid in arguments.study or () if index.study_record(connection, uid) is None]
        if unknown:
            raise CommandFailed(f"no study {', '.join(unknown)}")
        report = export(node.archive, arguments.directory, uids, progress=output.counter())
    _report(arguments, report, f"{report.instances} instances, {output.size(report.size)}, in {report.directory}")
    for uid, why in report.failed:
        output.note(f"not written: {uid}: {why}")
    return EXIT_FAILED if report.failed else EXIT_OK


def _reindex(arguments: argparse.Namespace) -> int:
    from storage.database import open_database
    from storage.reindex import reindex

    config = configuration(arguments)
    database = open_database(config.database_url, create=True)
    try:
        report = reindex(config.archive_root, database, progress=output.counter())
    finally:
        database.close()
    _report(
        arguments,
        report,
        f"{report.instances} instances in {report.studies} studies, {report.deleted} deleted, {len(report.damaged)} damaged",
    )
    return EXIT_FAILED if report.damaged else EXIT_OK


def _verify(arguments: argparse.Namespace) -> int:
    from storage.integrity import verify

    with quiet_node(configuration(arguments)) as node:
        report = verify(node.archive, study_uid=arguments.study, read_data=not arguments.quick, progress=output.counter())
    _report(
        arguments, report, f"{report.checked} instances, {output.size(report.size)}: {'all as received' if report.ok else 'NOT in order'}"
    )
    if not arguments.json:
        for damage in report.damaged:
            output.line(f"damaged\t{damage.sop_uid}\t{damage.segment}\t{damage.reason}")
        for stray in report.strays:
            output.line(f"bytes without a row\t{stray.segment}\t{stray.member_offset}\t{stray.what}")
        for name in (*report.unknown_files, *report.missing_quarantine):
            output.line(f"file\t{name}")
    return EXIT_OK if report.ok else EXIT_FAILED


def _delete(arguments: argparse.Namespace) -> None:
    from storage import index
    from storage.deletion import delete_instance, delete_study

    with quiet_node(configuration(arguments)) as node:
        with node.database.read() as connection:
            found = index.find_uid(connection, arguments.uid)
        if found is None or found[0] == "series":
            raise CommandFailed(f"no study or instance {arguments.uid}")
        delete = delete_study if found[0] == "study" else delete_instance
        report = delete(node.archive, arguments.uid, who=who(), reason=arguments.reason)
    output.line(f"deleted {report.instances} instances, {output.size(report.size)}")


def _backup(arguments: argparse.Namespace) -> int:
    from dicom_node.releases import history
    from dicom_node.releases.files import FOLDER
    from storage.backup import backup

    with quiet_node(configuration(arguments)) as node:
        report = backup(node.archive, arguments.destination, link=arguments.link, progress=output.counter())
        history.copy_to(node.config.releases_root, arguments.destination / FOLDER)
    _report(arguments, report, f"{report.instances} instances, {output.size(report.size)}, in {report.destination}")
    for name in report.missing:
        output.note(f"the index names a file that is not there: {name}")
    return EXIT_FAILED if report.missing else EXIT_OK


def _restore(arguments: argparse.Namespace) -> None:
    from dicom_node.releases import history
    from dicom_node.releases.files import FOLDER
    from storage.backup import restore

    config = configuration(arguments)
    config.node.data_dir.mkdir(parents=True, exist_ok=True)
    report = restore(arguments.source, config.archive_root, config.database_url, progress=output.counter())
    history.copy_to(arguments.source / FOLDER, config.releases_root)
    _report(arguments, report, f"restored {report.instances} instances, {output.size(report.size)}; next: dicom-node check")
