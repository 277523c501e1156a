"""The route of something that people look at: no program's interface, so that OpenAPI and the conformance statement leave it out."""

from __future__ import annotations

from starlette.routing import Route


class PageRoute(Route):
    """A page, a fragment of one, or what its forms are sent to."""
