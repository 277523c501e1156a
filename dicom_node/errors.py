"""What the application refuses, and what becomes of every error at the edges.

    NodeError
    ├── ConfigurationError     the configuration cannot work; the message names key, value and fix   (exit 2)
    ├── CommandFailed          a command did what it could and that was not enough                   (exit 1)
    └── UsageError             a command was called in a way that makes no sense                     (exit 2)
    JobOutcome                 how a handler leaves a job other than by finishing it
    ├── TryAgain               what failed may pass: back to the queue with backoff
    ├── GiveUp                 what failed stays: the job fails at once
    └── Released               the worker shuts down: back to the queue, the attempt not counted

DIMSE statuses of storage errors stand in :mod:`dicom_node.dimse.services.store`; exit codes and HTTP codes stand here.
"""

from __future__ import annotations

from storage.errors import IndexUnavailable, NoSpace, NotFound, QuarantineConflict, ReadOnly, ReleaseConflict, WorkitemRefused


class NodeError(Exception):
    """Base of what the application raises on purpose; its text says what happened, where, and what to do."""


class ConfigurationError(NodeError):
    """The configuration cannot work."""


class CommandFailed(NodeError):
    """A command did not reach its goal."""


class UsageError(NodeError):
    """A command's arguments make no sense together."""


class JobOutcome(Exception):
    """How a handler leaves a job."""


class TryAgain(JobOutcome):
    """Put the job back; ``delay`` overrides the backoff, ``counted`` tells whether the attempt counts."""

    def __init__(self, why: str, *, delay: float | None = None, counted: bool = True) -> None:
        super().__init__(why)
        self.delay = delay
        self.counted = counted


class GiveUp(JobOutcome):
    """Fail the job for good."""


class Released(JobOutcome):
    """Give the job back untouched."""


EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2


def exit_code(error: BaseException) -> int:
    """The exit code of a command that ended with this error."""
    if isinstance(error, ConfigurationError | UsageError):
        return EXIT_USAGE
    return EXIT_FAILED


def http_status(error: BaseException) -> int:
    """The HTTP status that tells an error to a client."""
    if isinstance(error, WorkitemRefused):
        return _of_workitem(error.status)
    if isinstance(error, NotFound):
        return 404
    if isinstance(error, QuarantineConflict | ReleaseConflict):
        return 409
    if isinstance(error, IndexUnavailable | ReadOnly):
        return 503
    if isinstance(error, NoSpace):
        return 507
    return 500


def _of_workitem(status: int) -> int:
    """PS3.18 11.4 to 11.8: what a workitem's state forbids is a conflict, what is wrong with the values a bad request."""
    if status in (0xC307, 0xC308):
        return 404
    if status == 0x0124:
        return 403
    return 409 if status == 0x0111 or (status >= 0xC300 and status != 0xC309) else 400
