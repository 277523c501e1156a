"""Storage (PS3.4 annex B): instances are streamed into the archive, and answered when they are durable there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import structlog

from dicom_node.dimse.association import UNRECOGNIZED_OPERATION, Acceptor, AssociationContext, Message
from dicom_node.dimse.message import C_STORE_RQ
from storage.errors import CannotUnderstand, DataSetMismatch, IndexUnavailable, NoSpace, ReadOnly, StorageError

log = structlog.get_logger()

SUCCESS: Final = 0x0000
COERCION_OF_DATA_ELEMENTS: Final = 0xB000
SOP_CLASS_NOT_SUPPORTED: Final = 0x0122
NOT_AUTHORIZED: Final = 0x0124
PROCESSING_FAILURE: Final = 0x0110
OUT_OF_RESOURCES: Final = 0xA700
DATA_SET_DOES_NOT_MATCH: Final = 0xA900
CANNOT_UNDERSTAND: Final = 0xC000
CONFLICT: Final = 0xC001

STATUS_OF_ERROR: Final[Mapping[type[StorageError], int]] = {
    NoSpace: OUT_OF_RESOURCES,
    ReadOnly: OUT_OF_RESOURCES,
    IndexUnavailable: OUT_OF_RESOURCES,
    DataSetMismatch: DATA_SET_DOES_NOT_MATCH,
    CannotUnderstand: CANNOT_UNDERSTAND,
    StorageError: PROCESSING_FAILURE,
}


class Receipt(Protocol):
    """What became of an instance; ``outcome.name`` is one of the archive's outcomes."""

    @property
    def outcome(self) -> Any: ...
    @property
    def detail(self) -> str: ...


class Writer(Protocol):
    """One instance on its way in."""

    def write(self, fragments: Sequence[memoryview | bytes], /) -> None: ...
    def commit(self) -> Receipt: ...
    def abandon(self) -> None: ...


class Session(Protocol):
    """An association's way into the archive."""

    def begin(self, *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> Writer: ...
    def close(self) -> None: ...


class OpenSession(Protocol):
    """Opens an association's session, at its first C-STORE."""

    def __call__(self, context: AssociationContext, /) -> Session: ...


def status_of(error: StorageError) -> int:
    """The status that tells a storage error to the peer."""
    return next(STATUS_OF_ERROR[kind] for kind in type(error).__mro__ if kind in STATUS_OF_ERROR)


class StoreService:
    """Answers C-STORE.

    Parameters
    ----------
    open_session
        Called once per association, before its first instance.
    conflict_status
        The answer to other content under a known UID: 0xCxxx, or 0xB000 for senders that would repeat it for ever.
    """

    def __init__(self, open_session: OpenSession, *, conflict_status: int = CONFLICT) -> None:
        if conflict_status != COERCION_OF_DATA_ELEMENTS and conflict_status >> 12 != 0xC:
            raise ValueError(f"conflict status {conflict_status:#06x}: use 0xC000 to 0xCFFF, or 0xB000")
        self._open_session = open_session
        self._status_of_outcome = {
            "STORED": SUCCESS,
            "DUPLICATE": SUCCESS,
            "OWN_RESULT": SUCCESS,
            "CONFLICT": conflict_status,
            "QUARANTINED": CANNOT_UNDERSTAND,
        }

    def handle(self, association: Acceptor, message: Message) -> None:
        status, comment = self._refusal(association, message)
        if status == SUCCESS:
            status, comment = self._store(association, message)
        if status == SUCCESS:
            association.context.stored += 1
        else:
            uid = message.command.sop_instance_uid[:64]
            log.warning("instance.refused", sop_instance_uid=uid, status=f"{status:04X}", comment=comment)
        association.respond(message, status, comment)

    def _refusal(self, association: Acceptor, message: Message) -> tuple[int, str]:
        command = message.command
        if command.field != C_STORE_RQ:
            return UNRECOGNIZED_OPERATION, ""
        if not association.context.may_store:
            return NOT_AUTHORIZED, "this AE title may not store here"
        if command.sop_class_uid != message.context.abstract_syntax:
            return SOP_CLASS_NOT_SUPPORTED, "SOP class is not that of the presentation context"
        if not command.has_data_set:
            return CANNOT_UNDERSTAND, "no data set"
        return SUCCESS, ""

    def _store(self, association: Acceptor, message: Message) -> tuple[int, str]:
        try:
            receipt = self._write(association, message)
        except StorageError as error:
            return status_of(error), error.comment
        status = self._status_of_outcome[receipt.outcome.name]
        return status, receipt.detail if status != SUCCESS else ""

    def _write(self, association: Acceptor, message: Message) -> Receipt:
        command = message.command
        writer = self._session(association).begin(
            sop_class_uid=command.sop_class_uid,
            sop_instance_uid=command.sop_instance_uid,
            transfer_syntax_uid=message.context.transfer_syntax,
        )
        try:
            for fragments in association.data():
                writer.write(fragments)
        except BaseException:
            writer.abandon()
            raise
        return writer.commit()

    def _session(self, association: Acceptor) -> Session:
        resources = association.context.resources
        session: Session | None = resources.get("store")
        if session is None:
            association.ensure_opened()
            session = resources["store"] = self._open_session(association.context)
        return session
