"""The page of one study: what was found and what was said about it, what happened, and what one may do now."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute

from dicom_node import actions
from dicom_node.accounts import OPERATE, REPORT
from dicom_node.actions import SpokenMeanwhile
from dicom_node.errors import CommandFailed, UsageError
from dicom_node.node import Node
from dicom_node.transcode import Transcoder
from dicom_node.viewer import INSTALL
from dicom_node.viewer.installation import installed
from dicom_node.web.authentication import principal_of
from dicom_node.web.dicomweb.errors import BadRequest, NoSuchResource
from dicom_node.web.dicomweb.resources import checked_uid
from dicom_node.web.dicomweb.responses import made, unchanged
from dicom_node.web.in_use import in_use
from dicom_node.web.page_route import PageRoute
from dicom_node.web.pages import study_view
from dicom_node.web.pages.forms import back, fields, reason_in
from dicom_node.web.pages.site import HEADERS, page, render
from dicom_node.web.pages.study_pictures import KeyImages
from dicom_node.web.pages.viewer_links import first_series, viewer_url
from dicom_node.web.pages.words import N_
from dicom_node.web.pages.worklist import person, printable, years
from storage import ambiguities, runs
from storage.errors import NotFound
from storage.feedback import REASONS, RESULT, Word, segmentations_received
from storage.flags import LACKS_MEMORY
from storage.patient_history import measured
from storage.records import SeriesRecord
from storage.rule_facts import HELD
from storage.timeline import timeline

PATH: Final = "/studies/{study}"
MOST_RESULTS: Final = 12  # shown with their pictures; the story names all
DONE: Final = {
    "feedback": N_("Your word is kept."),
    "rerun": N_("The study is routed again."),
    "release": N_("The study goes on."),
    "retry": N_("It is sent again."),
    "choose": N_("Your choice is kept."),
}


def routes(node: Node, transcoder: Transcoder) -> list[BaseRoute]:
    """The page, its pictures, and where its forms are sent to."""
    room = _Room(node, KeyImages(node.archive, transcoder))
    decisions: dict[str, tuple[Callable[[Request, str, Any], str], str]] = {
        "feedback": (room.feedback, REPORT),
        "rerun": (room.rerun, OPERATE),
        "release": (room.release, OPERATE),
        "retry": (room.retry, OPERATE),
        "choose": (room.choose, OPERATE),
    }
    deciding = [
        PageRoute(f"{PATH}/{name}", room.deciding(name, what), right=right, methods=["POST"]) for name, (what, right) in decisions.items()
    ]
    return [
        PageRoute(PATH, room.show),
        PageRoute(f"{PATH}/story", room.story),
        PageRoute(f"{PATH}/runs/{{run}}/key-images/{{number}}", room.picture),
        *deciding,
    ]


class _Room:
    def __init__(self, node: Node, pictures: KeyImages) -> None:
        self._node = node
        self._database = node.database
        self._pictures = pictures

    # --- what is shown

    def show(self, request: Request) -> Response:
        """The whole page."""
        return page(request, "study.html", **self._values(request))

    def story(self, request: Request) -> Response:
        """The part that changes while one looks."""
        return HTMLResponse(render(request, "study_body.html", **self._values(request)), headers=HEADERS)

    def picture(self, request: Request) -> Response:
        """A key image with (or with ``overlay=0`` without) what was found in it."""
        uid = checked_uid(request.path_params["study"], "the study")
        numbers = [request.path_params[name] for name in ("run", "number")]
        if not all(each.isascii() and each.isdigit() and len(each) < 12 for each in numbers):
            raise BadRequest("a key image has a number")
        with self._database.read() as connection:
            run = runs.get_run(connection, int(numbers[0]))
            objects = runs.objects_of(connection, run.run_key) if run.study_uid == uid else []
        plan = self._pictures.planned(objects)
        if plan is None:
            raise NoSuchResource("this result has no key images")
        overlay = request.query_params.get("overlay") != "0"
        tag = f'"{plan.segmentation.digest[:32]}-{int(numbers[1])}-{int(overlay)}"'
        if (same := unchanged(request, tag)) is not None:
            return same
        content = self._pictures.picture(plan, int(numbers[1]), overlay=overlay)
        return made(content, "image/jpeg", headers={"ETag": tag, "Content-Security-Policy": "default-src 'none'"})

    def _values(self, request: Request, problem: str = "") -> dict[str, Any]:
        uid = checked_uid(request.path_params["study"], "the study")
        story = timeline(self._database, uid)
        with self._database.read() as connection:
            history = measured(connection, uid, {each.run.bundle for each in story.runs}, limits=principal_of(request).limits)
            open_choices = [each for each in ambiguities.of_study(connection, uid) if each.state != "CLOSED"]
            corrections = segmentations_received(connection, uid)
            first = first_series(connection, [uid]).get(uid)
            objects = {each.run.pk: runs.objects_of(connection, each.run.run_key) for each in story.runs if each.run.state == "COMPLETED"}
        results = study_view.results_of(story, history, uid)
        results = [self._pictured(each, objects) if place < MOST_RESULTS else each for place, each in enumerate(results)]
        study = story.study
        alerts = study_view.urgency_of(results)
        there = installed(self._node.config) is not None
        done = request.query_params.get("done", "")
        return {
            "study": study, "story": story, "results": results, "chosen": study_view.selections_of(story),
            "alerts": alerts, "level": alerts[0]["urgency"] if alerts else "routine",
            "names": person(study.patient_name), "age": years(study.birth_date, study.study_date), "clean": printable,
            "events": study_view.events_of(story), "reasons": study_view.REASONS, "verdicts": study_view.VERDICTS,
            "verdict_tones": study_view.VERDICT_TONES, "corrections": corrections, "choices": open_choices,
            "held": (study.flag or "").startswith(HELD), "lacks_memory": (study.flag or "").startswith(LACKS_MEMORY),
            "viewer": viewer_url(uid, first) if there else None, "install": INSTALL,
            "here": f"/studies/{uid}", "done": DONE.get(done, ""), "problem": problem, "chart": (study_view.WIDE, study_view.HIGH),
            "failed": {each.delivery.job_pk for each in self._failed(story)},
            "modalities": dict.fromkeys(each.series.modality for each in story.series if not _made_here(each.series)),
            "units": study_view.UNITS, "no_picture": study_view.NO_PICTURE,
        }  # fmt: skip

    def _pictured(self, result: study_view.Result, objects: dict[int, list[str]]) -> study_view.Result:
        plan = self._pictures.planned(objects.get(result.run.pk, ()))
        if plan is None:
            return result
        return replace(result, planes=len(plan.planes), labels=plan.labels, colours=plan.colours)

    @staticmethod
    def _failed(story: Any) -> list[Any]:
        every = (*story.deliveries, *(each for run in story.runs for each in run.deliveries))
        return [each for each in every if each.delivery.state in ("FAILED", "CANCELED") and each.delivery.job_pk is not None]

    # --- what is decided

    def deciding(self, name: str, what: Callable[[Request, str, Any], str]) -> Callable[[Request], Any]:
        """An endpoint that does what a form asks for, and goes back to the page; a refusal is said on the page as it is now."""

        async def endpoint(request: Request) -> Response:
            uid = checked_uid(request.path_params["study"], "the study")
            form = await fields(request)
            try:
                place = await run_in_threadpool(what, request, uid, form)
            except (CommandFailed, UsageError, BadRequest) as error:
                status = 409 if isinstance(error, CommandFailed) else 400
                values = await run_in_threadpool(self._values, request, str(error))
                if isinstance(error, SpokenMeanwhile) and error.said is not None:
                    values["meanwhile"] = error.said
                return page(request, "study.html", status=status, **values)
            answer = back(f"/studies/{quote(uid)}", done=name)
            answer.headers["location"] += f"#{quote(place)}" if place else ""
            return answer

        endpoint.__name__ = name
        return endpoint

    def feedback(self, request: Request, uid: str, form: Any) -> str:
        run, finding, verdict = _number(form, "run"), str(form.get("finding", RESULT)), str(form.get("verdict", ""))
        corrects = verdict == "modify"
        word = Word(
            verdict=verdict, corrected=str(form.get("corrected", "")) or None if corrects else None,
            corrected_uid=str(form.get("corrected_uid", "")) or None if corrects else None,
            code=str(form.get("code", "")) if verdict != "accept" else "", reason=str(form.get("reason", "")),
        )  # fmt: skip
        if word.code and word.code not in REASONS:
            raise BadRequest("there is no such reason")
        asked: dict[str, Any] = {"seen": _number(form, "seen"), "who": principal_of(request).name, "now": time.time()}
        try:
            actions.give_feedback(self._database, uid, run, finding, word, **asked)
        except NotFound as error:
            raise CommandFailed(str(error)) from None
        return f"run-{run}"

    def rerun(self, request: Request, uid: str, form: Any) -> str:
        actions.rerun_study(in_use(self._node.config), self._database, uid, **_decided(request, form))
        return "happened"

    def release(self, request: Request, uid: str, form: Any) -> str:
        actions.release_study(self._node.config, self._database, uid, **_decided(request, form))
        return "happened"

    def retry(self, request: Request, uid: str, form: Any) -> str:
        job = _number(form, "job")
        story = timeline(self._database, uid)
        if job not in {each.delivery.job_pk for each in self._failed(story)}:
            raise CommandFailed("no delivery of this study that failed has that job: look at the page as it is now")
        actions.retry_job(self._node.config, self._database, job, who=principal_of(request).name)
        return "deliveries"

    def choose(self, request: Request, uid: str, form: Any) -> str:
        meant: dict[str, Any] = {name: str(form.get(name, "")) for name in ("rule", "model", "series", "input")}
        try:
            actions.choose_series(in_use(self._node.config), self._database, uid, **meant, **_decided(request, form))
        except NotFound as error:
            raise CommandFailed(str(error)) from None
        return "series"


def _made_here(series: SeriesRecord) -> bool:
    return bool(series.emitted) and series.emitted == series.instances


def _decided(request: Request, form: Any) -> dict[str, Any]:
    return {"who": principal_of(request).name, "why": reason_in(form), "now": time.time()}


def _number(form: Any, name: str) -> int:
    text = str(form.get(name, ""))
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise BadRequest(f"the form has no {name}")
    return int(text)
