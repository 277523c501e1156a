"""Refusals as a page for whoever asked for a page; programs get the line of JSON that they always got."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from dicom_node.web.dicomweb.errors import answer
from dicom_node.web.dicomweb.errors import refused as refused_in_json
from dicom_node.web.pages.site import page, speaks
from dicom_node.web.pages.words import N_

PROGRAMS: Final = ("/api", "/dicom-web", "/wado", "/viewer", "/static", "/metrics", "/healthz", "/readyz", "/ws")
KEPT_HEADERS: Final = ("retry-after", "allow", "www-authenticate")
TITLES: Final = {
    400: N_("That request was not understood"),
    401: N_("Please sign in"),
    403: N_("Your account may not do that"),
    404: N_("There is nothing here"),
    405: N_("That cannot be done here"),
    409: N_("Something changed in the meantime"),
    413: N_("That was too large"),
    503: N_("The node is busy"),
}


def wants_page(request: Request) -> bool:
    """Whether a browser asks for something to look at."""
    path = request.url.path
    return "text/html" in request.headers.get("accept", "") and not any(path == each or path.startswith(f"{each}/") for each in PROGRAMS)


def refused(request: Request, error: Exception) -> Response:
    """The answer to an error, for every route of the web application."""
    answer = refused_in_json(request, error)
    if not wants_page(request):
        return answer
    why = str(getattr(error, "detail", None) or error)
    kept = {name: value for name, value in answer.headers.items() if name in KEPT_HEADERS}
    return error_page(request, answer.status_code, why, kept)


def error_page(request: Request, status: int, why: str, headers: dict[str, str] | None = None, *, spoken: str = "en") -> Response:
    """A refusal with what to do next; ``spoken``: the language of its reason (BCP 47)."""
    why = "" if why == HTTPStatus(status).phrase else why
    title = TITLES.get(status, N_("That did not work"))
    return page(request, "error.html", status=status, headers=headers, code=status, title=title, why=why, spoken=spoken)


def conflict(request: Request, why: str) -> Response:
    """Something changed since the page was made; ``why`` is in the reader's language."""
    return error_page(request, 409, why, spoken=speaks(request).tag) if wants_page(request) else answer(409, why)
