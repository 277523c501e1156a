"""From what was measured to a profile."""

from __future__ import annotations

import tomllib

import pytest

from dicom_node.config import Config, Peer
from dicom_node.probe.commitment import Committed
from dicom_node.probe.conversation import KindProbed, Probed
from dicom_node.probe.profile import recommended, toml


def kinds(*taken: str, lost: tuple[str, ...] = ()) -> tuple[KindProbed, ...]:
    every = ("IMAGE", "SEG", "FRACTIONAL", "LABELMAP", "SR", "KO", "SC", "SC_MULTIFRAME", "PR")
    return tuple(KindProbed(kind, "1.2", kind in taken, "said", (), False if kind in lost else None) for kind in every)


@pytest.mark.parametrize(
    ("taken", "lost", "profile"),
    [
        (("SEG", "LABELMAP", "SR", "SC"), (), ("SEG", "SR")),
        (("LABELMAP", "SR"), (), ("LABELMAP", "SR")),
        (("SR", "PR", "KO"), (), ("SR", "PR")),
        (("SC", "KO"), (), ("KO", "SC")),
        (("SC",), (), ("SC",)),
        (("SEG", "SR", "SC"), ("SEG",), ("SR", "SC")),  # it answered Success and does not have it
        ((), (), ()),
    ],
)
def test_what_is_recommended(taken: tuple[str, ...], lost: tuple[str, ...], profile: tuple[str, ...]) -> None:
    assert recommended(kinds(*taken, lost=lost)) == profile


def test_a_profile_keeps_what_is_configured_and_can_be_read_again() -> None:
    peer = Peer.model_validate(
        {"name": "ward", "ae_title": "WARD", "host": "h", "port": 104, "addresses": ["10.0.0.0/8"], "may_store": False, "results": ["SEG"]}
    )
    probed = Probed("ward", "1.2", kinds("SC", "KO"), ("rle",), "found", Committed(True, "reported 2 of 2", frozenset({"1", "2"})))
    text = "\n".join(toml(probed, peer))
    (read,) = Config.model_validate(tomllib.loads(text)).peer
    assert read == peer.model_copy(update={"results": ("KO", "SC"), "suffices": ("SC",), "commitment": True})
