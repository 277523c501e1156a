"""The page /conformance: what this node conforms to, generated when it is asked for."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dicom_node.node import Node


def route(node: Node) -> Route:
    """The page's route; it speaks of all routes of the application that it is in."""

    def page(request: Request) -> Response:
        from dicom_node.conformance.document import CONTENT_SECURITY_POLICY, html
        from dicom_node.conformance.sources import registered
        from dicom_node.conformance.statement import statement

        text = html(statement(registered(node, request.app.routes)))
        headers = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": CONTENT_SECURITY_POLICY}
        return Response(text, headers=headers)

    return Route("/conformance", page)
