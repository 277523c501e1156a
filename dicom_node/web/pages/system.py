"""The node itself: disk, devices, what came and went, what checks find, and who did what."""

from __future__ import annotations

import shutil
import time
from typing import Any, Final

from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

import dicom_node
from dicom_node.accounts import ADMINISTER, OPERATE, READ
from dicom_node.checks import Checked, check_all
from dicom_node.node import Node
from dicom_node.web.authentication import principal_of
from dicom_node.web.page_route import PageRoute
from dicom_node.web.pages.site import page
from storage import metrics, throughput
from storage.schema import audit

PATH: Final = "/system"
AUDITED: Final = 50


def routes(node: Node) -> list[BaseRoute]:
    """The addresses of the system's page."""
    system = _System(node)
    return [PageRoute(PATH, system.show, right=READ), PageRoute(f"{PATH}/check", system.check, right=OPERATE, methods=["POST"])]


class _System:
    def __init__(self, node: Node) -> None:
        self._node = node

    def show(self, request: Request) -> Response:
        """How the node stands."""
        return self._page(request, [])

    def check(self, request: Request) -> Response:
        """The same with what ``dicom-node check`` finds, peers echoed."""
        return self._page(request, list(check_all(self._node.config)))

    def _page(self, request: Request, checked: list[Checked]) -> Response:
        now, config = time.time(), self._node.config
        disk = shutil.disk_usage(config.archive_root)
        trail: list[Any] = []
        with self._node.database.read() as connection:
            hours = throughput.hours(connection, now)
            if principal_of(request).may(ADMINISTER):
                trail = list(connection.execute(select(audit).order_by(audit.c.pk.desc()).limit(AUDITED)))
        found = metrics.collect(self._node.database, now)
        return page(
            request, "system.html", disk=disk, config=config, hours=hours, found=found, checked=checked, trail=trail,
            oldest=max(found.oldest_job.values(), default=None), version=dicom_node.__version__, dialect=self._node.database.dialect,
        )  # fmt: skip
