"""The prior handler: a model asks for an earlier study of the patient. Ours are looked through first, then peers are asked (C-FIND,
or QIDO-RS) and send it to us (C-MOVE, or WADO-RS). What is missing, too large or another patient's is said and not used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

import structlog
from pydicom import Dataset

from dicom_node.config import Peer
from dicom_node.dicomweb_client import DicomwebError
from dicom_node.dimse.errors import DimseError
from dicom_node.dimse.scu_find import find, find_contexts
from dicom_node.dimse.scu_retrieve import Wanted, move, move_contexts
from dicom_node.releases.resolve import bundle_of_run
from dicom_node.routing.selection import Verdict, select_series
from dicom_node.work import chaining
from dicom_node.work.associating import associate_peer
from dicom_node.work.attributes import series_attributes
from dicom_node.work.handler import NodeHandler
from dicom_node.work.prior_dicomweb import Answered, DicomwebPriors
from dicom_node.work.turns import turns_of
from models.errors import BundleInvalid
from models.spec import DicomSpec, PriorSpec
from storage import audit, index, priors, runs
from storage.headers import is_uid
from storage.jobs import ClaimedJob
from storage.matching import value_matches
from storage.priors import Identity
from storage.records import RunRecord
from storage.rule_facts import facts_of

log = structlog.get_logger()

ACTOR = "prior"
MOST_ASKED = 5  # candidates of one peer that are looked at
Found = dict[str, tuple[str, list[tuple[str, str]]]]


class PriorHandler(NodeHandler):
    """Carries out ``prior`` jobs."""

    def __call__(self, job: ClaimedJob) -> None:
        with self._database.read() as connection:
            run = runs.get_run(connection, int(job.payload["run_pk"]))
        if run.state != "SCHEDULED":
            self._end(job, "the run waits no more")
            return
        try:
            spec = bundle_of_run(self._config, run.bundle, run.release_pk, run.release_digest).dicom
        except BundleInvalid as error:
            self._settle(job, run, {}, str(error), required=True)
            return
        assert spec.prior is not None
        said: list[str] = []
        found = self._search(run, spec, spec.prior, said)
        self._settle(job, run, found, "; ".join(dict.fromkeys(said)) or "there is no earlier study", required=spec.prior.required)

    def _end(self, job: ClaimedJob, detail: str) -> None:
        with self._database.begin() as connection:
            self._queue.complete(connection, job, detail)

    def _settle(self, job: ClaimedJob, run: RunRecord, found: Found, said: str, *, required: bool) -> None:
        now = self._clock()
        with self._database.begin() as connection:
            self._queue.fence(connection, job)
            self._queue.complete(connection, job, said)
            if runs.get_run(connection, run.pk).state != "SCHEDULED":
                return
            if not found and required:
                runs.not_applicable(connection, run.pk, f"the model needs a prior study: {said} [no-prior]", now=now)
            else:
                priority = self._queue.get(job.pk).priority
                priors.go_on(connection, self._queue, job, found, said, priority=priority, turns=turns_of(self._config), now=now)
                chaining.follow(connection, self._queue, turns=turns_of(self._config), now=now)
            detail = {"run": run.pk, "bundle": run.bundle, "reason": said, "series": [series_uid for series_uid, _ in found.values()]}
            audit.record(
                connection, "prior.used" if found else "prior.missing", actor=ACTOR, study_uid=run.study_uid, detail=detail, at=now
            )
        log.info("prior.settled", run=run.pk, found=bool(found), why=said)
        self._ring("infer")

    # --- looking for it

    def _search(self, run: RunRecord, spec: DicomSpec, wanted: PriorSpec, said: list[str]) -> Found:
        with self._database.read() as connection:
            whose = priors.identity_of(connection, run.study_uid)
        if whose is None or not whose.study_date:
            said.append("the study names no patient, or has no date")
            return {}
        since = (datetime.strptime(whose.study_date, "%Y%m%d") - timedelta(days=wanted.max_age)).strftime("%Y%m%d")
        found = self._here(run, spec, wanted, whose, since, said)
        until = self._clock() + wanted.deadline
        for peer in self._config.peer if not found else ():
            if peer.priors and (peer.dicomweb or peer.host) is not None and not found:
                found = self._from(peer, run, spec, wanted, whose, since, until, said)
        return found

    def _here(self, run: RunRecord, spec: DicomSpec, wanted: PriorSpec, whose: Identity, since: str, said: list[str]) -> Found:
        with self._database.read() as connection:
            earlier = priors.earlier_studies(connection, whose, since=since, besides=run.study_uid)
        for study_uid in earlier:
            found = self._usable(study_uid, run, spec, wanted, said)
            if found:
                said[:] = [f"study {study_uid}, which is here"]
                return found
        return {}

    def _usable(self, study_uid: str, run: RunRecord, spec: DicomSpec, wanted: PriorSpec, said: list[str]) -> Found:
        """The series of a study for the model's prior inputs; nothing, and why, where it is not what is asked for."""
        with self._database.read() as connection:
            facts = facts_of(connection, [study_uid]).get(study_uid)
        if facts is None or not facts.series:
            said.append(f"nothing of study {study_uid} is here")
            return {}
        attributes = series_attributes(self._archive, study_uid, {uid: each.attributes for uid, each in facts.series.items()})
        fitting = {uid: each for uid, each in attributes.items() if _asked_for(wanted, each)}
        found: Found = {}
        for each in spec.prior_inputs:
            selection = select_series(each, fitting)
            if selection.verdict is not Verdict.CHOSEN:
                said.append(f"in study {study_uid} {selection.summary}")
                return {}
            (uid,) = selection.chosen
            if facts.series[uid].instances > wanted.max_instances:
                said.append(f"series {uid} has {facts.series[uid].instances} images, and at most {wanted.max_instances} are taken")
                return {}
            if not self._same_patient(run, study_uid, uid):
                said.append(f"study {study_uid} is another patient's by its birth date or issuer")
                return {}
            with self._database.read() as connection:
                found[each.name] = uid, index.input_set(connection, study_uid, [uid])
        return found

    def _same_patient(self, run: RunRecord, study_uid: str, series_uid: str) -> bool:
        """By the headers of the images themselves: the index keeps one birth date a patient."""
        both = [
            series_attributes(self._archive, study, {uid: {}})[uid]
            for study, uid in ((run.study_uid, run.series_uids[0]), (study_uid, series_uid))
        ]
        return agree(both[0], both[1])

    # --- asking for it

    def _from(
        self, peer: Peer, run: RunRecord, spec: DicomSpec, wanted: PriorSpec, whose: Identity, since: str, until: float, said: list[str]
    ) -> Found:
        web = DicomwebPriors(self._config, peer, self._database, self._archive, clock=self._clock) if peer.dicomweb else None
        try:
            found_there = self._ask_web(web, whose, wanted, since, until) if web else self._ask(peer, wanted, whose, since)
            remote = list(self._fitting(peer, run, whose, since, found_there, said))
            for each in remote[:MOST_ASKED]:
                if each.instances is not None and each.instances > wanted.max_instances:
                    said.append(
                        f"study {each.study_uid} at {peer.name} has {each.instances} images, at most {wanted.max_instances} are taken"
                    )
                    continue
                by_web = web is not None and _fetch_web(web, peer, each, wanted, until, said)
                if not by_web and (web is not None or not self._fetch(peer, each.study_uid, until, said)):
                    continue
                found = self._usable(each.study_uid, run, spec, wanted, said)
                if found:
                    said[:] = [f"study {each.study_uid}, fetched from {peer.name}"]
                    return found
        except (DimseError, DicomwebError) as error:
            said.append(f"{peer.name}: {error}")
        if not said:
            said.append(f"{peer.name} has no earlier study")
        return {}

    def _fitting(
        self, peer: Peer, run: RunRecord, whose: Identity, since: str, answered: Iterable[Answered], said: list[str]
    ) -> list[Answered]:
        """The patient's earlier studies among those that a peer names, newest first."""
        mine = {"PatientID": whose.patient_id, "IssuerOfPatientID": whose.issuer, "PatientBirthDate": whose.birth_date}
        fitting = []
        for each in answered:
            if not is_uid(each.study_uid) or each.study_uid == run.study_uid or not since <= each.date < whose.study_date:
                continue
            if agree(mine, each.identity):
                fitting.append(each)
            else:
                said.append(f"study {each.study_uid} at {peer.name} is another patient's by its birth date or issuer")
        return sorted(fitting, key=lambda each: each.date, reverse=True)

    @staticmethod
    def _ask_web(web: DicomwebPriors, whose: Identity, wanted: PriorSpec, since: str, until: float) -> list[Answered]:
        return web.studies(whose.patient_id, f"{since}-{whose.study_date}", wanted.modality or "", until=until)

    def _ask(self, peer: Peer, wanted: PriorSpec, whose: Identity, since: str) -> list[Answered]:
        """What a peer has of the patient, by C-FIND."""
        asked = Dataset()
        if not whose.patient_id.isascii():
            asked.SpecificCharacterSet = "ISO_IR 192"
        asked.QueryRetrieveLevel = "STUDY"
        asked.PatientID, asked.StudyDate = whose.patient_id, f"{since}-{whose.study_date}"
        asked.ModalitiesInStudy, asked.StudyDescription = wanted.modality or "", ""
        for keyword in ("StudyInstanceUID", "IssuerOfPatientID", "PatientBirthDate", "StudyTime", "NumberOfStudyRelatedInstances"):
            setattr(asked, keyword, None if keyword.startswith("Number") else "")
        found = []
        with associate_peer(self._config, peer, find_contexts()) as association:
            for match in find(association, asked):
                identity = {keyword: str(match.get(keyword) or "") for keyword in _IDENTITY}
                count = str(match.get("NumberOfStudyRelatedInstances") or "")
                uid, date = str(match.get("StudyInstanceUID") or ""), str(match.get("StudyDate") or "")
                found.append(Answered(uid, date, int(count) if count.isdigit() else None, identity))
        return found

    def _fetch(self, peer: Peer, study_uid: str, until: float, said: list[str]) -> bool:
        """Have a peer send a study to us."""
        with self._database.begin() as connection:
            if index.study_record(connection, study_uid) is None:  # else it is no study that only came as a prior
                priors.expect(connection, study_uid, peer.ae_title, now=self._clock())
        with associate_peer(self._config, peer, move_contexts()) as association:
            for response in move(association, self._config.node.ae_title, Wanted("STUDY", (study_uid,))):
                if response.final and response.status not in (0x0000, 0xB000):
                    said.append(f"{peer.name} did not send study {study_uid}: status {response.status:04X}")
                    return False
                if not response.final and self._clock() > until:
                    said.append(f"study {study_uid} did not come from {peer.name} in time")
                    association.abort()
                    return False
        return True


def _fetch_web(web: DicomwebPriors, peer: Peer, wanted: Answered, limits: PriorSpec, until: float, said: list[str]) -> bool:
    """Bring a study here; what keeps one away keeps no other away."""
    try:
        web.fetch(wanted.study_uid, limits.max_instances, until=until)
    except DicomwebError as error:
        said.append(f"{peer.name}: {error}")
        return False
    return True


def agree(mine: Any, other: Any) -> bool:
    """Whether two sets of attributes are one patient's: PatientID, and issuer and birth date where both state them."""
    values = [[str(each.get(keyword) or "").strip() for each in (mine, other)] for keyword in _IDENTITY]
    return (
        bool(values[0][0]) and all(first == second or not (first and second) for first, second in values) and values[0][0] == values[0][1]
    )


_IDENTITY = ("PatientID", "IssuerOfPatientID", "PatientBirthDate")


def _asked_for(wanted: PriorSpec, attributes: Any) -> bool:
    return all(_matches(pattern, attributes.get(keyword)) for keyword, pattern in _conditions(wanted))


def _conditions(wanted: PriorSpec) -> Iterator[tuple[str, str]]:
    if wanted.modality:
        yield "Modality", wanted.modality
    if wanted.description:
        yield "StudyDescription", wanted.description


def _matches(pattern: str, value: Any) -> bool:
    return value_matches(pattern.casefold(), str(value or "").casefold(), multi=False)
