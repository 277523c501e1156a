"""The route of something that people look at: no program's interface, so that OpenAPI and the conformance statement leave it out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from dicom_node.accounts import READ
from dicom_node.web.dicomweb.errors import WebError


class Forbidden(WebError, status=403):
    """Whoever asks has not the right."""


class PageRoute(Route):
    """A page, a fragment of one, or what its forms are sent to. ``right``: what it needs; None: it is open to everybody."""

    def __init__(self, path: str, endpoint: Callable[..., Any], *, right: str | None = READ, methods: Sequence[str] = ("GET",)) -> None:
        super().__init__(path, endpoint, methods=list(methods))
        self.right = right

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, where the right is there.

        Raises
        ------
        Forbidden
            It is not.
        """
        principal = scope.get("state", {}).get("principal")
        if self.right is not None and (principal is None or not principal.may(self.right)):
            why = f"this needs the right to {self.right}"
            if principal is not None:
                await scope["state"]["note_refusal"](scope["client"][0] if scope.get("client") else "", f"'{principal.name}': {why}")
            raise Forbidden(why)
        await super().handle(scope, receive, send)
