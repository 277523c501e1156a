"""Earlier studies from an archive that is asked over DICOMweb: QIDO-RS finds them, WADO-RS brings them.

What comes takes the path of every received instance. A study that came only in part is deleted again: it is no study to compare with.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import structlog

from dicom_node.clock import Clock
from dicom_node.config import Config, Peer
from dicom_node.dicomweb_client import DicomwebClient, DicomwebError
from dicom_node.dimse.contexts import TRANSFER_SYNTAXES, storage_classes
from dicom_node.web.dicomweb.errors import BadRequest, TooLarge
from dicom_node.web.dicomweb.stow_answer import Stored
from dicom_node.web.dicomweb.upload import IN_FLIGHT, Policy, Upload
from storage import index, priors
from storage.archive import Archive, IngestSession, Source
from storage.database import Database
from storage.retention_rules import DiskState, disk_state

log = structlog.get_logger()

SEARCH_SECONDS: Final = 60.0
STUDY_UID, PATIENT_ID, ISSUER, BIRTH_DATE, STUDY_DATE, INSTANCES = "0020000D", "00100020", "00100021", "00100030", "00080020", "00201208"


@dataclass(frozen=True)
class Answered:
    """A study as the archive describes it; ``identity`` by keyword."""

    study_uid: str
    date: str
    instances: int | None
    identity: dict[str, str]


class DicomwebPriors:
    """One peer's archive. Its methods raise DicomwebError."""

    def __init__(self, config: Config, peer: Peer, database: Database, archive: Archive, *, clock: Clock) -> None:
        assert peer.dicomweb is not None
        self._config = config
        self._peer = peer
        self._database = database
        self._archive = archive
        self._clock = clock
        limits = config.delivery
        self._client = DicomwebClient(
            peer.dicomweb,
            token=peer.dicomweb_token or "",
            ca=peer.dicomweb_ca,
            connect=limits.connect_timeout,
            stall=limits.response_timeout,
        )

    def studies(self, patient_id: str, dates: str, modality: str, *, until: float) -> list[Answered]:
        """The studies of a patient in a range of dates, as the archive describes them."""
        asked = {"PatientID": patient_id, "StudyDate": dates, **({"ModalitiesInStudy": modality} if modality else {})}
        within = min(SEARCH_SECONDS, until - self._clock())
        return [_answered(each) for each in self._client.studies(asked, (ISSUER, BIRTH_DATE, INSTANCES), within=within)]

    def fetch(self, study_uid: str, most: int, *, until: float) -> None:
        """Bring a study of at most so many instances here, whole."""
        if disk_state(self._archive, self._config.retention.keep_free) is not DiskState.OK:
            raise DicomwebError("nothing is fetched while the disk is low")
        with self._database.begin() as connection:
            new = index.study_record(connection, study_uid) is None
            if new:  # else it is no study that only came as a prior
                priors.expect(connection, study_uid, self._peer.ae_title, now=self._clock())
        try:
            self._take(study_uid, most, until)
        except DicomwebError:
            if new:
                self._undo(study_uid)
            raise

    def _take(self, study_uid: str, most: int, until: float) -> None:
        within, web = until - self._clock(), self._config.web
        dimse = self._config.dimse
        policy = Policy(
            storage_classes(dimse.extra_sop_classes),
            frozenset((*TRANSFER_SYNTAXES, *dimse.extra_transfer_syntaxes)),
            web.max_part_size,
            most,
        )
        with ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="prior-commit") as commits:
            upload = Upload(lambda: self._session(study_uid), commits, policy)
            try:
                with self._client.instances(study_uid, within=within, most=web.max_request_size) as (boundary, pieces):
                    results = upload.run_multipart(pieces, boundary)
            except TooLarge:
                raise DicomwebError(f"study {study_uid} has more or larger images than are taken (at most {most})") from None
            except BadRequest as error:
                raise DicomwebError(f"study {study_uid} came in part: {error}") from None
        self._check(study_uid, results)

    def _check(self, study_uid: str, results: list[Stored]) -> None:
        refused = [each for each in results if not each.ok]
        if refused:
            status = f"{refused[0].status:04X}"
            raise DicomwebError(f"{len(refused)} of {len(results)} objects of study {study_uid} could not be kept ({status})")
        if not results:
            raise DicomwebError(f"nothing of study {study_uid} came")
        log.info("prior.fetched", study_uid=study_uid, peer=self._peer.name, instances=len(results))

    def _session(self, study_uid: str) -> IngestSession:
        title = self._config.node.ae_title
        return self._archive.session(Source(None, self._peer.ae_title, title, self._peer.name, study_uid=study_uid))

    def _undo(self, study_uid: str) -> None:
        with self._database.read() as connection:
            there = index.study_record(connection, study_uid) is not None and priors.only_a_prior(connection, study_uid)
        if there:
            self._archive.delete_study(study_uid, who="prior", reason=f"came only in part from {self._peer.name}")


def _answered(attributes: dict[str, str]) -> Answered:
    count = attributes.get(INSTANCES, "")
    identity = {"PatientID": attributes.get(PATIENT_ID, ""), "IssuerOfPatientID": attributes.get(ISSUER, "")}
    identity["PatientBirthDate"] = attributes.get(BIRTH_DATE, "")
    uid, date = attributes.get(STUDY_UID, ""), attributes.get(STUDY_DATE, "")
    return Answered(uid, date, int(count) if count.isdigit() else None, identity)
