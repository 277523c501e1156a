"""Guesses are counted by name and address together: who guesses is stopped, and nobody else is locked out."""

from __future__ import annotations

import pytest

from dicom_node.web import attempts
from dicom_node.web.attempts import TRIES_FROM_ANYWHERE, TRIES_OF_ADDRESS, TRIES_OF_NAME, WINDOW, Attempts, network_of


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def fail(tried: Attempts, name: str, address: str, times: int) -> None:
    for _ in range(times):
        tried.failed(name, address)


def test_who_guesses_a_name_locks_it_for_the_own_address_only() -> None:
    clock = Clock()
    tried = Attempts(clock)
    fail(tried, "ada", "192.0.2.1", TRIES_OF_NAME)
    assert tried.too_many("ada", "192.0.2.1")
    assert not tried.too_many("ada", "192.0.2.2")
    assert not tried.too_many("ben", "192.0.2.1")
    clock.now += WINDOW + 1
    assert not tried.too_many("ada", "192.0.2.1")


def test_an_address_that_guesses_many_names_is_stopped() -> None:
    tried = Attempts()
    for number in range(TRIES_OF_ADDRESS):
        tried.failed(f"name {number}", "192.0.2.1")
    assert tried.too_many("ada", "192.0.2.1")
    assert not tried.too_many("ada", "192.0.2.2")


def test_many_addresses_that_guess_one_name_do_not_lock_out_who_signs_in_where_always() -> None:
    tried = Attempts()
    tried.failed("ada", "192.0.2.7")
    tried.forget("ada", "192.0.2.7", right=True)
    for number in range(TRIES_FROM_ANYWHERE):
        tried.failed("ada", f"198.51.{number // 200}.{number % 200}")
    assert tried.too_many("ada", "203.0.113.1")
    assert not tried.too_many("ada", "192.0.2.7")


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("", ""),
        ("testclient", "testclient"),
    ],
)
def test_a_house_is_one_address(address: str, counted: str) -> None:
    assert network_of(address) == counted


def test_what_is_kept_is_bounded_and_what_counts_stays_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "MOST_KEPT", 60)
    clock = Clock()
    tried = Attempts(clock)
    for number in range(20):
        tried.failed(f"old {number}", f"198.51.100.{number}")
    clock.now += WINDOW + 1
    fail(tried, "ada", "192.0.2.1", TRIES_OF_NAME)
    for number in range(10):
        tried.failed(f"new {number}", f"198.51.101.{number}")
    assert tried.too_many("ada", "192.0.2.1")
    assert len(tried._failed) <= 63
