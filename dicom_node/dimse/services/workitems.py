"""Unified Procedure Steps (PS3.4 annex CC) by DIMSE: UPS Push, Pull, Watch and Query.

The functions of :mod:`storage.workitems` decide, here as over HTTP; this module reads their arguments from messages, and makes responses
of what they say. Whichever SOP class an association is for, a workitem is an instance of UPS Push (PS3.4 CC.3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import structlog

from dicom_node.dimse.association import UNRECOGNIZED_OPERATION, Acceptor, Message
from dicom_node.dimse.contexts import UPS_PULL, UPS_PUSH, UPS_QUERY, UPS_WATCH
from dicom_node.dimse.errors import IdentifierTooLong
from dicom_node.dimse.json_dataset import MAX_DATA_SET, InvalidDataSet, decode, encode
from dicom_node.dimse.message import C_FIND_RQ, N_ACTION_RQ, N_CREATE_RQ, N_GET_RQ, N_SET_RQ, frame_command_split, frame_data_set
from dicom_node.dimse.normalized import (
    INVALID_ARGUMENT,
    MISTYPED_ARGUMENT,
    NO_SUCH_ACTION,
    NO_SUCH_SOP_CLASS,
    RESOURCE_LIMITATION,
    attribute_identifiers,
    encode_normalized_response,
    type_id,
)
from dicom_node.dimse.services.workitem_find import WorkitemFind
from dicom_node.dimse.services.workitem_watch import SUBSCRIBE, SUSPEND, UNSUBSCRIBE, Watchers
from storage import workitem_values as values
from storage import workitems
from storage.database import Database
from storage.errors import StorageError, WorkitemRefused
from storage.jobs import JobQueue
from storage.workitem_values import Json, text

log = structlog.get_logger()

SUCCESS: Final = 0x0000
SOME_ATTRIBUTES_NOT_SUPPORTED: Final = 0x0001
PROCESSING_FAILURE: Final = 0x0110
CHANGE_STATE, REQUEST_CANCEL = 1, 2
# What each SOP class is for (PS3.4 table CC.2-1).
OPERATIONS: Final[Mapping[str, frozenset[int]]] = {
    UPS_PUSH: frozenset({N_CREATE_RQ, N_ACTION_RQ, N_GET_RQ}),
    UPS_WATCH: frozenset({N_ACTION_RQ, N_GET_RQ, C_FIND_RQ}),
    UPS_PULL: frozenset({C_FIND_RQ, N_GET_RQ, N_SET_RQ, N_ACTION_RQ}),
    UPS_QUERY: frozenset({C_FIND_RQ, N_GET_RQ}),
}
ACTIONS: Final[Mapping[str, frozenset[int]]] = {
    UPS_PUSH: frozenset({REQUEST_CANCEL}),
    UPS_PULL: frozenset({CHANGE_STATE}),
    UPS_WATCH: frozenset({REQUEST_CANCEL, SUBSCRIBE, UNSUBSCRIBE, SUSPEND}),
}
_HAS_NO_DATA_SET: Final = frozenset({N_GET_RQ})
_MAY_BE_EMPTY: Final = frozenset({REQUEST_CANCEL})


class _Answer(NamedTuple):
    """How a request ended; ``uid`` is that of the workitem."""

    status: int = SUCCESS
    comment: str = ""
    uid: str = ""
    dataset: Json | None = None


class _Request(NamedTuple):
    """A request that may be carried out."""

    uid: str
    dataset: Json
    by: str
    action: int | None


class WorkitemService:
    """Answers N-CREATE, N-GET, N-SET, N-ACTION and C-FIND of workitems.

    Parameters
    ----------
    ring
        Tells other processes that something happened to a workitem.
    max_results
        After so many matches a C-FIND ends with a warning.
    """

    def __init__(
        self,
        database: Database,
        queue: JobQueue,
        watchers: Watchers,
        *,
        clock: Callable[[], float],
        ring: Callable[[], None],
        max_results: int = 10_000,
    ) -> None:
        self._database = database
        self._queue = queue
        self._watchers = watchers
        self._clock = clock
        self._ring = ring
        self._find = WorkitemFind(database, max_results=max_results)
        self._carry_out = {N_CREATE_RQ: self._create, N_GET_RQ: self._get, N_SET_RQ: self._set, N_ACTION_RQ: self._action}

    def handle(self, association: Acceptor, message: Message) -> None:
        field = message.command.field
        if field == C_FIND_RQ and field in OPERATIONS[message.context.abstract_syntax]:
            self._find.handle(association, message)
            return
        if field not in self._carry_out:
            association.respond(message, UNRECOGNIZED_OPERATION)
            return
        answer = self._answer(association, message)
        association.drain()
        if answer.status != SUCCESS:
            log.info("workitem.answered", command=field, status=f"{answer.status:04X}", comment=answer.comment)
        context, limit = message.context, association.context.max_pdu
        data = None if answer.dataset is None else encode(answer.dataset, context.transfer_syntax)
        command = encode_normalized_response(
            message.command, answer.status, answer.comment, sop_instance_uid=answer.uid, has_data_set=data is not None
        )
        sent = frame_command_split(context.id, command, limit)
        association.connection.send(sent if data is None else sent + frame_data_set(context.id, data, limit))

    def _answer(self, association: Acceptor, message: Message) -> _Answer:
        refused = self._refused(association, message)
        if refused is not None:
            return refused
        field = message.command.field
        try:
            dataset = self._data_set(association, message)
            request = _Request(message.command.sop_instance_uid, dataset, association.context.calling_ae, type_id(message.command))
            return self._carry_out[field](message, request)
        except IdentifierTooLong:
            return _Answer(RESOURCE_LIMITATION, f"a data set of more than {MAX_DATA_SET} bytes")
        except InvalidDataSet as error:
            return _Answer(INVALID_ARGUMENT if field == N_ACTION_RQ else values.INVALID_ATTRIBUTE_VALUE, str(error))
        except WorkitemRefused as error:
            return _Answer(error.status, error.comment)
        except StorageError as error:
            return _Answer(PROCESSING_FAILURE, error.comment)

    def _refused(self, association: Acceptor, message: Message) -> _Answer | None:
        """What is wrong with a request before its data set is looked at."""
        command, abstract = message.command, message.context.abstract_syntax
        if command.field not in OPERATIONS[abstract]:
            return _Answer(UNRECOGNIZED_OPERATION, "not an operation of this SOP class")
        if command.sop_class_uid not in (UPS_PUSH, abstract):
            return _Answer(NO_SUCH_SOP_CLASS, "the SOP class of a workitem is UPS Push")
        if command.field == N_ACTION_RQ and type_id(command) not in ACTIONS[abstract]:
            return _Answer(NO_SUCH_ACTION, "not an action of this SOP class")
        if not _allowed(association, message):
            return _Answer(values.NOT_AUTHORIZED, "this AE title may not do that with workitems")
        if command.field in _HAS_NO_DATA_SET and command.has_data_set:
            return _Answer(MISTYPED_ARGUMENT, "this request has no data set")
        if not command.sop_instance_uid and command.field != N_CREATE_RQ:
            return _Answer(values.INVALID_ATTRIBUTE_VALUE, "the request names no SOP Instance")
        return None

    def _data_set(self, association: Acceptor, message: Message) -> Json:
        command = message.command
        if command.has_data_set:
            return decode(association.read_identifier(MAX_DATA_SET), message.context.transfer_syntax)[0]
        if command.field in _HAS_NO_DATA_SET or (command.field == N_ACTION_RQ and type_id(command) in _MAY_BE_EMPTY):
            return {}
        status = INVALID_ARGUMENT if command.field == N_ACTION_RQ else values.MISSING_ATTRIBUTE
        raise WorkitemRefused(status, "the request has no data set")

    # ------------------------------------------------------------ operations

    def _create(self, message: Message, request: _Request) -> _Answer:
        uid = request.uid or text(request.dataset, values.SOP_INSTANCE) or values.new_uid()
        with self._database.begin() as connection:
            _, status = workitems.create(connection, uid, request.dataset, by=request.by, now=self._clock())
        log.info("workitem.created", workitem=uid, by=request.by)
        self._ring()
        return _Answer(status, "created with modifications" if status else "", uid)

    def _get(self, message: Message, request: _Request) -> _Answer:
        try:
            wanted = [f"{tag:08X}" for tag in attribute_identifiers(message.command)]
        except ValueError as error:
            return _Answer(MISTYPED_ARGUMENT, str(error))
        with self._database.read() as connection:
            shown = workitems.get(connection, request.uid).shown
        if not wanted:
            return _Answer(dataset=shown)
        found = {name: shown[name] for name in wanted if name in shown}
        if len(found) < len(set(wanted)):
            return _Answer(SOME_ATTRIBUTES_NOT_SUPPORTED, "some attributes are not there", dataset=found)
        return _Answer(dataset=found)

    def _set(self, message: Message, request: _Request) -> _Answer:
        with self._database.begin(durable=False) as connection:
            workitems.change(connection, request.uid, request.dataset, by=request.by, now=self._clock())
        self._ring()
        return _Answer()

    def _action(self, message: Message, request: _Request) -> _Answer:
        if request.action == CHANGE_STATE:
            return self._change_state(request)
        if request.action == REQUEST_CANCEL:
            return self._request_cancel(request)
        assert request.action is not None
        status = self._watchers.act(request.action, request.uid, request.dataset, by=request.by)
        return _Answer(status, "the deletion lock was not granted" if status else "")

    def _change_state(self, request: _Request) -> _Answer:
        state, lock = text(request.dataset, values.STATE), text(request.dataset, values.TRANSACTION)
        durable = state != workitems.State.IN_PROGRESS  # a claim that a power cut takes back is claimed again
        with self._database.begin(durable=durable) as connection:
            status = workitems.change_state(connection, request.uid, state, lock, by=request.by, now=self._clock(), queue=self._queue)
        log.info("workitem.state", workitem=request.uid, state=state, by=request.by)
        self._ring()
        return _Answer(status, f"the workitem is {state} already" if status else "")

    def _request_cancel(self, request: _Request) -> _Answer:
        with self._database.begin() as connection:
            status = workitems.request_cancel(connection, self._queue, request.uid, request.dataset, by=request.by, now=self._clock())
        log.info("workitem.cancel_requested", workitem=request.uid, by=request.by)
        self._ring()
        return _Answer(status, "the workitem is CANCELED already" if status else "")


def _allowed(association: Acceptor, message: Message) -> bool:
    """Reading and watching needs what a query needs; everything else a right of its own."""
    context, command = association.context, message.command
    if context.peer is None:
        return False
    reads = command.field == N_GET_RQ or (command.field == N_ACTION_RQ and type_id(command) in (SUBSCRIBE, UNSUBSCRIBE, SUSPEND))
    return context.may_manage_workitems or (reads and context.may_query)
