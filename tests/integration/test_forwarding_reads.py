"""A study that goes to three peers is read from the disk once, however often it is asked for."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil
import pytest

from benchmarks.forwarding import forget_pages
from benchmarks.receivers import file_system
from tests.imaging import series
from tests.node import peer, running, send, settings, uid_of


def test_a_study_for_three_peers_comes_from_the_disk_once(tmp_path: Path) -> None:
    if file_system(tmp_path) not in ("ext4", "xfs", "btrfs"):
        pytest.skip("what is read from the disk is counted on local disk file systems")
    images = series(np.random.default_rng(1).integers(0, 2000, (16, 512, 512)).astype(np.int16))
    uid, size = uid_of(images), sum(len(image.PixelData) for image in images)
    with ExitStack() as stack:
        names = ("one", "two", "three")
        peers = [stack.enter_context(running(settings(tmp_path / name, title=name.upper()))) for name in names]
        more = "".join(peer(name, each.port, title=name.upper()) for name, each in zip(names, peers, strict=True))
        more += f'\n[[rule]]\nname = "keep"\nforward = {list(names)}\n'
        with running(settings(tmp_path / "node", more=more)) as node:
            send(node, images, tmp_path / "files")
            node.complete()
            node.route.step()
            assert forget_pages(sorted(node.node.archive.root.rglob("*.tar"))) > size
            before = psutil.Process().io_counters()
            threads = [threading.Thread(target=worker.step) for worker in node.deliveries]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            after = psutil.Process().io_counters()
            assert [each.delivery.state for each in node.story(uid).deliveries] == ["DELIVERED"] * 3
    assert after.read_chars - before.read_chars > 3 * size
    assert size * 0.9 < after.read_bytes - before.read_bytes < size * 1.5
