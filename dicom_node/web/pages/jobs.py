"""Jobs and dead letters: what waits, what failed and why, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from dicom_node import actions
from dicom_node.accounts import OPERATE, READ
from dicom_node.errors import CommandFailed
from dicom_node.node import Node
from dicom_node.web.api.answers import Conflict as Conflicting
from dicom_node.web.authentication import principal_of
from dicom_node.web.dicomweb.errors import BadRequest, NoSuchResource
from dicom_node.web.page_route import PageRoute
from dicom_node.web.pages.forms import back, fields, number_in, reason_in, row_of
from dicom_node.web.pages.site import page
from dicom_node.web.pages.words import N_
from storage import job_pages
from storage.errors import NotFound
from storage.jobs import JobQueue, JobState

PATH: Final = "/jobs"
STATES: Final = tuple(state.value for state in JobState)
KINDS: Final = ("route", "infer", "deliver", "commit", "evaluate")
AT_ONCE: Final = 200  # jobs that one form retries

# What to do about a failure, by the kind of the job.
NEXT: Final = {
    "deliver": N_(
        "The peer did not take it. Its answer is below and on its page. When it is in order, retry: what was accepted is not sent again."
    ),
    "commit": N_("The report could not be given to the peer. See its page; when it is in order, retry."),
    "infer": N_("The model failed or was stopped. The reason is below; other models and deliveries of the study went on."),
    "route": N_("The rules could not be applied. The reason is below; correct the configuration, then retry."),
}


def routes(node: Node) -> list[BaseRoute]:
    """The addresses of jobs."""
    jobs = _Jobs(node)
    return [
        PageRoute(PATH, jobs.list, right=READ),
        PageRoute(f"{PATH}/retry", jobs.retry, right=OPERATE, methods=["POST"]),
        PageRoute(f"{PATH}/{{job:int}}", jobs.show, right=READ),
        PageRoute(f"{PATH}/{{job:int}}/cancel", jobs.cancel, right=OPERATE, methods=["POST"]),
    ]


class _Jobs:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._queue = JobQueue(node.database)

    def list(self, request: Request) -> Response:
        """One state, kind or queue at a time; what failed first."""
        state = _one_of(request, "state", STATES) or ("FAILED" if "state" not in request.query_params else None)
        kind, queue = _one_of(request, "kind", KINDS), request.query_params.get("queue") or None
        if queue is not None and not queue.isprintable():
            raise BadRequest("there is no such queue")
        with self._node.database.read() as connection:
            found = job_pages.page(connection, state=state, kind=kind, queue=queue, before=number_in(request, "before"))
            counts = job_pages.counts(connection)
        values: dict[str, Any] = {"found": found, "counts": counts, "state": state, "kind": kind, "queue": queue, "kinds": KINDS}
        return page(request, "jobs.html", **values, done=number_in(request, "done"), refused=number_in(request, "refused"))

    def show(self, request: Request) -> Response:
        """One job and its history."""
        try:
            found = self._queue.get(row_of(request, "job"))
        except NotFound as error:
            raise NoSuchResource(str(error)) from None
        events = self._queue.events(found.pk)
        return page(request, "job.html", job=found, events=events, todo=NEXT.get(found.kind, ""), done=request.query_params.get("done", ""))

    async def retry(self, request: Request) -> Response:
        """Give the marked jobs new attempts; what is done twice is done once, and said."""
        form = await fields(request)
        wanted = [_number(str(value)) for value in form.getlist("job")][:AT_ONCE]
        if not wanted:
            raise BadRequest("no job is marked")
        who = f"{principal_of(request).name}: {reason_in(form)}"
        done, refused, why = await run_in_threadpool(self._retry, wanted, who)
        if len(wanted) == 1:
            if why:
                raise Conflicting(why)
            return back(f"{PATH}/{wanted[0]}", done="retry")
        return back(PATH, done=done, refused=refused)

    def _retry(self, wanted: Sequence[int], who: str) -> tuple[int, int, str]:
        done, refused, why = 0, 0, ""
        for pk in wanted:
            try:
                actions.retry_job(self._node.config, self._node.database, pk, who=who)
                done += 1
            except (CommandFailed, NotFound) as error:
                refused, why = refused + 1, str(error)
        return done, refused, why

    async def cancel(self, request: Request) -> Response:
        """End a job that waits or runs."""
        form = await fields(request)
        pk = row_of(request, "job")
        try:
            await run_in_threadpool(actions.cancel_job, self._node.database, pk, who=principal_of(request).name, why=reason_in(form))
        except CommandFailed as error:
            raise Conflicting(str(error)) from None
        except NotFound as error:
            raise NoSuchResource(str(error)) from None
        return back(f"{PATH}/{pk}", done="cancel")


def _one_of(request: Request, name: str, words: Sequence[str]) -> str | None:
    text = request.query_params.get(name) or None
    if text is not None and text not in words:
        raise BadRequest(f"{name} is one of {', '.join(words)}")
    return text


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise BadRequest("a job is named by its number")
    return int(text)
