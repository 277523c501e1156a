"""The deliver handler: archived results go to a peer, exactly the archived bytes, until each has its answer.

What may pass (no connection, an abort, out of resources) is tried again with backoff. What stays (unsupported class, wrong data set) stops
at once; where the kinds that the peer's profile calls sufficient were taken, the delivery stands and says what was refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from io import FileIO
from typing import BinaryIO, cast

import blake3
import structlog

from dicom_node.clock import Clock
from dicom_node.config import Config, Peer
from dicom_node.datasets.deidentify import Refused
from dicom_node.dimse.contexts import EXPLICIT_VR_LITTLE_ENDIAN
from dicom_node.dimse.errors import DimseError
from dicom_node.dimse.references import Reference
from dicom_node.dimse.scu import Requestor, StoreItem, StoreResult
from dicom_node.errors import TryAgain
from dicom_node.results.forms import kind_of, offered_as
from dicom_node.transcode import ChildrenBusy, Transcoder
from dicom_node.work.answers import Answered, Answers
from dicom_node.work.ask_commitment import Answer, Commitment, CommitmentAsker
from dicom_node.work.associating import associate_peer
from dicom_node.work.changing import UIDS, changed, changes_to
from dicom_node.work.forward_copies import Copies, copies_for
from storage import audit, deliveries
from storage.archive import Archive, StoredInstance
from storage.database import Database
from storage.errors import Damaged, NotFound
from storage.jobs import ClaimedJob, JobQueue
from storage.records import DeliveryInstanceRecord

log = structlog.get_logger()

NOT_ACCEPTED = 0x0122  # SOP class not supported: also ours, where the peer accepted no context

DUPLICATE_SOP_INSTANCE = 0x0111
FEW = 8  # instances that are looked up one by one
# Sent again later: Processing failure, Resource limitation, Out of resources (PS3.4 table B.2-1, PS3.7 annex C).
PASSING = frozenset({0x0110, 0x0213})


def judge(result: StoreResult) -> Answered:
    """What a C-STORE status means for an instance: ACCEPTED, SCHEDULED (again later) or REFUSED (for good)."""
    if result.ok or result.status == DUPLICATE_SOP_INSTANCE:
        return Answered("ACCEPTED", result.status, result.comment)
    passing = result.status in PASSING or result.status >> 8 == 0xA7
    return Answered("SCHEDULED" if passing else "REFUSED", result.status, result.comment)


class DeliverHandler:
    """Carries out ``deliver`` jobs."""

    def __init__(
        self, config: Config, database: Database, archive: Archive, queue: JobQueue, *, clock: Clock, transcoder: Transcoder | None = None
    ) -> None:
        self._transcoder = transcoder or Transcoder()
        self._config = config
        self._database = database
        self._archive = archive
        self._queue = queue
        self._clock = clock
        self._ask = CommitmentAsker(config, database, queue, clock=clock)

    def __call__(self, job: ClaimedJob) -> None:
        pk = int(job.payload["delivery_pk"])
        with self._database.read() as connection:
            delivery = deliveries.get_delivery(connection, pk)
            waiting = deliveries.instances_of(connection, pk, pending=True)
        pending = [row.sop_uid for row in sorted(waiting, key=lambda row: row.attempts)]  # one that fails again and again holds up no other
        peer = self._config.peer_named(delivery.peer)
        originals = delivery.run_pk is None
        copies = copies_for(self._config, peer, job.payload, self._transcoder)
        with Answers(self._database, pk, clock=self._clock) as answers:
            items = self._items(answers, peer, self._stored(delivery.study_uid, pending), originals=originals)
            if items:
                asked = job.payload.get("transfer_syntax")
                named = peer.transfer_syntaxes if not originals else (asked,) if asked else ()
                if copies is not None:
                    copies.remember(self._database, items, clock=self._clock)
                self._send(answers, peer, items, [UIDS[name] for name in named if name in UIDS], copies)
        self._conclude(job, pk, delivery.study_uid, peer, originals=originals)

    # --- sending

    def _stored(self, study_uid: str, pending: list[str]) -> dict[str, StoredInstance | None]:
        """Where the instances lie; of many, by one statement for the whole study."""
        many = len(pending) > FEW
        known: dict[str, StoredInstance | None] = {each.sop_uid: each for each in self._archive.instances(study_uid)} if many else {}
        return {uid: known.get(uid) or self._look_up(uid) for uid in pending}

    def _look_up(self, uid: str) -> StoredInstance | None:
        try:
            return self._archive.open_instance(uid)
        except NotFound:
            return None

    def _items(self, answers: Answers, peer: Peer, pending: dict[str, StoredInstance | None], *, originals: bool) -> list[StoredInstance]:
        items = []
        for uid, stored in pending.items():
            if stored is None:
                answers.add(uid, Answered("REFUSED", None, NotFound.__name__))
                continue
            if not originals and not offered_as(stored.sop_class_uid, peer):
                answers.add(uid, Answered("NOT_OFFERED", None, f"the profile of {peer.name} takes no {kind_of(stored.sop_class_uid)}"))
            else:
                items.append(stored)
        return items

    def _send(
        self, answers: Answers, peer: Peer, items: list[StoredInstance], targets: Sequence[str] = (), copies: Copies | None = None
    ) -> None:
        also = [replace(each, transfer_syntax_uid=target) for target in targets for each in items if changes_to(each, target)]
        stored = items[0]
        try:
            with open_association(self._config, peer, copies.contexts(items) if copies else [*items, *also]) as association:
                for stored in items:
                    answers.add(stored.sop_uid, _copy(association, stored, copies) if copies else self._store(association, stored, targets))
        except DimseError as error:
            raise TryAgain(f"{peer.name}, {error.step}: {error}") from error
        except (Damaged, FileNotFoundError) as error:  # deleted or moved just now: the next attempt looks it up anew
            answers.add(stored.sop_uid, Answered("SCHEDULED", None, "its bytes are not those that were archived"))
            raise TryAgain(f"{peer.name}: an object's bytes are not those that were archived") from error

    def _store(self, association: Requestor, stored: StoredInstance, targets: Sequence[str] = ()) -> Answered:
        for target in targets:
            if target == stored.transfer_syntax_uid and association.accepts(stored.sop_class_uid, target):
                break  # as it is archived
            if changes_to(stored, target) and association.accepts(stored.sop_class_uid, target):
                item = changed(stored, target, self._transcoder)
                if item is not None:
                    return judge(association.store(item))
        if not association.accepts(stored.sop_class_uid, stored.transfer_syntax_uid):
            return Answered("REFUSED", NOT_ACCEPTED, "the peer accepts no presentation context for this class and transfer syntax")
        return judge(association.store(store_item(stored)))

    # --- how it ended

    def _conclude(self, job: ClaimedJob, pk: int, study_uid: str, peer: Peer, *, originals: bool) -> None:
        with self._database.read() as connection:
            rows = deliveries.instances_of(connection, pk)
        waiting = [row for row in rows if row.state == "SCHEDULED"]
        if waiting:
            last = waiting[0]
            answer = f"{last.status:04X}" if last.status is not None else "no answer"  # its comment, in the row, is the peer's own text
            raise TryAgain(f"{peer.name} has not taken {len(waiting)} of {len(rows)} objects yet: {answer}")
        copied = "deidentify" in job.payload  # the peer knows them under other UIDs, and must not learn these: it is not asked to commit
        taken = [] if copied else [row.sop_uid for row in rows if row.state == "ACCEPTED"]
        commitment = self._commitment(job, pk, peer, taken)
        if commitment.answer is Answer.WAITING:
            return
        if commitment.answer is Answer.FAILED:
            self._finish(job, pk, study_uid, "FAILED", commitment.detail)
            return
        refused = [row for row in rows if row.state == "REFUSED"]
        kinds = {row.sop_uid: "object" if originals else self._kind(row.sop_uid) for row in rows} if refused else {}
        accepted = {kinds[row.sop_uid] for row in rows if refused and row.state == "ACCEPTED"}
        sentences = list(dict.fromkeys(f"{kinds[row.sop_uid]} refused ({_reason(row)})" for row in refused))
        if len(refused) > len(sentences):
            sentences.append(f"{len(refused)} of {len(rows)} objects refused")
        enough = not originals and bool(accepted) and accepted.issuperset(kind for kind in peer.suffices if kind in set(kinds.values()))
        if not refused:
            told = (f"{len(rows)} objects answered", "de-identified" if copied else "", commitment.detail)
            self._finish(job, pk, study_uid, "DELIVERED", ", ".join(filter(None, told)))
        elif enough:
            self._finish(job, pk, study_uid, "DELIVERED", f"{'; '.join(sentences)}; {', '.join(sorted(accepted))} suffices for {peer.name}")
        else:
            self._finish(job, pk, study_uid, "FAILED", "; ".join(sentences))

    def _commitment(self, job: ClaimedJob, pk: int, peer: Peer, accepted: list[str]) -> Commitment:
        """Of a peer that commits: how far that is; of any other, nothing more is wanted."""
        if not peer.commitment or not accepted:
            return Commitment(Answer.COMMITTED)
        references = []
        for uid in accepted:
            with contextlib.suppress(NotFound, Damaged):
                references.append(Reference(self._archive.open_instance(uid).sop_class_uid, uid))
        if not references:
            return Commitment(Answer.FAILED, f"deleted here before {peer.name} committed anything")
        return self._ask(job, peer, pk, references)

    def _kind(self, uid: str) -> str:
        try:
            return kind_of(self._archive.open_instance(uid).sop_class_uid) or "object"
        except (NotFound, Damaged):
            return "object"

    def _finish(self, job: ClaimedJob, pk: int, study_uid: str, state: str, detail: str) -> None:
        now = self._clock()
        log.info("delivery.ended", delivery=pk, state=state)
        with self._database.begin() as connection:
            self._queue.fence(connection, job)
            deliveries.finish(connection, pk, state, detail, now=now)
            facts = {"delivery": pk, "state": state, "detail": detail}
            audit.record(connection, "delivery.ended", actor="delivery", study_uid=study_uid, detail=facts, at=now)
            if state == "FAILED":
                self._queue.fail(job, detail, connection=connection)
            else:
                self._queue.complete(connection, job, detail)


def _copy(association: Requestor, stored: StoredInstance, copies: Copies) -> Answered:
    """Send a copy without identity."""
    if not association.accepts(stored.sop_class_uid, EXPLICIT_VR_LITTLE_ENDIAN):
        return Answered("REFUSED", NOT_ACCEPTED, "the peer accepts no presentation context for this class, uncompressed")
    try:
        return judge(association.store(copies.item(stored)))
    except Refused as error:
        return Answered("REFUSED", None, f"not de-identified: {error.reason}")
    except ChildrenBusy:
        return Answered("SCHEDULED", None, "no child was free to decode it")


def _reason(row: DeliveryInstanceRecord) -> str:
    """The peer's status alone, because its comment, which stands in the row, may name the patient; our own words where it was not asked."""
    if row.status is None:
        return row.comment or ""
    return f"{row.status:04X}{', no such objects are taken' if row.status == NOT_ACCEPTED else ''}"


class _Checked:
    """A data set as it is read: its last bytes are given out only where all of them have the archived digest.

    An object that is deleted while it is sent is thus never whole at the peer.
    """

    def __init__(self, stream: FileIO, length: int, digest: str) -> None:
        self._stream = stream
        self._left = length
        self._digest = digest
        self._hasher = blake3.blake3()

    def readinto(self, buffer: memoryview) -> int:
        count = self._stream.readinto(buffer) or 0
        self._hasher.update(buffer[:count])
        self._left -= count
        if self._left <= 0 and self._hasher.hexdigest() != self._digest:
            raise Damaged("the data set is not the one that was archived")
        return count

    def close(self) -> None:
        self._stream.close()


def store_item(stored: StoredInstance) -> StoreItem:
    """An archived instance as the SCU sends it: the data set's bytes from where they lie."""

    def open_data() -> BinaryIO:
        stream = open(stored.path, "rb", buffering=0)  # noqa: SIM115  the SCU closes it
        stream.seek(stored.offset + stored.meta_length)
        return cast(BinaryIO, _Checked(stream, length, stored.digest))

    length = stored.length - stored.meta_length
    return StoreItem(stored.sop_class_uid, stored.sop_uid, stored.transfer_syntax_uid, length, open_data)


def open_association(config: Config, peer: Peer, items: list[StoredInstance]) -> Requestor:
    """Associate for exactly the classes and syntaxes of these instances."""
    contexts = dict.fromkeys((item.sop_class_uid, item.transfer_syntax_uid) for item in items)
    return associate_peer(config, peer, [(abstract, [syntax]) for abstract, syntax in contexts])
