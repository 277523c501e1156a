"""What was deployed stays deployed when the index is lost, and comes along in a backup."""

from __future__ import annotations

import time
from pathlib import Path

from dicom_node.checks import meaning
from dicom_node.config import Config
from dicom_node.node import prepare
from dicom_node.releases import lifecycle
from dicom_node.releases.files import read_release
from storage import releases
from storage.database import open_database
from tests.node import command, rule, settings
from tests.releases import report, version


def states(config: Config) -> list[tuple[str, str]]:
    database = open_database(config.database_url)
    with database.read() as connection:
        found = [(each.version, each.state) for each in releases.every(connection)]
    database.close()
    return found


def two_deployed(tmp_path: Path) -> Config:
    """A node whose second release is deployed, beside a folder of the same name."""
    config = settings(tmp_path / "node", more=rule())
    prepare(config)
    database = open_database(config.database_url)
    for number in ("1", "2"):
        bundle = version(tmp_path / "v", number)
        lifecycle.add(config, database, bundle, report(bundle), who="ada", reason="x", now=time.time())
        lifecycle.deploy(config, database, f"tiny@{number}", who="ada", reason="x", now=time.time())
    database.close()
    (tmp_path / "node" / "bundles").mkdir()
    version(tmp_path / "v", "0", gate="").rename(tmp_path / "node" / "bundles" / "tiny")
    return config


def test_an_index_that_was_lost_is_rebuilt_with_its_releases(tmp_path: Path) -> None:
    config = two_deployed(tmp_path)
    known = states(config)
    assert known == [("2", "deployed"), ("1", "retired")]
    for path in config.node.data_dir.glob("index.sqlite*"):
        path.unlink()
    done = command(config, "archive", "reindex")
    assert done.returncode == 0, done.stderr
    prepare(config)
    assert states(config) == known
    meant = meaning(config, "tiny")
    assert meant.live is not None
    assert meant.live.bundle.version == "2", "not the folder's"
    back = command(config, "release", "rollback", "tiny")
    assert back.returncode == 0, back.stderr
    assert states(config) == [("2", "retired"), ("1", "deployed")]


def test_a_backup_brings_releases_along(tmp_path: Path) -> None:
    config = two_deployed(tmp_path)
    done = command(config, "backup", str(tmp_path / "backup"))
    assert done.returncode == 0, done.stderr
    other = settings(tmp_path / "other")
    done = command(other, "restore", str(tmp_path / "backup"))
    assert done.returncode == 0, done.stderr
    assert states(other) == states(config)
    database = open_database(other.database_url)
    with database.read() as connection:
        for each in releases.every(connection):
            assert read_release(other.releases_root, each.digest).version == each.version
    database.close()
    assert command(other, "release", "rollback", "tiny").returncode == 0
