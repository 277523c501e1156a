"""A node that cannot do what its configuration says refuses to start, and says why; one whose model is broken receives all the same."""

from __future__ import annotations

import time
from pathlib import Path

from dicom_node.checks import check_all, meaning, refuse_unknown_models
from dicom_node.config import Config
from dicom_node.node import prepare
from dicom_node.releases import lifecycle
from storage.database import open_database
from tests.node import command, rule, settings
from tests.releases import report, version


def checked(config: Config) -> tuple[bool, str]:
    """What ``check`` says of the rule's model."""
    return next((each.ok, each.detail) for each in check_all(config) if each.subject == "model tiny")


def test_serve_refuses_a_rule_that_names_no_model(tmp_path: Path) -> None:
    config = settings(tmp_path, more=rule())
    done = command(config, "serve")
    assert done.returncode == 2
    assert "rule 'bright' runs 'tiny': there is no bundle 'tiny'; known: " in done.stderr
    assert "ready" not in done.stdout


def test_serve_refuses_a_device_that_is_not_there(tmp_path: Path) -> None:
    config = settings(tmp_path, more='[executor]\ndevices = ["cuda:61"]\n')
    done = command(config, "serve")
    assert done.returncode == 2
    assert "the device 'cuda:61' in [executor] devices cannot be used: torch sees " in done.stderr
    told = command(config, "check").stdout
    assert "cuda:61" in told
    assert "FAILED" in told


def test_check_tells_which_bundle_a_rule_means(tmp_path: Path) -> None:
    config = settings(tmp_path / "node", more=rule())
    assert checked(config)[0] is False
    bundle = version(tmp_path, "1")
    prepare(config)
    database = open_database(config.database_url)
    release = lifecycle.add(config, database, bundle, report(bundle), who="ada", reason="x", now=time.time()).release
    assert checked(config) == (False, "no release of tiny was deployed yet; 1 known: dicom-node release list tiny")
    refuse_unknown_models(config)  # known, though not to be run yet: receiving goes on
    (tmp_path / "node" / "bundles").mkdir()
    version(tmp_path, "0", gate="").rename(tmp_path / "node" / "bundles" / "tiny")
    ok, detail = checked(config)
    assert ok
    assert "since no release of it was ever deployed" in detail
    lifecycle.deploy(config, database, "tiny", who="ada", reason="x", now=time.time())
    ok, detail = checked(config)
    assert (ok, detail.endswith("the deployed release")) == (True, True)
    assert release.digest[:12] in detail
    lifecycle.retire(config, database, "tiny", who="ada", reason="x", now=time.time())
    assert checked(config) == (True, "nothing is run: no release of tiny is deployed any more")
    assert meaning(config, "tiny").live is None
    lifecycle.shadow(config, database, "tiny", who="ada", reason="x", now=time.time())
    assert checked(config)[1].endswith("; 1 in the shadow")
    (config.releases_root / release.digest / "dicom.toml").chmod(0o600)
    (config.releases_root / release.digest / "dicom.toml").write_text("[model")
    assert meaning(config, "tiny").shadows == ()
    database.close()
