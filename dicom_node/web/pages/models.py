"""Models: which release answers, what it was measured by, whether its inputs drift, and what the radiologists say of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from dicom_node.accounts import READ
from dicom_node.node import Node
from dicom_node.releases.overview import overview
from dicom_node.web.dicomweb.errors import NoSuchResource
from dicom_node.web.page_route import PageRoute
from dicom_node.web.pages.forms import row_of
from dicom_node.web.pages.site import page
from storage import feedback, recalls, release_watch, releases, throughput
from storage.errors import NotFound
from storage.feedback import Agreement
from storage.records import DriftRecord, EvaluationRecord, FlagRecord, ReleaseRecord
from storage.throughput import Ran

PATH: Final = "/models"
ORDER: Final = ("deployed", "shadow", "candidate", "retired")


@dataclass(frozen=True)
class Row:
    """A release and how it does."""

    release: ReleaseRecord
    ran: Ran
    evaluation: EvaluationRecord | None
    flags: list[FlagRecord]
    drift: DriftRecord | None
    agreement: Agreement
    recalled: bool


def routes(node: Node) -> list[BaseRoute]:
    """The addresses of models."""
    models = _Models(node)
    return [PageRoute(PATH, models.list, right=READ), PageRoute(f"{PATH}/{{release:int}}", models.show, right=READ)]


class _Models:
    def __init__(self, node: Node) -> None:
        self._node = node

    def list(self, request: Request) -> Response:
        """All releases by model, the one in use first."""
        by_name: dict[str, list[Row]] = {}
        with self._node.database.read() as connection:
            for release in releases.every(connection):
                by_name.setdefault(release.name, []).append(_row(connection, release))
        for rows in by_name.values():
            rows.sort(key=lambda row: (ORDER.index(row.release.state), -row.release.pk))
        used = {name for rule in self._node.config.rule for name in rule.run}
        return page(request, "models.html", models=sorted(by_name.items()), used=used, unreleased=sorted(used - set(by_name)))

    def show(self, request: Request) -> Response:
        """One release, with its history."""
        pk = row_of(request, "release")
        try:
            with self._node.database.read() as connection:
                row = _row(connection, releases.get(connection, pk))
        except NotFound as error:
            raise NoSuchResource(str(error)) from None
        return page(request, "model.html", row=row, all=overview(self._node.config, self._node.database, row.release.digest))


def _row(connection: Any, release: ReleaseRecord) -> Row:
    evaluations = release_watch.evaluations(connection, release.pk)
    return Row(
        release,
        throughput.ran(connection, release.digest),
        evaluations[0] if evaluations else None,
        [flag for flag in release_watch.flags(connection, release.pk) if flag.cleared_at is None],
        release_watch.latest_drift(connection, release.pk),
        feedback.agreement(connection, release.digest),
        recalls.is_recalled(connection, release.digest),
    )
