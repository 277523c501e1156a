"""Buffers that are kept, and readers that share them."""

from __future__ import annotations

from dicom_node.buffers import HUGE, Buffers, reserve


def test_a_buffer_is_used_again_and_no_more_are_kept_than_asked_for() -> None:
    buffers = Buffers(kept=2)
    taken = [buffers.take() for _ in range(3)]
    assert len({id(each) for each in taken}) == 3
    for each in taken:
        buffers.give(each)
    again = [buffers.take() for _ in range(3)]
    assert [any(each is old for old in taken) for each in again] == [True, True, False]


def test_a_larger_buffer_is_let_go() -> None:
    buffers = Buffers()
    large = reserve(HUGE + 1)
    assert len(large) >= HUGE + 1
    buffers.give(large)
    assert buffers.take() is not large


def test_a_small_buffer_is_as_large_as_asked_for_and_empty() -> None:
    memory = reserve(10_000)
    assert len(memory) == 10_000
    assert bytes(memory) == bytes(10_000)
