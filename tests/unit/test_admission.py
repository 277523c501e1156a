"""Who may associate, and what for."""

from __future__ import annotations

import pytest

from dicom_node.dimse.admission import REJECT_CALLED, REJECT_CALLING, Admitted, Caller, KnownPeer, PeerAdmission, Refusal, Unknown

PEERS = [
    KnownPeer("anywhere", "ANY"),
    KnownPeer("bound", "BOUND", ("192.0.2.7", "2001:db8::/32")),
    KnownPeer("second", "BOUND", ("198.51.100.0/24",), may_store=False),
]


def admit(calling: str, address: str = "203.0.113.1", called: str = "NODE", **options: object) -> Admitted | Refusal:
    admission = PeerAdmission(["NODE", "NODE2"], PEERS, **options)  # type: ignore[arg-type]
    return admission.admit(Caller(calling, called, address))


def test_a_peer_without_addresses_may_come_from_anywhere() -> None:
    assert admit("ANY") == Admitted("anywhere", may_store=True)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.7", Admitted("bound", may_store=True)),
        ("::ffff:192.0.2.7", Admitted("bound", may_store=True)),
        ("2001:db8::5%eth0", Admitted("bound", may_store=True)),
        ("198.51.100.9", Admitted("second", may_store=False)),
    ],
)
def test_a_title_counts_from_its_own_addresses(address: str, expected: Admitted) -> None:
    assert admit("BOUND", address) == expected


def test_a_title_from_elsewhere_is_no_stranger_but_an_impostor() -> None:
    verdict = admit("BOUND", "192.0.2.8", unknown=Unknown.STORE)
    assert isinstance(verdict, Refusal)
    assert verdict.rejection == REJECT_CALLING


@pytest.mark.parametrize(
    ("unknown", "expected"), [(Unknown.ECHO, Admitted(None, may_store=False)), (Unknown.STORE, Admitted(None, may_store=True))]
)
def test_strangers(unknown: Unknown, expected: Admitted) -> None:
    assert admit("STRANGER", unknown=unknown) == expected


def test_strangers_refused() -> None:
    verdict = admit("STRANGER", unknown=Unknown.REFUSE)
    assert isinstance(verdict, Refusal)
    assert verdict.rejection == REJECT_CALLING


def test_called_title() -> None:
    assert isinstance(admit("ANY", called="NODE2"), Admitted)
    verdict = admit("ANY", called="ELSE")
    assert isinstance(verdict, Refusal)
    assert verdict.rejection == REJECT_CALLED
    assert isinstance(admit("ANY", called="ELSE", check_called=False), Admitted)
