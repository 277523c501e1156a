"""Who may associate, and what for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Final, Protocol

REJECT_CALLING: Final = (1, 1, 3)
REJECT_CALLED: Final = (1, 1, 7)


class Unknown(Enum):
    """What a caller that is no configured peer may do."""

    REFUSE = "refuse"
    ECHO = "echo"
    STORE = "store"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: titles as sent, address, and the TLS certificate where there is one."""

    calling_ae: str
    called_ae: str
    address: str
    certificate: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Admitted:
    """Let in; ``peer`` is the configured name, None for an unknown caller."""

    peer: str | None
    may_store: bool
    may_query: bool = False
    may_retrieve: bool = False
    may_commit: bool = False
    may_manage_workitems: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """Kept out: result, source and reason of the A-ASSOCIATE-RJ, and why in words for the log."""

    rejection: tuple[int, int, int]
    why: str


class Admission(Protocol):
    """Decides on each association request."""

    def admit(self, caller: Caller) -> Admitted | Refusal: ...


@dataclass(frozen=True, slots=True)
class KnownPeer:
    """A configured peer: its AE title counts only from ``addresses`` (networks or single ones), where any are given."""

    name: str
    ae_title: str
    addresses: tuple[str, ...] = ()
    may_store: bool = True
    may_query: bool = False
    may_retrieve: bool = False
    may_commit: bool = False
    may_manage_workitems: bool = False


@dataclass
class PeerAdmission:
    """Admission by AE title and address.

    Parameters
    ----------
    ae_titles
        Our own titles.
    check_called
        Refuse callers that call us by another title.
    unknown
        What callers that are no peer may do.
    """

    ae_titles: Iterable[str]
    peers: Iterable[KnownPeer] = ()
    check_called: bool = True
    unknown: Unknown = Unknown.ECHO
    _by_title: dict[str, list[KnownPeer]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.ae_titles = frozenset(self.ae_titles)
        self._by_title = {}
        for peer in self.peers:
            self._by_title.setdefault(peer.ae_title, []).append(peer)

    def admit(self, caller: Caller) -> Admitted | Refusal:
        if self.check_called and caller.called_ae not in self.ae_titles:
            return Refusal(REJECT_CALLED, "called AE title is not ours")
        if not caller.calling_ae:
            return Refusal(REJECT_CALLING, "calling AE title is empty")
        known = self._by_title.get(caller.calling_ae)
        if known:
            for peer in known:
                if _matches(caller.address, peer.addresses):
                    rights = peer.may_store, peer.may_query, peer.may_retrieve, peer.may_commit, peer.may_manage_workitems
                    return Admitted(peer.name, *rights)
            return Refusal(REJECT_CALLING, "calling AE title from an address that is not its own")
        if self.unknown is Unknown.REFUSE:
            return Refusal(REJECT_CALLING, "calling AE title is unknown")
        return Admitted(None, self.unknown is Unknown.STORE)


def _matches(address: str, allowed: tuple[str, ...]) -> bool:
    if not allowed:
        return True
    ip: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return any(ip in ip_network(network, strict=False) for network in allowed)
