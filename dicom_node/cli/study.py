"""``study list`` and ``study show``: what came in and everything that became of it."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from dicom_node.cli import output
from dicom_node.cli.common import command, configuration, group, index_of, with_json
from dicom_node.cli.story import tell
from dicom_node.errors import UsageError


def add(commands: Any) -> None:
    studies = group(commands, "study", "studies: list them, or tell the whole story of one")
    listing = command(studies, "list", "list studies, latest first", example="dicom-node study list --match Modality=MR --json")
    listing.add_argument("--match", action="append", default=[], metavar="KEYWORD=VALUE", help="DICOM matching, e.g. StudyDate=20260101-")
    listing.add_argument("--state", choices=["RECEIVING", "COMPLETE"])
    listing.add_argument("--limit", type=int, default=50)
    with_json(listing)
    listing.set_defaults(run=_list)
    show = command(
        studies,
        "show",
        "tell the whole story of a study",
        description="When and from whom it was received, why it is complete, which series was chosen for which model and\n"
        "why the others were not, which release ran how long on what, what was sent where and what was answered.",
    )
    show.add_argument("uid", metavar="UID", help="Study Instance UID; a series' or an instance's finds its study")
    with_json(show)
    show.set_defaults(run=_show)


def _filters(pairs: Iterable[str]) -> dict[str, str]:
    filters = {}
    for pair in pairs:
        keyword, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--match {pair}: write KEYWORD=VALUE")
        filters[keyword] = value
    return filters


def _list(arguments: argparse.Namespace) -> None:
    from storage import index

    with index_of(configuration(arguments)) as database, database.read() as connection:
        try:
            found = index.studies(connection, _filters(arguments.match), state=arguments.state, limit=arguments.limit)
        except ValueError as error:
            raise UsageError(str(error)) from error
    if arguments.json:
        output.data(found)
        return
    rows = [
        (each.study_uid, each.state, "\\".join(each.modalities), each.study_date, each.study_description, each.series, each.instances,
         output.moment(each.last_received_at), each.flag)
        for each in found
    ]  # fmt: skip
    output.table(("study", "state", "modalities", "date", "description", "series", "instances", "last received", "flag"), rows)


def _show(arguments: argparse.Namespace) -> None:
    from storage import index
    from storage.errors import NotFound
    from storage.timeline import timeline

    with index_of(configuration(arguments)) as database:
        with database.read() as connection:
            found = index.find_uid(connection, arguments.uid)
        if found is None:
            raise NotFound(f"no study, series or instance {arguments.uid}")
        story = timeline(database, found[1])
    if arguments.json:
        output.data(story)
    else:
        for text in tell(story):
            output.line(text)
