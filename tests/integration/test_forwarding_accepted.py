"""What a person accepts out of quarantine is sent on like anything that arrives, also where a peer has the content before it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from pynetdicom import evt

from storage import quarantine
from tests.mr_peer import mr_peer
from tests.node import bright_series, command, peer, running, send, settings, uid_of

KEEP = '\n[[rule]]\nname = "keep"\nforward = ["pacs"]\n'


def taking(received: list[tuple[str, str]]) -> contextlib.AbstractContextManager[int]:
    """A peer that keeps SOP Instance UID and Series Description of what it takes."""

    def store(event: evt.Event) -> int:
        received.append((str(event.dataset.SOPInstanceUID), str(event.dataset.SeriesDescription)))
        return 0x0000

    return mr_peer(store)


def test_what_was_accepted_in_place_of_another_is_sent_on_once_more(tmp_path: Path) -> None:
    images = bright_series(3)
    received: list[tuple[str, str]] = []
    with taking(received) as port, running(settings(tmp_path / "node", more=peer("pacs", port) + KEEP)) as node:
        send(node, images, tmp_path / "files")
        node.work()
        assert len(received) == 3

        images[1].SeriesDescription = "corrected"
        (status,) = send(node, images[1:2], tmp_path / "again")
        assert status >> 12 == 0xC
        node.work()
        assert len(received) == 3, "what nobody has accepted goes nowhere"

        (held,) = quarantine.list_held(node.node.archive)
        assert command(node.node.config, "quarantine", "accept", str(held.pk), "--reason", "the scanner was right").returncode == 0
        node.work()
        assert received[3:] == [(str(images[1].SOPInstanceUID), "corrected")]
        assert [each.delivery.state for each in node.story(uid_of(images)).deliveries] == ["DELIVERED"] * 2

        send(node, images[1:2], tmp_path / "once more")
        node.work()
        assert len(received) == 4
