"""A peer, pynetdicom's, that takes nothing but MR images, and answers as it is told."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from pydicom.uid import MRImageStorage
from pynetdicom import AE, evt

from dicom_node.dimse.contexts import EXPLICIT_VR_LITTLE_ENDIAN


@contextlib.contextmanager
def mr_peer(store: Callable[[evt.Event], Any]) -> Iterator[int]:
    """Listen as PACS; ``store`` returns the status of each C-STORE. Gives the port."""
    ae = AE("PACS")
    ae.add_supported_context(MRImageStorage, EXPLICIT_VR_LITTLE_ENDIAN)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    assert server is not None
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
