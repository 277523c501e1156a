"""Releases under a real ``dicom-node serve``: taken up without a restart and without dropping a run; and a command killed at any step."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dicom_node.config import Config
from dicom_node.node import prepare
from dicom_node.releases import lifecycle
from storage import releases
from storage.database import Database, open_database
from storage.records import RunRecord
from tests.e2e.test_serve import Served, eventually, serving
from tests.node import bright_series, command, peer, rule, running, send_to, settings, uid_of
from tests.releases import report, version

pytestmark = pytest.mark.xdist_group("serve")

SEG, SR = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34"
# A model that says on disk that it has begun, and goes on when the test says so.
HELD = (
    "$lambda x: (open({began!r}, 'w').close(), "
    "list(iter(lambda: __import__('os').path.exists({go!r}) or __import__('time').sleep(0.02), True)), x)[2]"
)


def held(bundle: Path, began: Path, go: Path) -> Path:
    """Make a version of the tiny bundle wait in its postprocessing."""
    file = bundle / "configs" / "inference.json"
    content = json.loads(file.read_text())
    wait = {"_target_": "Lambdad", "keys": "pred", "func": HELD.format(began=str(began), go=str(go))}
    content["postprocessing"]["transforms"].append(wait)
    file.write_text(json.dumps(content))
    return bundle


def succeeds(config: Config, *arguments: object) -> str:
    done = command(config, *(str(each) for each in arguments))
    assert done.returncode == 0, done.stderr
    return done.stdout


def add(config: Config, database: Database, bundle: Path) -> lifecycle.Added:
    return lifecycle.add(config, database, bundle, report(bundle), who="ada", reason="new", now=time.time())


def deploy(config: Config, database: Database, which: str) -> None:
    lifecycle.deploy(config, database, which, who="ada", reason="good", now=time.time())


def runs_of(node: Served, study_uid: str) -> list[RunRecord]:
    story = node.story(study_uid)
    return [each.run for each in story.runs] if story is not None else []


def inference_pids(node: Served) -> tuple[int, list[int]]:
    """The inference worker and its warm child."""
    role = eventually(lambda: node.role("worker", "--device"))
    return role.pid, [child.pid for child in role.children()]


def test_a_running_node_takes_up_a_release_and_drops_no_run(tmp_path: Path) -> None:
    began, go = tmp_path / "began", tmp_path / "go"
    first, second = held(version(tmp_path / "v", "1"), began, go), version(tmp_path / "v", "2")
    studies = [bright_series() for _ in range(4)]
    uids = [uid_of(images) for images in studies]
    folder = tmp_path / "node"
    with running(settings(tmp_path / "pacs", title="PACS")) as pacs:
        config = settings(folder, quiet="0.2s", more=peer("pacs", pacs.port) + rule("pacs"))
        prepare(config)
        database = open_database(config.database_url)
        for bundle in (first, second):
            add(config, database, bundle)
        deploy(config, database, "tiny@1")
        database.close()
        with serving(folder, config) as node:

            def send(number: int) -> None:
                assert set(send_to(node.port, studies[number], tmp_path / str(number), called="NODE")) == {0}

            send(0)
            eventually(began.exists)
            before = inference_pids(node)
            send(1)
            eventually(lambda: [run.state for run in runs_of(node, uids[1])] == ["SCHEDULED"])
            deployed = threading.Thread(target=succeeds, args=(config, "release", "deploy", "tiny@2", "--reason", "better"))
            deployed.start()
            deployed.join()
            assert [run.state for run in runs_of(node, uids[0])] == ["IN_PROGRESS"]
            send(2)
            eventually(lambda: len(runs_of(node, uids[2])) == 1)
            go.touch()
            for uid in uids[:3]:
                eventually(lambda uid=uid: node.delivered(uid))  # type: ignore[misc]
            assert [runs_of(node, uid)[0].bundle_version for uid in uids[:3]] == ["1", "1", "2"]
            succeeds(config, "release", "rollback", "tiny", "--reason", "back")
            send(3)
            eventually(lambda: node.delivered(uids[3]))
            runs = [run for uid in uids for run in runs_of(node, uid)]
            assert [(run.state, run.bundle_version) for run in runs] == [("COMPLETED", each) for each in ("1", "1", "2", "1")]
            assert inference_pids(node) == before, "neither the worker nor its warm child was started anew"
            assert "role.died" not in node.events()
            for uid in uids:
                got = sorted(each.sop_class_uid for each in pacs.node.archive.instances(uid))
                assert got == [SEG, SR]


DYING = """
import os, signal, sys
from dicom_node.releases import files, lifecycle
from storage import release_watch, releases
module, name, call = {{"files": files, "releases": releases, "release_watch": release_watch}}[{module!r}], {name!r}, {call}
real, calls = getattr(module, name), 0
def dying(*arguments, **more):
    global calls
    calls += 1
    if calls == call:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **more)
setattr(module, name, dying)
from dicom_node.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        ("files", "_copy_file", 3),
        ("files", "_settle", 1),
        ("files", "read_release", 1),
        ("releases", "_event", 1),
        ("release_watch", "add_evaluation", 1),
    ],
)
def test_adding_killed_at_any_step_leaves_nothing_and_can_be_done_again(tmp_path: Path, module: str, name: str, call: int) -> None:
    bundle = version(tmp_path / "v", "1")
    config = settings(tmp_path / "node")
    prepare(config)
    file = str(tmp_path / "node" / "node.toml")
    arguments = ["release", "add", str(bundle), "--evaluation", str(report(bundle)), "--config", file]
    script = DYING.format(module=module, name=name, call=call)
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    database = open_database(config.database_url)
    with database.read() as connection:
        assert releases.every(connection) == []
    assert add(config, database, bundle).new
    deploy(config, database, "tiny")
    database.close()
    kept = [each.name for each in config.releases_root.iterdir() if each.is_dir()]
    assert len(kept) == 1, "what was left half-way is gone"


@pytest.mark.parametrize(("name", "call"), [("_move", 1), ("_move", 2), ("_event", 2)])
def test_deploying_killed_at_any_step_leaves_the_one_before_deployed(tmp_path: Path, name: str, call: int) -> None:
    first, second = version(tmp_path / "v", "1"), version(tmp_path / "v", "2")
    config = settings(tmp_path / "node")
    prepare(config)
    database = open_database(config.database_url)
    for bundle in (first, second):
        add(config, database, bundle)
    deploy(config, database, "tiny@1")
    arguments = ["release", "deploy", "tiny@2", "--reason", "x", "--config", str(tmp_path / "node" / "node.toml")]
    script = DYING.format(module="releases", name=name, call=call)
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with database.read() as connection:
        assert [(each.version, each.state) for each in releases.every(connection)] == [("2", "candidate"), ("1", "deployed")]
        assert [each.after for each in releases.events(connection, 1)] == ["candidate", "deployed"]
    deploy(config, database, "tiny@2")
    database.close()
