"""A source beyond its quota, in a whole node: its study waits and says so, what a person asks for does not; a wrong table is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dicom_node.config import parse
from dicom_node.errors import ConfigurationError
from tests.node import bright_series, command, rule, running, send, settings, uid_of
from tests.tiny_bundle import tiny_bundle

QUOTA = '\n[[quota]]\nfrom = ["SCAN*"]\nruns = 1\nper = "1h"\n'


def test_what_is_beyond_the_quota_waits_and_is_explained(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "bundles")
    config = settings(tmp_path, more=rule() + QUOTA)
    studies = [bright_series() for _ in range(2)]
    with running(config) as node:
        for number, images in enumerate(studies):
            assert set(send(node, images, tmp_path / str(number))) == {0}
            node.work()
        first, second = (node.story(uid_of(images)).runs[0].run for images in studies)
        assert (first.state, second.state) == ("COMPLETED", "SCHEDULED")
        assert second.reason is not None
        assert second.reason.endswith("at most 1 run in 1 h")
        told = command(config, "study", "show", uid_of(studies[1])).stdout
        assert "waits for the quota of" in told
        assert "not before" in told
        (standing,) = json.loads(command(config, "job", "quotas", "--json").stdout)
        assert (standing["used"], standing["waiting"]) == ([1], 1)
        assert "1 of at most 1 run in 1 h" in command(config, "job", "quotas").stdout
        done = command(config, "study", "rerun", uid_of(studies[1]), "--reason", "it is needed now")
        assert done.returncode == 0, done.stderr
        node.work()
        states = [each.run.state for each in node.story(uid_of(studies[1])).runs]
        assert sorted(states) == ["CANCELED", "COMPLETED"]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('from = ["CT*"]\nruns = 0\nper = "1h"', "runs"),
        ('from = []\nruns = 1\nper = "1h"', "from"),
        ('from = ["CT*"]\nruns = 1', "per"),
        ('form = ["CT*"]\nruns = 1\nper = "1h"', "from"),
    ],
)
def test_a_wrong_quota_is_refused_by_its_key(table: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        parse(f"[[quota]]\n{table}\n")
