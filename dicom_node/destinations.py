"""Where C-MOVE may send: the configured peers that have a host, by AE title."""

from __future__ import annotations

from dicom_node.config import Config, Peer
from dicom_node.dimse.scu import Requestor
from dicom_node.work.associating import associate_peer


class PeerDestinations:
    """The move destinations of a configuration."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._peers: dict[str, Peer] = {}
        for peer in config.destinations:
            self._peers.setdefault(peer.ae_title, peer)

    def knows(self, ae_title: str) -> bool:
        return ae_title in self._peers

    def associate(self, ae_title: str, contexts: list[tuple[str, list[str]]]) -> Requestor:
        """Associate with a peer; raises DimseError."""
        return associate_peer(self._config, self._peers[ae_title], contexts)
