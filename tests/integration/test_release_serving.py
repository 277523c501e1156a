"""What a running node makes of releases: the deployed one runs, the one in the shadow looks on, and its results say who they are."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_node.releases import lifecycle
from dicom_node.releases.shadow import summarise
from storage import release_watch
from storage.records import ReleaseRecord, RunRecord
from tests.node import StepNode, bright_series, command, peer, rule, running, send, settings, uid_of
from tests.releases import report, version

SEG, SR = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34"


def add(node: StepNode, bundle: Path) -> ReleaseRecord:
    config, database = node.node.config, node.node.database
    return lifecycle.add(config, database, bundle, report(bundle), who="ada", reason="added", now=time.time()).release


def deploy(node: StepNode, release: ReleaseRecord) -> None:
    lifecycle.deploy(node.node.config, node.node.database, release.digest, who="ada", reason="good", now=time.time())


def study(node: StepNode, folder: Path, **more: object) -> str:
    """Send a study of its own and have it worked on."""
    images = bright_series(**more)  # type: ignore[arg-type]
    send(node, images, folder / uid_of(images))
    node.work()
    return uid_of(images)


def runs_of(node: StepNode, study_uid: str) -> list[RunRecord]:
    return [each.run for each in node.story(study_uid).runs]


def objects(node: StepNode, study_uid: str) -> list[str]:
    return sorted(each.sop_class_uid for each in node.node.archive.instances(study_uid) if each.sop_class_uid in (SEG, SR))


def test_the_deployed_release_runs_and_its_report_names_digest_and_evaluation(tmp_path: Path) -> None:
    first, second = version(tmp_path / "v", "1"), version(tmp_path / "v", "2")
    with running(settings(tmp_path / "node", more=rule())) as node:
        a, b = add(node, first), add(node, second)
        deploy(node, a)
        uid = study(node, tmp_path)
        (run,) = runs_of(node, uid)
        assert (run.state, run.release_pk, run.release_digest, run.bundle_version, run.shadow) == ("COMPLETED", a.pk, a.digest, "1", False)
        stored = next(each for each in node.node.archive.instances(uid) if each.sop_class_uid == SR)
        texts = dcmread(stored.file()).to_json()
        assert f"release digest = {a.digest}" in texts
        assert "evaluation = dice.Bright 0.95 (95 % interval 0.9 to 0.99) on phantoms, test split, 12 items; report " in texts
        deploy(node, b)
        assert runs_of(node, study(node, tmp_path))[0].release_digest == b.digest
        lifecycle.rollback(node.node.config, node.node.database, "tiny", who="ada", reason="bad", now=time.time())
        assert runs_of(node, study(node, tmp_path))[0].release_digest == a.digest


def test_a_run_that_was_planned_ends_with_the_release_that_it_was_planned_with(tmp_path: Path) -> None:
    first, second = version(tmp_path / "v", "1"), version(tmp_path / "v", "2")
    with running(settings(tmp_path / "node", more=rule())) as node:
        a, b = add(node, first), add(node, second)
        deploy(node, a)
        images = bright_series()
        send(node, images, tmp_path / "files")
        node.complete()
        assert node.route.step()
        deploy(node, b)
        node.work()
        assert [(run.state, run.release_digest) for run in runs_of(node, uid_of(images))] == [("COMPLETED", a.digest)]


def test_a_release_in_the_shadow_looks_on_and_sends_nothing(tmp_path: Path) -> None:
    first, second = version(tmp_path / "v", "1"), version(tmp_path / "v", "2", threshold=90.0)
    with running(settings(tmp_path / "pacs", title="PACS")) as pacs:
        with running(settings(tmp_path / "node", more=peer("pacs", pacs.port) + rule("pacs"))) as node:
            a, b = add(node, first), add(node, second)
            deploy(node, a)
            lifecycle.shadow(node.node.config, node.node.database, b.digest, who="ada", reason="look", now=time.time())
            uid = study(node, tmp_path)
            live, looking = runs_of(node, uid)
            assert (live.release_digest, live.shadow, live.state) == (a.digest, False, "COMPLETED")
            assert (looking.release_digest, looking.shadow, looking.state) == (b.digest, True, "COMPLETED")
            assert (looking.deliver_to, looking.compared_with) == ([], live.pk)
            assert looking.agreement is not None
            bright = looking.agreement["segments"]["Bright"]
            assert (bright["live_voxels"], bright["shadow_voxels"]) == (18, 720)
            assert bright["dice"] == pytest.approx(2 * 18 / (18 + 720))
            volumes = looking.agreement["measurements"][0]
            assert volumes["shadow"] > volumes["live"] > 0
            assert objects(node, uid) == objects(pacs, uid) == [SEG, SR]
            assert all(not each.deliveries for each in node.story(uid).runs if each.run.shadow)
            told = command(node.node.config, "study", "show", uid).stdout
            assert "tiny 2 in the shadow (not shown as a result, not sent), COMPLETED" in told
            assert f"beside run {live.pk}: Bright, Dice 0.0488" in told
            shown = command(node.node.config, "release", "show", "tiny@2").stdout
            assert "1 runs (1 COMPLETED), 1 compared with what went out" in shown
            assert "Bright: Dice 0.0488 on average" in shown

            deploy(node, b)  # the same input again, now for good: what only looked on does not stand in its way
            assert command(node.node.config, "study", "rerun", uid, "--reason", "with the new one").returncode == 0
            node.work()
            newest = runs_of(node, uid)[-1]
            assert (newest.release_digest, newest.shadow, newest.state, newest.predecessor_pk) == (b.digest, False, "COMPLETED", live.pk)
            assert objects(pacs, uid) == [SEG, SEG, SR, SR]


def test_agreement_where_both_find_nothing_and_where_one_release_stands_alone(tmp_path: Path) -> None:
    with running(settings(tmp_path / "node", more=rule())) as node:
        b = add(node, version(tmp_path / "v", "2"))
        lifecycle.shadow(node.node.config, node.node.database, "tiny", who="ada", reason="look", now=time.time())
        uid = study(node, tmp_path)
        (looking,) = runs_of(node, uid)
        assert (looking.state, looking.shadow, looking.compared_with, looking.agreement) == ("COMPLETED", True, None, None)
        assert objects(node, uid) == []
        assert "no release of tiny was deployed yet; 1 look on" in command(node.node.config, "study", "show", uid).stdout
        deploy(node, add(node, version(tmp_path / "v", "1", threshold=900.0)))
        uid = study(node, tmp_path, bright=False)
        live, looking = runs_of(node, uid)
        assert (live.shadow, looking.shadow, looking.compared_with) == (False, True, live.pk)
        assert looking.agreement is not None
        assert looking.agreement["segments"]["Bright"] == {"dice": 1.0, "live_voxels": 0, "shadow_voxels": 0}
        with node.node.database.read() as connection:
            summary = summarise(release_watch.shadow_runs(connection, b.pk))
        assert (summary.runs, summary.compared, summary.dice) == (2, 1, {"Bright": (1.0, 1.0)})


def test_a_shadow_that_fails_leaves_the_result_alone(tmp_path: Path) -> None:
    first, second = version(tmp_path / "v", "1"), version(tmp_path / "v", "2", fault="raise")
    with running(settings(tmp_path / "node", more=rule() + "[executor]\nattempts = 1\n")) as node:
        deploy(node, add(node, first))
        broken = add(node, second)
        lifecycle.shadow(node.node.config, node.node.database, "tiny@2", who="ada", reason="look", now=time.time())
        uid = study(node, tmp_path)
        assert [(run.shadow, run.state) for run in runs_of(node, uid)] == [(False, "COMPLETED"), (True, "FAILED")]
        assert objects(node, uid) == [SEG, SR]
        with node.node.database.read() as connection:
            assert summarise(release_watch.shadow_runs(connection, broken.pk)).states == {"FAILED": 1}


def test_a_study_is_rerun_by_an_earlier_release_but_by_none_that_may_not_be_used(tmp_path: Path) -> None:
    versions = [version(tmp_path / "v", each) for each in "123"]
    with running(settings(tmp_path / "node", more=rule())) as node:
        first, second, third = (add(node, bundle) for bundle in versions)
        deploy(node, first)
        deploy(node, second)
        uid = study(node, tmp_path)
        asked = ["study", "rerun", uid, "--reason", "compare", "--release"]
        done = command(node.node.config, *asked, "tiny@1")
        assert done.returncode == 0, done.stderr
        node.work()
        newer, older = runs_of(node, uid)
        assert (newer.release_digest, older.release_digest, older.predecessor_pk) == (second.digest, first.digest, newer.pk)
        assert (older.state, older.shadow) == ("COMPLETED", False)
        assert len(objects(node, uid)) == 4
        never = command(node.node.config, *asked, third.digest)
        assert (never.returncode, "was never deployed" in never.stderr) == (1, True)
        assert command(node.node.config, "release", "recall", "tiny@1", "--reason", "bad").returncode == 0
        recalled = command(node.node.config, *asked, "tiny@1")
        assert (recalled.returncode, "was recalled" in recalled.stderr) == (1, True)
        for step in (["deploy", "tiny@1"], ["shadow", "tiny@1"], ["rollback", "tiny"]):
            refused = command(node.node.config, "release", *step, "--reason", "after all")
            assert (refused.returncode, "was recalled" in refused.stderr) == (1, True), step
        assert node.work() == 0


def test_a_folder_counts_until_the_first_release_is_deployed(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    in_folder = version(tmp_path / "v", "0", gate="")
    (folder / "bundles").mkdir(parents=True)
    in_folder.rename(folder / "bundles" / "tiny")
    with running(settings(folder, more=rule())) as node:
        release = add(node, version(tmp_path / "v", "1"))
        (run,) = runs_of(node, study(node, tmp_path))
        assert (run.bundle_version, run.release_pk, run.state) == ("0", None, "COMPLETED")
        deploy(node, release)
        assert runs_of(node, study(node, tmp_path))[0].bundle_version == "1"
        lifecycle.retire(node.node.config, node.node.database, "tiny", who="ada", reason="wrong", now=time.time())
        uid = study(node, tmp_path)
        assert runs_of(node, uid) == []
        told = command(node.node.config, "study", "show", uid).stdout
        assert "no release of tiny is deployed any more" in told
        assert "FAILED" not in told


def test_a_damaged_release_fails_the_routing_and_says_so(tmp_path: Path) -> None:
    with running(settings(tmp_path / "node", more=rule())) as node:
        release = add(node, version(tmp_path / "v", "1"))
        deploy(node, release)
        kept = node.node.config.releases_root / release.digest
        kept.rename(tmp_path / "elsewhere")
        uid = study(node, tmp_path)
        assert runs_of(node, uid) == []
        assert "the files of release" in command(node.node.config, "study", "show", uid).stdout
        (tmp_path / "elsewhere").rename(kept)
        assert command(node.node.config, "job", "retry", "1").returncode == 0
        node.work()
        assert [run.state for run in runs_of(node, uid)] == ["COMPLETED"]


def test_a_late_image_renews_the_shadow_too(tmp_path: Path) -> None:
    images = bright_series(slices=7)
    with running(settings(tmp_path / "node", more=rule())) as node:
        deploy(node, add(node, version(tmp_path / "v", "1")))
        add(node, version(tmp_path / "v", "2"))
        lifecycle.shadow(node.node.config, node.node.database, "tiny@2", who="ada", reason="look", now=time.time())
        send(node, images[:6], tmp_path / "early")
        node.work()
        send(node, images[6:], tmp_path / "late")
        node.work()
        found = runs_of(node, uid_of(images))
        assert [(run.shadow, run.study_revision, run.state) for run in found if run.state == "COMPLETED"] == [
            (False, 6, "COMPLETED"), (True, 6, "COMPLETED"), (False, 7, "COMPLETED"), (True, 7, "COMPLETED"),
        ]  # fmt: skip
        live = next(run for run in found if not run.shadow and run.study_revision == 7)
        assert live.predecessor_pk == found[0].pk
        assert next(run for run in found if run.shadow and run.study_revision == 7).compared_with == live.pk
