"""Small versions of the campaigns: kill -9 of every role, and power cuts where a loop-mounted file system can be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.campaigns import kill9, powercut

pytestmark = [pytest.mark.xdist_group("campaigns")]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kill_9_of_each_role_loses_nothing_acknowledged(tmp_path: Path) -> None:
    done = kill9.campaign(tmp_path / "node", len(kill9.ROLES), 1, kill9.ROLES, every=len(kill9.ROLES))
    assert sum(kill.verdict.acknowledged for kill in done) > 0
    assert all(kill.verdict.good for kill in done), [str(kill.verdict) for kill in done]


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.timeout(300)
def test_a_power_cut_loses_nothing_acknowledged(tmp_path: Path) -> None:
    try:
        with powercut.disk(tmp_path, size_mb=4096) as place:
            verdicts = powercut.cut_node(place, cuts=2, seed=1)
    except powercut.Unsupported as why:
        pytest.skip(f"no file system whose power can be cut: {why}")
    assert verdicts[-1].acknowledged > 0
    assert all(verdict.good for verdict in verdicts), [str(verdict) for verdict in verdicts]
