"""The API under /api: studies and their stories, jobs, rules, peers, releases; and what a person may decide about them.

What is asked needs the right ``read``, feedback ``report``; what else is decided (POST) needs ``operate``, and leaves who and why.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.routing import Route

from dicom_node import actions
from dicom_node.config import Config, Peer
from dicom_node.node import Node
from dicom_node.plain import plain
from dicom_node.releases.overview import overview
from dicom_node.routing import shown
from dicom_node.routing.live import running_state
from dicom_node.routing.trial import try_rules
from dicom_node.web.api.answers import LARGEST, MOST, answering, number, reason_of, word
from dicom_node.web.authentication import API, principal_of
from dicom_node.web.dicomweb.errors import BadRequest
from dicom_node.web.in_use import in_use
from dicom_node.work.turns import quotas_of
from storage import ambiguities, index, peer_state, quotas, release_watch, releases
from storage.feedback import RESULT, Word
from storage.jobs import JobQueue, JobState
from storage.timeline import timeline

STUDY_STATES: Final = ("RECEIVING", "COMPLETE")
JOB_STATES: Final = tuple(state.value for state in JobState)
JOB_KINDS: Final = ("route", "infer", "deliver", "commit", "prior")
FEW: Final = 50


def routes(node: Node) -> list[Route]:
    """Every address of the API."""
    api = _Api(node)
    asked: dict[str, Callable[[Request], Any]] = {
        "studies": api.studies,
        "studies/{study}": api.study,
        "studies/{study}/plan": api.plan,
        "jobs": api.jobs,
        "jobs/{job}": api.job,
        "quotas": api.quotas,
        "rules": api.rules,
        "peers": api.peers,
        "releases": api.releases,
        "releases/{release}": api.release,
    }
    decided: dict[str, Callable[[Request], Any]] = {
        "studies/{study}/rerun": api.rerun,
        "studies/{study}/release": api.release_study,
        "studies/{study}/choose": api.choose,
        "studies/{study}/feedback": api.feedback,
        "jobs/{job}/retry": api.retry,
        "jobs/{job}/cancel": api.cancel,
    }
    reading = [Route(f"{API}/{path}", answering(ask)) for path, ask in asked.items()]
    return reading + [Route(f"{API}/{path}", answering(ask), methods=["POST"]) for path, ask in decided.items()]


class _Api:
    """The endpoints: from a request to what is to be shown."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._database = node.database

    # --- studies

    def studies(self, request: Request) -> Any:
        filters = {}
        for pair in request.query_params.getlist("match"):
            keyword, equals, value = pair.partition("=")
            if not equals:
                raise ValueError("match is written KEYWORD=VALUE")
            filters[keyword] = value
        state = word(request, "state", STUDY_STATES)
        with self._database.read() as connection:
            found = index.studies(
                connection,
                filters,
                limits=principal_of(request).limits,
                state=state,
                tag=request.query_params.get("tag"),
                limit=number(request, "limit", FEW),
                offset=number(request, "offset", 0, most=LARGEST),
            )
            waiting = ambiguities.studies_waiting(connection, [each.study_uid for each in found])
        return [{**plain(each), "to_be_chosen": each.study_uid in waiting} for each in found]

    def study(self, request: Request) -> Any:
        with self._database.read() as connection:
            uid = actions.study_of(connection, request.path_params["study"])
        return timeline(self._database, uid)

    def plan(self, request: Request) -> Any:
        plan, _ = try_rules(self._in_use(), self._node, request.path_params["study"])
        return shown.as_values(plan)

    def rerun(self, request: Request) -> Any:
        named: dict[str, Any] = {name: request.query_params.get(name) for name in ("rule", "release")}
        study, job = actions.rerun_study(self._in_use(), self._database, request.path_params["study"], **named, **_decided(request))
        return {"study": study, "job": job}

    def release_study(self, request: Request) -> Any:
        study, job = actions.release_study(self._node.config, self._database, request.path_params["study"], **_decided(request))
        return {"study": study, "job": job}

    def choose(self, request: Request) -> Any:
        asked = request.query_params
        missing = [name for name in ("rule", "model", "series") if not asked.get(name)]
        if missing:
            raise BadRequest(f"{missing[0]} is needed: what is open is told by studies/UID under 'ambiguities'")
        meant: dict[str, Any] = {name: asked.get(name, "") for name in ("rule", "model", "input", "series")}
        study, job = actions.choose_series(self._in_use(), self._database, request.path_params["study"], **meant, **_decided(request))
        return {"study": study, "job": job}

    def feedback(self, request: Request) -> Any:
        asked = request.query_params
        run = number(request, "run", -1, most=LARGEST)
        if run < 0:
            raise BadRequest("run is needed: the number of the run that is judged")
        word = Word(
            verdict=asked.get("verdict", ""), corrected=asked.get("corrected"), corrected_uid=asked.get("corrected_uid"),
            code=asked.get("code", ""), reason=asked.get("reason", ""),
        )  # fmt: skip
        seen = number(request, "seen", -1, most=LARGEST)
        given: dict[str, Any] = {"seen": None if seen < 0 else seen, "who": principal_of(request).name, "now": time.time()}
        return actions.give_feedback(self._database, request.path_params["study"], run, asked.get("finding", RESULT), word, **given)

    # --- jobs

    def jobs(self, request: Request) -> Any:
        state, kind = word(request, "state", JOB_STATES), word(request, "kind", JOB_KINDS)
        of = request.query_params.get("study")
        return JobQueue(self._database).list(
            state=JobState(state) if state else None, kind=kind, study_uid=of, limit=number(request, "limit", FEW, most=MOST)
        )

    def job(self, request: Request) -> Any:
        queue, pk = JobQueue(self._database), _job(request)
        return {"job": queue.get(pk), "events": queue.events(pk)}

    def retry(self, request: Request) -> Any:
        pk = _job(request)
        actions.retry_job(self._node.config, self._database, pk, who=f"{principal_of(request).name}: {reason_of(request)}")
        return {"job": JobQueue(self._database).get(pk)}

    def cancel(self, request: Request) -> Any:
        pk = _job(request)
        actions.cancel_job(self._database, pk, who=principal_of(request).name, why=reason_of(request))
        return {"job": JobQueue(self._database).get(pk)}

    # --- what is configured, and how it stands

    def rules(self, request: Request) -> Any:
        found = [rule.model_dump(mode="json", by_alias=True, exclude_defaults=True) for rule in self._in_use().rule]
        return {"rules": found, "running": running_state(self._node.config.runtime_dir)}

    def quotas(self, request: Request) -> Any:
        with self._database.read() as connection:
            return quotas.standings(connection, quotas_of(self._node.config.quota), now=time.time())

    def peers(self, request: Request) -> Any:
        with self._database.read() as connection:
            states = peer_state.by_peer(connection)
        return [_peer(each, states.get(each.name, peer_state.PeerState())) for each in self._node.config.peer]

    def releases(self, request: Request) -> Any:
        with self._database.read() as connection:
            flags = release_watch.flags(connection)
            return [
                {**plain(each), "flags": [flag.kind for flag in flags if flag.release_pk == each.pk]}
                for each in releases.every(connection, request.query_params.get("name"))
            ]

    def release(self, request: Request) -> Any:
        return overview(self._node.config, self._database, request.path_params["release"])

    def _in_use(self) -> Config:
        return in_use(self._node.config)


def _decided(request: Request) -> dict[str, Any]:
    """Who decides, why and when."""
    return {"who": principal_of(request).name, "why": reason_of(request), "now": time.time()}


def _job(request: Request) -> int:
    text = request.path_params["job"]
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise BadRequest("the address names no job by its number")
    return int(text)


def _peer(peer: Peer, state: peer_state.PeerState) -> dict[str, Any]:
    """A peer's profile, and how the deliveries to it stand."""
    return {**peer.model_dump(mode="json", exclude={"tls_ca", "dicomweb_ca"}), "deliveries": plain(state)}
