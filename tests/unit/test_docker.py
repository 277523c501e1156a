"""The image's files agree with each other and with the configuration that the node reads."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from dicom_node.config import load

DOCKER = Path(__file__).resolve().parents[2] / "docker"


def test_the_configuration_in_the_image_is_valid_and_names_orthanc_as_it_is() -> None:
    config = load(DOCKER / "node.toml")
    orthanc = json.loads((DOCKER / "orthanc.json").read_text(encoding="utf-8"))
    pacs = config.peer_named("pacs")
    assert (pacs.ae_title, pacs.port) == (orthanc["DicomAet"], orthanc["DicomPort"])
    assert orthanc["DicomModalities"]["node"] == [config.node.ae_title, "node", config.dimse.port]
    assert not orthanc["RegisteredUsers"], "no default password"


def test_the_health_check_and_the_published_port_are_those_of_the_configuration() -> None:
    config = load(DOCKER / "node.toml")
    dockerfile = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    compose = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    assert f"127.0.0.1:{config.web.port}/healthz" in dockerfile
    assert f"EXPOSE {config.dimse.port}" in dockerfile
    assert f"127.0.0.1:{config.dimse.port}:{config.dimse.port}" in compose
    assert str(config.node.data_dir) in dockerfile


def test_the_image_does_not_run_as_root() -> None:
    users = re.findall(r"^USER (\S+)$", (DOCKER / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert users
    assert all(user.split(":")[0] not in {"0", "root"} for user in users)


def test_hadolint_is_quiet() -> None:
    done = subprocess.run([str(Path(sys.executable).parent / "hadolint"), str(DOCKER / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
