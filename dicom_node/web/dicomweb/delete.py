"""DELETE of studies, series and instances: only where ``[web] allow_delete`` says so, and for whoever has the right.

The standard has no such resource; it is what other archives offer under the same addresses. What goes leaves a tombstone that names who and
why: ``?reason=`` of the request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dicom_node.node import Node
from dicom_node.web.authentication import principal_of
from dicom_node.web.dicomweb.errors import HEADERS, BadRequest, NoSuchResource
from dicom_node.web.dicomweb.resources import PREFIX, resource_of, stored_instances
from storage.deletion import delete_instance, delete_series, delete_study
from storage.errors import NotFound

log = structlog.get_logger()

MAX_REASON: Final = 200


def routes(node: Node) -> list[BaseRoute]:
    """The routes that delete; none where it is not configured."""
    if not node.config.web.allow_delete:
        return []
    study = f"{PREFIX}/studies/{{study}}"
    series = f"{study}/series/{{series}}"
    return [Route(path, _deleter(node), methods=["DELETE"]) for path in (study, series, f"{series}/instances/{{instance}}")]


def _deleter(node: Node) -> Callable[[Request], Response]:
    def delete(request: Request) -> Response:
        resource = resource_of(request)
        who, reason = principal_of(request).name, request.query_params.get("reason") or "deleted over HTTP"
        if len(reason) > MAX_REASON or not reason.isprintable():
            raise BadRequest(f"reason may have {MAX_REASON} printable characters")
        stored_instances(node, resource)  # what is not where the address says is not found
        try:
            if resource.instance:
                report = delete_instance(node.archive, resource.instance, who=who, reason=reason)
            elif resource.series:
                report = delete_series(node.archive, resource.study, resource.series, who=who, reason=reason)
            else:
                report = delete_study(node.archive, resource.study, who=who, reason=reason)
        except NotFound:
            raise NoSuchResource("it was deleted meanwhile") from None
        log.info("web.deleted", who=who, study_uid=resource.study, instances=report.instances)
        return Response(status_code=204, headers={**HEADERS, "Cache-Control": "no-store"})

    return delete
