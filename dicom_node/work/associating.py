"""Associations with configured peers."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence

from dicom_node.config import Config, Peer
from dicom_node.dimse.scu import Requestor, Timeouts, associate


def associate_peer(
    config: Config,
    peer: Peer,
    contexts: Sequence[tuple[str, Sequence[str]]],
    *,
    roles: Mapping[str, tuple[bool, bool]] | None = None,
    calling_ae: str | None = None,
) -> Requestor:
    """Associate with a configured peer, under our own title unless told otherwise.

    Raises
    ------
    DimseError
        With the step that failed: tcp, tls or association.
    """
    assert peer.host is not None
    assert peer.port is not None
    limits = config.delivery
    timeouts = Timeouts(
        connect=limits.connect_timeout,
        handshake=limits.connect_timeout,
        response=limits.response_timeout,
        send=min(Timeouts().send, limits.response_timeout),  # a peer that does not read answers as little
    )
    tls = ssl.create_default_context(cafile=str(peer.tls_ca) if peer.tls_ca else None) if peer.tls else None
    return associate(
        peer.host,
        peer.port,
        calling_ae=calling_ae or config.node.ae_title,
        called_ae=peer.ae_title,
        contexts=contexts,
        timeouts=timeouts,
        tls=tls,
        roles=roles,
    )
