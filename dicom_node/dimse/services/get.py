"""C-GET (PS3.4 C.4.3): instances come back on the same association, as C-STORE where the requestor is the SCP."""

from __future__ import annotations

from dicom_node.dimse.association import Acceptor
from dicom_node.dimse.errors import ABORT_BY_PROVIDER, REASON_NOT_SPECIFIED, AssociationAborted
from dicom_node.dimse.message import C_GET_RQ, Command
from dicom_node.dimse.services.progress import PENDING, Progress, Steps
from dicom_node.dimse.services.retrieve_run import SubOperationRun
from dicom_node.dimse.services.retrieving import RetrieveService, Retrieving
from dicom_node.dimse.suboperations import StoreChannel
from storage.archive import StoredInstance
from storage.errors import StorageError


class GetService(RetrieveService):
    """Answers C-GET."""

    field = C_GET_RQ

    def send(self, retrieving: Retrieving, instances: list[StoredInstance]) -> None:
        association, request = retrieving.association, retrieving.message.command
        progress, steps = Progress(len(instances)), Steps(len(instances))

        def other(command: Command) -> None:
            if command.message_id == request.message_id:
                progress.canceled.set()

        def settled() -> None:
            if not progress.canceled.is_set() and steps.due(progress.counts):
                retrieving.respond(PENDING, progress.counts)

        def listen() -> None:
            if not progress.canceled.is_set() and association.canceled(retrieving.message):
                progress.canceled.set()
            settled()

        channel = StoreChannel(association.connection, association.context.max_pdu, store_contexts(association), other=other)
        run = SubOperationRun(self._archive, self._transcoding, instances, progress, self._buffers, priority=request.priority)
        try:
            run.run(channel, settled=settled, listen=listen)
            retrieving.conclude(progress)
        except StorageError as error:  # in the middle of a large instance: what is out cannot be taken back
            association.connection.abort(ABORT_BY_PROVIDER, REASON_NOT_SPECIFIED)
            raise AssociationAborted(ABORT_BY_PROVIDER, message=f"an instance could not be sent to its end: {error}") from error
        finally:
            run.close()


def store_contexts(association: Acceptor) -> dict[tuple[str, str], int]:
    """The presentation contexts on which the requestor takes C-STORE."""
    agreed, roles = association.context.contexts.values(), association.context.scp_roles
    return {(each.abstract_syntax, each.transfer_syntax): each.id for each in agreed if each.abstract_syntax in roles}
