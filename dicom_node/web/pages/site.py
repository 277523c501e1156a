"""How every page is made: Jinja2 with escaping on, a strict Content-Security-Policy, and static files whose address changes with them.

A page's module calls `page(request, "name.html", ...)`. In templates: ``_()`` and ``ngettext``, the filters ``moment``, ``clock``, ``ago``,
``duration``, ``dicom_date``, ``number``, ``size``, ``word`` (a state in the reader's language) and ``tone`` (its colour),
``static("site.css")``, ``principal``, ``csrf_token``, ``menu``, ``theme``.
"""

from __future__ import annotations

import functools
import hashlib
import time
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute

from dicom_node.web.dicomweb.errors import NoSuchResource
from dicom_node.web.page_route import PageRoute
from dicom_node.web.pages import menu, reasons, words
from dicom_node.web.pages.language import LANGUAGES, Language, language, language_of

STATIC: Final = "/static"
FOLDER: Final = Path(__file__).parent / "static"
TYPES: Final = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
THEME_COOKIE: Final = "theme"
THEMES: Final = ("auto", "light", "dark")
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; font-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "private, no-store",
    "Referrer-Policy": "same-origin",
    "Vary": "Cookie, Accept-Language",
}


def page(request: Request, name: str, /, *, status: int = 200, headers: dict[str, str] | None = None, **values: Any) -> Response:
    """A template as the answer to a request, in the reader's language and theme."""
    return HTMLResponse(render(request, name, **values), status_code=status, headers={**HEADERS, **(headers or {})})


def render(request: Request, name: str, /, **values: Any) -> str:
    """A template, or a fragment of one, as text."""
    state = request.scope.setdefault("state", {})
    principal = state.get("principal")
    spoken = language_of(request, getattr(principal, "language", None))
    theme = getattr(principal, "theme", None) or request.cookies.get(THEME_COOKIE, "auto")
    return (
        _environment(spoken.code)
        .get_template(name)
        .render(
            principal=principal,
            csrf_token=state.get("csrf_token", ""),
            menu=menu.entries_for(principal),
            path=request.url.path,
            theme=theme if theme in THEMES else "auto",
            **values,
        )
    )


def speaks(request: Request) -> Language:
    """The language that a page of this request is written in."""
    return language_of(request, getattr(request.scope.get("state", {}).get("principal"), "language", None))


@functools.cache
def _environment(code: str) -> Environment:
    # A page is looked at by people who decide about patients: what a template misses is an error, never an empty place.
    made = Environment(
        loader=PackageLoader("dicom_node.web.pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
    )  # fmt: skip
    spoken = language(code)
    made.install_gettext_callables(spoken.gettext, spoken.ngettext, newstyle=True)  # type: ignore[attr-defined]
    made.filters["reason"] = lambda text: _reason(str(text), spoken)
    made.globals.update(language=spoken, languages=LANGUAGES, themes=THEMES, static=static_url, now=time.time)
    made.filters.update(
        moment=spoken.moment,
        clock=spoken.clock,
        ago=lambda at: spoken.duration(None if at is None else time.time() - at),
        duration=spoken.duration,
        dicom_date=spoken.dicom_date,
        number=spoken.number,
        size=spoken.size,
        word=lambda state: spoken.gettext(words.WORDS.get(str(state), str(state))),
        tone=lambda state: words.tone(str(state)),
    )
    return made


def _reason(text: str, language: Language) -> Markup:
    """One of the node's own sentences, with the language that it is in; what was said stands in its title."""
    shown, tag = reasons.spoken(text, language)
    if tag == "en":
        return Markup('<span lang="en" dir="auto">{}</span>').format(text)
    return Markup('<span dir="auto" title="{}">{}</span>').format(text, shown)


# --- static files


@functools.cache
def version() -> str:
    """What all static files are together: part of their addresses, so that a browser may keep them for ever."""
    digest = hashlib.sha256()
    for file in sorted(FOLDER.iterdir()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def static_url(name: str) -> str:
    """The address of a static file."""
    return f"{STATIC}/{version()}/{name}"


def routes() -> list[BaseRoute]:
    """The static files' addresses; they are open to everybody."""
    return [PageRoute(f"{STATIC}/{{version}}/{{name}}", _static, right=None)]


def _static(request: Request) -> Response:
    path = FOLDER / request.path_params["name"]
    if request.path_params["name"] not in {file.name for file in FOLDER.iterdir()} or path.suffix not in TYPES:
        raise NoSuchResource("there is no such file")
    current = request.path_params["version"] == version()
    kept = "public, max-age=31536000, immutable" if current else "no-cache"
    headers = {"Cache-Control": kept, "Content-Security-Policy": "default-src 'none'"}
    return Response(path.read_bytes(), media_type=TYPES[path.suffix], headers=headers)
