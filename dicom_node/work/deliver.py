"""The deliver handler: archived results go to a peer, exactly the archived bytes, until each has its answer.

What may pass (no connection, an abort, out of resources) is tried again with backoff. What stays (unsupported class, wrong data set) stops
at once; where the peer is sent the forms that its profile calls sufficient, a form that it refuses is not taken, and nobody need act.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
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
from dicom_node.work.sharing import Shared, SharedAssociations, contexts_of
from storage import audit, deliveries
from storage.archive import Archive, StoredInstance
from storage.database import Database
from storage.errors import Damaged, NotFound
from storage.jobs import ClaimedJob, JobQueue
from storage.records import DeliveryInstanceRecord, DeliveryRecord

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
        self._shared = SharedAssociations()

    def __call__(self, job: ClaimedJob) -> None:
        pk = int(job.payload["delivery_pk"])
        with self._database.read() as connection:
            delivery = deliveries.get_delivery(connection, pk)
            waiting = deliveries.instances_of(connection, pk, pending=True)
            companions = deliveries.companions_of(connection, pk, now=self._clock())
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
                targets = [UIDS[name] for name in named if name in UIDS]
                if delivery.run_pk is not None and not peer.commitment:  # one that commits is asked on an association of its own between
                    fresh = [each.pk for each in companions if each.fresh and job.attempts == 1]
                    self._send_shared(answers, peer, items, targets, delivery, fresh)
                else:
                    self._send(answers, peer, items, targets, copies)
        self._conclude(job, delivery, peer)

    def rest(self) -> None:
        """Release the association that this thread left open: there is nothing more to send."""
        self._shared.rest()

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
        wanted = copies.contexts(items) if copies else _with(items, targets)
        with _tried_again(peer), open_association(self._config, peer, wanted) as opened:
            self._store_each(answers, peer, opened, items, targets, copies)

    def _send_shared(
        self,
        answers: Answers,
        peer: Peer,
        items: list[StoredInstance],
        targets: Sequence[str],
        delivery: DeliveryRecord,
        fresh: Sequence[int],
    ) -> None:
        """Send on the association that the last form left open, or a new one, which is left open while another form is due."""
        assert delivery.run_pk is not None
        wanted = _with(items, targets)
        shared = self._shared.take(delivery.run_pk, peer.name, contexts_of(wanted))
        with _tried_again(peer):
            if shared is None:
                wanted += _with(self._ahead(delivery.study_uid, peer, fresh), targets)
                shared = Shared(delivery.run_pk, peer.name, open_association(self._config, peer, wanted), contexts_of(wanted))
            try:
                self._store_each(answers, peer, shared.association, items, targets)
            except BaseException:
                shared.association.abort()
                raise
        self._shared.leave(shared)
        if not fresh:
            self._shared.rest()

    def _ahead(self, study_uid: str, peer: Peer, fresh: Sequence[int]) -> list[StoredInstance]:
        """What the other forms will send, as far as it is there and the peer takes it."""
        with self._database.read() as connection:
            uids = [row.sop_uid for pk in fresh for row in deliveries.instances_of(connection, pk, pending=True)]
        there = self._stored(study_uid, uids).values()
        return [each for each in there if each is not None and offered_as(each.sop_class_uid, peer)]

    def _store_each(
        self,
        answers: Answers,
        peer: Peer,
        association: Requestor,
        items: list[StoredInstance],
        targets: Sequence[str],
        copies: Copies | None = None,
    ) -> None:
        stored = items[0]
        try:
            for stored in items:
                answers.add(stored.sop_uid, _copy(association, stored, copies) if copies else self._store(association, stored, targets))
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

    def _conclude(self, job: ClaimedJob, delivery: DeliveryRecord, peer: Peer) -> None:
        with self._database.read() as connection:
            rows = deliveries.instances_of(connection, delivery.pk)
        waiting = [row for row in rows if row.state == "SCHEDULED"]
        if waiting:
            last = waiting[0]
            answer = f"{last.status:04X}" if last.status is not None else "no answer"  # its comment, in the row, is the peer's own text
            raise TryAgain(f"{peer.name} has not taken {len(waiting)} of {len(rows)} objects yet: {answer}")
        copied = "deidentify" in job.payload  # the peer knows them under other UIDs, and must not learn these: it is not asked to commit
        taken = [] if copied else [row.sop_uid for row in rows if row.state == "ACCEPTED"]
        commitment = self._commitment(job, delivery.pk, peer, taken)
        if commitment.answer is Answer.WAITING:
            return
        if commitment.answer is Answer.FAILED:
            self._finish(job, delivery, "FAILED", commitment.detail)
            return
        offered = [row for row in rows if row.state != "NOT_OFFERED"]
        if rows and not offered:
            self._finish(job, delivery, "NOT_TAKEN", f"the profile of {peer.name} takes no {delivery.form or 'such object'}")
        elif any(row.state == "REFUSED" for row in rows):
            self._finish(job, delivery, *self._refused(delivery, peer, rows))
        else:
            count = "1 object" if len(rows) == 1 else f"{len(rows)} objects"
            told = (f"{count} answered", "de-identified" if copied else "", commitment.detail)
            self._finish(job, delivery, "DELIVERED", ", ".join(filter(None, told)))

    def _refused(self, delivery: DeliveryRecord, peer: Peer, rows: Sequence[DeliveryInstanceRecord]) -> tuple[str, str]:
        """State and detail of a delivery of which something was refused for good: whether that is enough for the peer."""
        refused = [row for row in rows if row.state == "REFUSED"]
        originals = delivery.run_pk is None
        kinds = {row.sop_uid: "object" if originals else delivery.form or self._kind(row.sop_uid) for row in rows}
        sentences = list(dict.fromkeys(f"{kinds[row.sop_uid]} refused ({_reason(row)})" for row in refused))
        if len(refused) > len(sentences):
            sentences.append(f"{len(refused)} of {len(rows)} objects refused")
        accepted = {kinds[row.sop_uid] for row in rows if row.state == "ACCEPTED"}
        with self._database.read() as connection:
            others = [each for each in deliveries.companions_of(connection, delivery.pk, now=self._clock()) if delivery.form and each.form]
        # One that still waits counts: should it be refused as well, that is said by its own delivery.
        good = accepted | {each.form for each in others if each.state in ("SCHEDULED", "DELIVERED")}
        needed = {*kinds.values(), *(each.form for each in others)}.intersection(peer.suffices)
        if originals or not good or not good.issuperset(needed):
            return "FAILED", "; ".join(sentences)
        told = f"{'; '.join(sentences)}; {', '.join(sorted(needed or good))} suffices for {peer.name}"
        return "DELIVERED" if accepted else "NOT_TAKEN", told

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

    def _finish(self, job: ClaimedJob, delivery: DeliveryRecord, state: str, detail: str) -> None:
        now, pk = self._clock(), delivery.pk
        log.info("delivery.ended", delivery=pk, form=delivery.form, state=state)
        with self._database.begin() as connection:
            self._queue.fence(connection, job)
            deliveries.finish(connection, pk, state, detail, now=now)
            facts = {"delivery": pk, "peer": delivery.peer, "form": delivery.form, "state": state, "detail": detail}
            audit.record(connection, "delivery.ended", actor="delivery", study_uid=delivery.study_uid, detail=facts, at=now)
            if state == "FAILED":
                self._queue.fail(job, detail, connection=connection)
            else:
                self._queue.complete(connection, job, detail)


@contextlib.contextmanager
def _tried_again(peer: Peer) -> Iterator[None]:
    """What goes wrong with an association may pass."""
    try:
        yield
    except DimseError as error:
        raise TryAgain(f"{peer.name}, {error.step}: {error}") from error


def _with(items: Sequence[StoredInstance], targets: Sequence[str]) -> list[StoredInstance]:
    """The instances, and as what they are offered beside: their contexts are proposed."""
    return [*items, *(replace(each, transfer_syntax_uid=target) for target in targets for each in items if changes_to(each, target))]


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
