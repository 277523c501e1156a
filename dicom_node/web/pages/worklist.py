"""The radiologist's worklist: what is urgent on top, found by what one types, in the order one wants, and who reads what."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from typing import Any, Final
from urllib.parse import urlencode

from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute

from dicom_node.accounts import REPORT
from dicom_node.node import Node
from dicom_node.viewer.installation import installed
from dicom_node.web.authentication import principal_of
from dicom_node.web.dicomweb.errors import BadRequest, NoSuchResource
from dicom_node.web.page_route import PageRoute
from dicom_node.web.pages.errors import conflict
from dicom_node.web.pages.preferences import local_path
from dicom_node.web.pages.site import HEADERS, page, render, speaks
from dicom_node.web.pages.viewer_links import first_series, viewer_url
from dicom_node.web.pages.words import N_
from storage import worklist, worklist_upkeep
from storage.visibility import Limits
from storage.worklist import MOST_COUNTED, OPEN, ORDERS, QUICK, READING, REVIEWED, Entry, FoundMeanwhile, Page, ReadByOther, Search, Seen

PATH: Final = "/"
ROWS: Final = "/worklist/rows"
LONGEST_SEARCH: Final = 200
CHANGES_AT_ONCE: Final = 3  # batches that a page brings in before it shows what there is; what is left comes in the background
DAY: Final = 86400.0
SINCE: Final = {"": None, "day": DAY, "week": 7 * DAY, "month": 30 * DAY}
SINCE_WORDS: Final = {"": N_("Any time"), "day": N_("Last 24 hours"), "week": N_("Last 7 days"), "month": N_("Last 30 days")}
QUICK_WORDS: Final = {
    "": N_("All"),
    "critical": N_("Critical"),
    "urgent": N_("Urgent or critical"),
    "unread": N_("Unread"),
    "running": N_("Being analysed"),
    "failed": N_("Analysis failed"),
    "undelivered": N_("Not delivered"),
}
COLUMNS: Final = {
    "urgency": N_("Urgency"),
    "patient": N_("Patient"),
    "study": N_("Study"),
    "models": N_("Models"),
    "findings": N_("Key findings"),
    "deliveries": N_("Deliveries"),
    "age": N_("Arrived"),
}
RISING: Final = frozenset({"patient"})  # what one wants to see from its beginning


@dataclass(frozen=True)
class View:
    """What the address asks for."""

    q: str = ""
    show: str = ""
    modality: str = ""
    since: str = ""
    sort: str = "urgency"
    order: str = "desc"
    after: str = ""
    before: str = ""

    def url(self, path: str = PATH, **changes: str) -> str:
        """The address of this view with some of it otherwise; a page of it is left."""
        values = {**asdict(self), "after": "", "before": "", **changes}
        usual = asdict(View())
        return f"{path}?{query}" if (query := urlencode({k: v for k, v in values.items() if v != usual[k]})) else path

    def here(self, path: str = PATH) -> str:
        """The address of this very page."""
        return self.url(path, after=self.after, before=self.before)

    def sorted_by(self, column: str) -> str:
        """The address by which a column's head leads to its order, and again to the other direction."""
        first = "asc" if column in RISING else "desc"
        other = "asc" if self.order == "desc" else "desc"
        return self.url(sort=column, order=other if column == self.sort else first)

    def search(self, limits: Limits, now: float) -> Search:
        """What is looked for in the index."""
        ago = SINCE[self.since]
        return Search(
            text=self.q, quick=self.show, modality=self.modality, since=None if ago is None else now - ago, sort=self.sort,
            descending=self.order == "desc", after=int(self.after) if self.after else None,
            before=int(self.before) if self.before else None, limits=limits,
        )  # fmt: skip


def view_of(parameters: Mapping[str, str]) -> View:
    """What an address asks for.

    Raises
    ------
    BadRequest
        It names something that there is not.
    """
    given = {name: parameters.get(name, usual) for name, usual in asdict(View()).items()}
    view = View(**{**given, "q": printable(given["q"].strip())[:LONGEST_SEARCH]})
    known = (
        ("show", view.show, {"", *QUICK}),
        ("since", view.since, set(SINCE)),
        ("sort", view.sort, set(ORDERS)),
        ("order", view.order, {"asc", "desc"}),
    )
    for name, value, words in known:
        if value not in words:
            raise BadRequest(f"'{name}' is one of {', '.join(sorted(words - {''}))}")
    for name, key in (("after", view.after), ("before", view.before)):
        if key and not (key.isascii() and key.isdigit() and len(key) < 18):
            raise BadRequest(f"'{name}' is a number that another page gave")
    if view.modality and not (len(view.modality) <= 16 and view.modality.replace("_", "").isalnum()):
        raise BadRequest("'modality' is a code such as CT")
    return view


# --- what stands in a row


def printable(text: str) -> str:
    """A text without control characters, and without those that turn the writing round (UAX #9, 2.1 to 2.4): they show another name.

    The marks of UAX #9, 2.6 stay, and act inside their own element only.
    """
    shown = (character for character in text if character not in _TURNING)
    return "".join("\ufffd" if unicodedata.category(character) in ("Cc", "Cs") else character for character in shown)


_TURNING: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def person(name: str) -> list[str]:
    """A person name (PS3.5 6.2.1.1) as people write it, group by group: ``Yamada, Tarou`` and ``山田 太郎``."""
    found = []
    for number, group in enumerate(printable(name).split("=")[:3]):
        family, _, rest = group.partition("^")
        given = " ".join(part for part in rest.split("^") if part.strip())
        text = (", " if number == 0 else " ").join(part.strip() for part in (family, given) if part.strip())
        if text and text not in found:
            found.append(text)
    return found


def years(birth_date: str, study_date: str) -> int | None:
    """A patient's age at the time of the study, in years; None where it is not known."""
    try:
        born, then = (date(int(each[:4]), int(each[4:6]), int(each[6:8])) for each in (birth_date, study_date))
    except ValueError:
        return None
    age = then.year - born.year - ((then.month, then.day) < (born.month, born.day))
    return age if 0 <= age < 150 else None


@dataclass(frozen=True)
class Row:
    """A study as the template shows it."""

    entry: Entry
    names: list[str]
    age: int | None
    viewer: str | None

    @property
    def level(self) -> str:
        """Its urgency in a word."""
        return ("routine", "urgent", "critical")[min(self.entry.urgency, 2)]


def rows_of(connection: Connection, entries: Sequence[Entry], *, viewer: bool) -> list[Row]:
    """Rows with the address by which the viewer opens each, what was found on top."""
    first = first_series(connection, [entry.study_uid for entry in entries] if viewer else [])
    return [
        Row(
            _clean(entry),
            person(entry.name),
            years(entry.birth_date, entry.study_date),
            viewer_url(entry.study_uid, first.get(entry.study_uid)) if viewer else None,
        )
        for entry in entries
    ]


def _clean(entry: Entry) -> Entry:
    return replace(
        entry,
        patient_id=printable(entry.patient_id),
        sex=printable(entry.sex),
        description=printable(entry.description),
        accession_number=printable(entry.accession_number),
    )


# --- the page


def routes(node: Node) -> list[BaseRoute]:
    """The page, its rows alone, and where somebody says who reads a study."""
    desk = _Desk(node)
    return [
        PageRoute(PATH, desk.show),
        PageRoute(ROWS, desk.rows),
        PageRoute("/worklist/{study_uid}/reading", desk.read, methods=["POST"], right=REPORT),
    ]


BY_OTHER: Final = {
    READING: N_("%(who)s is reading this study already."),
    REVIEWED: N_("%(who)s has read this study in the meantime."),
    OPEN: N_("Somebody has put this study back in the meantime."),
}
FOUND_MEANWHILE: Final = N_("Something urgent was found in this study after the page was made: look at it before you mark it as read.")


def _seen(form: FormData) -> Seen | None:
    """What the page showed that the form is of; a program may leave it out."""
    reading, raised = form.get("seen"), str(form.get("raised", ""))
    if reading is None:
        return None
    try:
        return Seen(str(reading), float(raised) if raised else None)
    except ValueError:
        raise BadRequest("'raised' is no time") from None


class _Desk:
    def __init__(self, node: Node) -> None:
        self._node = node

    async def show(self, request: Request) -> Response:
        """The whole page."""
        values = await run_in_threadpool(self._values, request, view_of(request.query_params))
        return page(request, "worklist.html", **values)

    async def rows(self, request: Request) -> Response:
        """The part that changes."""
        values = await run_in_threadpool(self._values, request, view_of(request.query_params))
        return HTMLResponse(render(request, "worklist_rows.html", **values), headers=HEADERS)

    async def read(self, request: Request) -> Response:
        """Take a study to read, put it back, or say that it was read."""
        form = await request.form(max_files=0, max_fields=10)
        uid, to, target = request.path_params["study_uid"], str(form.get("to", "")), local_path(str(form.get("next", PATH)))
        if to not in (OPEN, READING, REVIEWED):
            raise BadRequest(f"'to' is one of {OPEN}, {READING}, {REVIEWED}")
        try:
            await run_in_threadpool(self._read, request, uid, to, form.get("force") == "yes", _seen(form))
        except ReadByOther as error:
            return conflict(request, speaks(request).gettext(BY_OTHER[error.state]) % {"who": error.who})
        except FoundMeanwhile:
            return conflict(request, speaks(request).gettext(FOUND_MEANWHILE))
        return RedirectResponse(target, status_code=303)

    def _read(self, request: Request, uid: str, to: str, force: bool, seen: Seen | None) -> None:
        principal = principal_of(request)
        worklist_upkeep.catch_up(self._node.database, now=self._node.clock(), batches=CHANGES_AT_ONCE)
        with self._node.database.begin() as connection:
            if worklist.get(connection, uid, principal.limits) is None:
                raise NoSuchResource("there is no such study")
            worklist.read(connection, uid, to, by=principal.name, now=self._node.clock(), force=force, seen=seen)

    def _values(self, request: Request, view: View) -> dict[str, Any]:
        now = self._node.clock()
        worklist_upkeep.catch_up(self._node.database, now=now, batches=CHANGES_AT_ONCE)
        search = view.search(principal_of(request).limits, now)
        with self._node.database.read() as connection:
            found: Page = worklist.find(connection, search)
            counts = worklist.counts(connection, search)
            known = worklist.modalities(connection, search.limits)
            rows = rows_of(connection, found.entries, viewer=installed(self._node.config) is not None)
        config = self._node.config
        return {
            "view": view, "rows": rows, "found": found, "counts": counts, "most": MOST_COUNTED, "modalities": known, "quick": QUICK_WORDS,
            "since": SINCE_WORDS, "columns": COLUMNS, "rows_url": view.here(ROWS), "ae_title": config.node.ae_title,
            "port": config.dimse.port, "filtered": view != View(sort=view.sort, order=view.order, after=view.after, before=view.before),
        }  # fmt: skip
