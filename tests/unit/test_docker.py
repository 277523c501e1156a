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
    compose = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    assert f"orthanc:{orthanc['StorageDirectory']}" in compose, "what Orthanc keeps outlives its container"
    assert orthanc["IndexDirectory"] == orthanc["StorageDirectory"]


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


def test_orthancs_users_reach_its_configuration_whatever_a_password_holds(tmp_path: Path) -> None:
    """The script that compose gives Orthanc's container, run here: compose turns ``$$`` into ``$``."""
    compose = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    script = compose.partition("      - |\n")[2].partition("    ports:")[0].replace("$$", "$")
    script = script.replace("/etc/orthanc.json", str(DOCKER / "orthanc.json")).replace("/tmp/orthanc.json", str(tmp_path / "made.json"))
    users = {"me": "a|b&c\\d$e'f\"g"}
    environment = {"PATH": "/usr/bin:/bin", "ORTHANC_USERS": json.dumps(users)}
    subprocess.run(["sh", "-c", script.replace("exec Orthanc", "exec true")], env=environment, check=True)
    made = json.loads((tmp_path / "made.json").read_text(encoding="utf-8"))
    assert made["RegisteredUsers"] == users


def test_the_readme_starts_compose_with_what_compose_asks_for() -> None:
    compose = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    readme = (DOCKER.parent / "README.md").read_text(encoding="utf-8")
    (command,) = (line for line in readme.splitlines() if "docker compose" in line and line.startswith("    "))
    for name in re.findall(r"\$\{(\w+):\?", compose):
        assert f"{name}=" in command
