"""``dicom-node release``: as a person calls it, with good and bad bundles and reports."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from dicom_node.cli.main import main
from dicom_node.config import Config
from dicom_node.releases.files import read_release
from models.bundle import load_bundle
from models.errors import BundleInvalid
from tests.node import settings
from tests.releases import GATE, report, version


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return settings(tmp_path / "node")


@pytest.fixture
def call(config: Config, capsys: pytest.CaptureFixture[str]) -> Any:
    """Call the program in this process; its exit code, what it printed and what it complained of."""

    def command(*arguments: object) -> tuple[int, str, str]:
        file = config.node.data_dir.parent / "node.toml"
        code = main([*(str(each) for each in arguments), "--config", str(file)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return command


def test_from_candidate_to_deployed_and_back(call: Any, config: Config, tmp_path: Path) -> None:
    first, second = version(tmp_path, "1"), version(tmp_path, "2")
    code, out, err = call("release", "add", first, "--evaluation", report(first))
    assert (code, err) == (0, "")
    assert "tiny 1 (" in out
    assert "added as a candidate" in out
    assert "with its evaluation on phantoms (test, 12 items)" in out
    assert call("release", "shadow", "tiny", "--reason", "look")[1].endswith("is shadow\n")
    code, out, _ = call("release", "deploy", "tiny", "--reason", "good")
    assert code == 0
    assert "met: dice.Bright on phantoms: 0.95, at least 0.9 asked for" in out
    call("release", "add", second, "--evaluation", report(second))
    code, out, _ = call("release", "deploy", "tiny@2", "--reason", "better", "--json")
    done = json.loads(out)
    assert (done["release"]["version"], done["replaced"]["version"], done["judged"][0]["met"]) == ("2", "1", True)
    listed = [line.split("\t") for line in call("release", "list", "tiny")[1].splitlines()]
    assert [(row[0], row[1], row[3]) for row in listed] == [("tiny", "2", "deployed"), ("tiny", "1", "retired")]
    code, out, _ = call("release", "rollback", "tiny")
    assert (code, "tiny 1 (" in out, "is deployed" in out) == (0, True, True)
    assert [each["state"] for each in json.loads(call("release", "list", "--json")[1])] == ["retired", "deployed"]
    shown = call("release", "show", "tiny@1")[1]
    for line in ("candidate > shadow by", "shadow > deployed by", ": good", "deployed > retired", "retired > deployed", ": rolled back"):
        assert line in shown
    assert "met: dice.Bright on phantoms" in shown
    assert json.loads(call("release", "show", "tiny@1", "--json")[1])["evaluations"][0]["metrics"]["accuracy"]["value"] == 1.0
    assert call("release", "rollback", "tiny")[0] == 1
    assert call("release", "retire", "tiny@1", "--reason", "enough")[0] == 0


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"dice": 0.85}, "dice.Bright on phantoms: 0.85, at least 0.9 asked for"),
        ({"dice": None}, "dice.Bright on phantoms: undefined, at least 0.9 asked for"),
        ({"metrics": {"dice.Dark": {"value": 1}}}, "dice.Bright on phantoms: not in the report"),
        ({"data": "others"}, "no evaluation of it on the test split of 'phantoms'; there are some on 'others' (test)"),
    ],
)
def test_figures_that_do_not_suffice_are_refused(call: Any, tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    bundle = version(tmp_path, "1")
    if "metrics" in changes:
        path = report(bundle, **changes)
    elif "data" in changes:
        path = report(bundle, data=changes["data"])
    else:
        path = report(bundle, dice=changes["dice"])
    assert call("release", "add", bundle, "--evaluation", path)[0] == 0
    code, out, err = call("release", "deploy", "tiny", "--reason", "please")
    assert (code, out) == (1, "")
    assert "is not deployed" in err
    assert why in err
    assert "candidate" in call("release", "list")[1]
    assert "NOT MET" in call("release", "show", "tiny")[1]


def test_the_newest_report_counts(call: Any, tmp_path: Path) -> None:
    bundle = version(tmp_path, "1")
    for dice in (0.95, 0.5):
        call("release", "add", bundle, "--evaluation", report(bundle, dice=dice))
    assert call("release", "deploy", "tiny", "--reason", "x")[0] == 1
    assert "known, and candidate" in call("release", "add", bundle, "--evaluation", report(bundle, dice=0.97))[1]
    assert call("release", "deploy", "tiny", "--reason", "x")[0] == 0


def test_without_a_report_or_without_a_gate_nothing_is_deployed(call: Any, tmp_path: Path) -> None:
    gated, free = version(tmp_path, "1"), version(tmp_path, "2", gate="")
    call("release", "add", gated)
    assert "there is no evaluation of it" in call("release", "deploy", "tiny", "--reason", "x")[2]
    call("release", "add", free, "--evaluation", report(free))
    assert "nothing says what it must reach" in call("release", "deploy", "tiny@2", "--reason", "x")[2]


def test_what_the_node_asks_for_comes_on_top(call: Any, config: Config, tmp_path: Path) -> None:
    bundle = version(tmp_path, "1")
    call("release", "add", bundle, "--evaluation", report(bundle))
    file = config.node.data_dir.parent / "node.toml"
    plain = file.read_text()
    ask = '\n[[release_gate]]\nmodel = "tiny"\ndata = "phantoms"\n'
    file.write_text(plain + ask + 'minima = { "accuracy" = 0.9 }\nmaxima = { "dice.Bright" = 0.9 }\n')
    assert "dice.Bright on phantoms: 0.95, at most 0.9 asked for" in call("release", "deploy", "tiny", "--reason", "x")[2]
    file.write_text(plain + ask + 'minima = { "accuracy" = 0.9 }\n')
    assert call("release", "deploy", "tiny", "--reason", "x")[0] == 0
    file.write_text(plain + ask)
    code, _, err = call("release", "list")
    assert code == 2
    assert "minima or maxima are needed" in err


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is no evaluation report"),
        (b"[]", "is no evaluation report"),
        (b'{"schema": 2}', "'schema'"),
        (b'{"schema": 1, "metrics": {"a": {"value": NaN}}}', "NaN stands where a number is needed"),
        (b'{"schema": 1, "metrics": {}}', "'metrics'"),
        (b"[" * 100_000, "is no evaluation report"),
        (b"\xff\xfe", "is no evaluation report"),
    ],
)
def test_a_broken_report_is_refused_and_nothing_is_added(call: Any, config: Config, tmp_path: Path, content: bytes, why: str) -> None:
    bundle = version(tmp_path, "1")
    path = tmp_path / "report.json"
    path.write_bytes(content)
    code, _, err = call("release", "add", bundle, "--evaluation", path)
    assert (code, why in err) == (1, True), err
    assert not config.releases_root.exists(), "nothing of it was copied"
    assert call("release", "add", bundle, "--evaluation", tmp_path / "absent.json")[0] == 1


def test_the_report_of_another_bundle_is_refused(call: Any, tmp_path: Path) -> None:
    first, second = version(tmp_path, "1"), version(tmp_path, "2")
    code, _, err = call("release", "add", first, "--evaluation", report(second))
    assert code == 1
    assert "the report is not of this bundle" in err
    assert call("release", "list")[1] == ""


def test_a_changed_folder_does_not_reach_the_release(call: Any, config: Config, tmp_path: Path) -> None:
    bundle = version(tmp_path, "1")
    digest = load_bundle(bundle).digest
    call("release", "add", bundle, "--evaluation", report(bundle))
    (bundle / "dicom.toml").write_text("nonsense")
    assert call("release", "deploy", "tiny", "--reason", "x")[0] == 0
    assert read_release(config.releases_root, digest).version == "1"


def test_a_release_whose_files_changed_or_went_is_refused_and_put_back_by_adding_it(call: Any, config: Config, tmp_path: Path) -> None:
    bundle = version(tmp_path, "1")
    digest = load_bundle(bundle).digest
    call("release", "add", bundle, "--evaluation", report(bundle))
    file = config.releases_root / digest / "dicom.toml"
    file.chmod(0o644)
    file.write_text(file.read_text().replace("Tests", "Others"))
    with pytest.raises(BundleInvalid, match="have changed"):
        read_release(config.releases_root, digest)
    code, _, err = call("release", "deploy", "tiny", "--reason", "x")
    assert (code, "have changed" in err) == (1, True)
    assert "have changed" in call("release", "show", "tiny")[1]
    assert call("release", "add", bundle)[0] == 0
    assert call("release", "deploy", "tiny", "--reason", "x")[0] == 0
    (config.releases_root / digest).rename(tmp_path / "elsewhere")
    assert "are missing" in call("release", "show", "tiny")[1]


def hostile_link(root: Path) -> None:
    (root / "scripts").symlink_to("/etc")


def hostile_file_link(root: Path) -> None:
    (root / "configs" / "train.json").symlink_to("/dev/zero")


def hostile_pipe(root: Path) -> None:
    os.mkfifo(root / "configs" / "pipe")


def hostile_name(root: Path) -> None:
    (root / "configs" / "a\nb.json").write_text("{}")


def hostile_weights(root: Path) -> None:
    with (root / "dicom.toml").open("a") as stream:
        stream.write(f'[[weights]]\nfile = "../../secret.pt"\nsha256 = "{"0" * 64}"\n')


def missing_weights(root: Path) -> None:
    with (root / "dicom.toml").open("a") as stream:
        stream.write(f'[[weights]]\nfile = "models/model.pt"\nsha256 = "{"0" * 64}"\n')


def unpinned_weights(root: Path) -> None:
    (root / "models").mkdir()
    (root / "models" / "model.pt").write_bytes(b"weights")


@pytest.mark.parametrize(
    "spoil", [hostile_link, hostile_file_link, hostile_pipe, hostile_name, hostile_weights, missing_weights, unpinned_weights]
)
def test_a_hostile_or_broken_bundle_is_not_taken_in(call: Any, config: Config, tmp_path: Path, spoil: Any) -> None:
    bundle = version(tmp_path, "1", gate=GATE)
    spoil(bundle)
    code, _, err = call("release", "add", bundle)
    assert code == 1
    assert err.startswith("dicom-node: ")
    assert call("release", "list")[1] == ""
    assert [each.name for each in config.releases_root.iterdir() if not each.name.startswith(".lock")] == []


def test_what_was_interrupted_is_swept_by_the_next_command(call: Any, config: Config, tmp_path: Path) -> None:
    stray = config.releases_root / ".incoming-0123"
    stray.mkdir(parents=True)
    (stray / "dicom.toml").write_text("half")
    bundle = version(tmp_path, "1")
    assert call("release", "add", bundle)[0] == 0
    assert sorted(each.name for each in config.releases_root.iterdir()) == sorted([".lock", "history.jsonl", load_bundle(bundle).digest])


def test_one_that_ships_is_added_by_its_name(call: Any) -> None:
    code, out, err = call("release", "add", "brain_extraction")
    assert code == 0, err
    assert "brain_extraction" in out
    code, _, err = call("release", "add", "no_such_bundle")
    assert (code, "there is no bundle 'no_such_bundle'" in err) == (1, True)
