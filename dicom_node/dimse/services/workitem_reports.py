"""UPS Event (PS3.4 CC.2.4) on a subscriber's own association: what waits for it is reported there, one at a time, while it is quiet."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from dicom_node.dimse.association import UNRECOGNIZED_OPERATION, Acceptor, Message
from dicom_node.dimse.contexts import UPS_EVENT, UPS_PUSH
from dicom_node.dimse.json_dataset import encode
from dicom_node.dimse.message import Command
from dicom_node.dimse.normalized import encode_event_report_request
from storage.errors import StorageError
from storage.workitem_events import Notice

log = structlog.get_logger()

RENEWED_EVERY: Final = 10.0
"""Seconds after which an association says anew that it is the one to report on."""
ANSWER_SECONDS: Final = 60.0
_SHORTEST, _LONGEST = 0.05, 0.5


class Reports(Protocol):
    """Where reports wait; every method may raise a StorageError."""

    def hold(self, aet: str, who: str, /) -> bool:
        """Become the one that reports to a subscriber, or stay it."""

    def next(self, aet: str, who: str, /) -> Notice | None: ...

    def answered(self, notice: Notice, status: int, /) -> None: ...

    def leave(self, aet: str, who: str, /) -> None: ...


class WorkitemEventService:
    """Reports to subscribers that associate with UPS Event; takes no requests of it."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports

    def handle(self, association: Acceptor, message: Message) -> None:
        association.respond(message, UNRECOGNIZED_OPERATION)

    def begin(self, association: Acceptor) -> None:
        """Look for reports from now on, where a known peer has agreed to take them."""
        accepted = [context for context in association.context.contexts.values() if context.abstract_syntax == UPS_EVENT]
        if association.context.peer is not None and accepted:
            reporter = _Reporter(association, accepted[0].id, accepted[0].transfer_syntax, self._reports)
            association.context.resources["workitem reports"] = reporter
            association.between_messages(reporter.look)


class _Reporter:
    def __init__(self, association: Acceptor, context_id: int, transfer_syntax: str, reports: Reports) -> None:
        self._association = association
        self._context_id = context_id
        self._transfer_syntax = transfer_syntax
        self._reports = reports
        self._aet = association.context.calling_ae
        self._who = f"association {association.context.id}"
        self._wait = _SHORTEST
        self._renew_at = 0.0
        self._unanswered_since: float | None = None

    def look(self) -> float | None:
        """Report what waits; the seconds until the next look, None where the subscriber answers no more."""
        now = time.monotonic()
        if self._unanswered_since is not None:
            if now - self._unanswered_since > ANSWER_SECONDS:
                self.close()
                return None
            return _SHORTEST
        try:
            return self._report(now)
        except StorageError as error:
            log.warning("workitem.report_waits", why=str(error))
            return _LONGEST

    def close(self) -> None:
        try:
            self._reports.leave(self._aet, self._who)
        except StorageError as error:  # its hold runs out
            log.warning("workitem.report_waits", why=str(error))

    def _report(self, now: float) -> float:
        if now >= self._renew_at:
            if not self._reports.hold(self._aet, self._who):
                return _LONGEST
            self._renew_at = now + RENEWED_EVERY
        notice = self._reports.next(self._aet, self._who)
        if notice is None:
            self._wait = min(self._wait * 2, _LONGEST)
            return self._wait
        self._send(notice)
        self._wait = _SHORTEST
        return _SHORTEST

    def _send(self, notice: Notice) -> None:
        self._unanswered_since = time.monotonic()

        def answered(response: Command) -> None:
            self._unanswered_since = None
            self._reports.answered(notice, response.status)

        data_set = encode(notice.content, self._transfer_syntax)
        self._association.request(self._context_id, event_report(notice), data_set, answered)


def event_report(notice: Notice) -> Callable[[int], bytes]:
    """The N-EVENT-REPORT-RQ of a notice, by message id."""
    return lambda message_id: encode_event_report_request(message_id, UPS_PUSH, notice.uid, notice.type)
