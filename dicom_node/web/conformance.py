"""The page /conformance: what this node conforms to, generated when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dicom_node.node import Node


def route(node: Node, others: Sequence[BaseRoute]) -> Route:
    """The page's route; ``others`` are the routes that it speaks of beside itself."""

    def page(request: Request) -> Response:
        from dicom_node.conformance.document import CONTENT_SECURITY_POLICY, html
        from dicom_node.conformance.sources import registered
        from dicom_node.conformance.statement import statement

        text = html(statement(registered(node, [*others, made])))
        headers = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": CONTENT_SECURITY_POLICY}
        return Response(text, headers=headers)

    made = Route("/conformance", page)
    return made
