"""Rules on a whole node: originals are sent on, studies are held and ignored, and the commands tell what rules do, would do and would have
done."""

from __future__ import annotations

import json
from pathlib import Path

from pydicom import Dataset, dcmread

from dicom_node.routing.live import LiveRules, running_state
from storage import deliveries
from tests.imaging import as_file
from tests.node import StepNode, bright_series, command, peer, rule, running, send, settings, uid_of
from tests.tiny_bundle import tiny_bundle

FORWARD = """
[[rule]]
name = "keep"
{more}
"""


def keep(more: str) -> str:
    return FORWARD.format(more=more)


def events(node: StepNode, uid: str, event: str) -> list[str]:
    return [str(each.detail["reason"]) for each in node.story(uid).audit if each.event == event]


def held_at(node: StepNode, uid: str) -> set[str]:
    return {stored.sop_uid for stored in node.node.archive.instances(uid)}


def uids(images: list[Dataset]) -> set[str]:
    return {str(image.SOPInstanceUID) for image in images}


def test_originals_are_sent_on_in_the_syntax_asked_for_once_and_not_back(tmp_path: Path) -> None:
    images = bright_series()
    uid = uid_of(images)
    back = peer("node", 9, title="NODE") + keep('forward = ["node"]')  # nobody listens there: nothing may be tried
    with running(settings(tmp_path / "pacs", title="PACS", more=back)) as pacs:
        forward = 'forward = [{ to = ["pacs"], series = { Modality = "MR" }, transfer_syntax = "rle" }]\npriority = 7'
        with running(settings(tmp_path / "node", more=peer("pacs", pacs.port) + keep(forward))) as node:
            send(node, images[:-1], tmp_path / "files")
            node.work()
            assert held_at(pacs, uid) == uids(images[:-1])
            for stored in pacs.node.archive.instances(uid):
                assert stored.transfer_syntax_uid == "1.2.840.10008.1.2.5"
                original = next(image for image in images if image.SOPInstanceUID == stored.sop_uid)
                assert (dcmread(stored.file()).pixel_array == dcmread(as_file(original)).pixel_array).all()
            (first,) = node.story(uid).deliveries
            assert (first.delivery.state, first.delivery.run_pk, len(first.instances)) == ("DELIVERED", None, len(images) - 1)
            assert events(node, uid, "forward.queued") == [
                f"rule keep to pacs: 5 instances of 1 series as rle, delivery {first.delivery.pk}"
            ]
            (job,) = [each.job for each in node.story(uid).jobs if each.job.kind == "deliver"]
            assert job.priority == 7

            pacs.work()
            assert pacs.story(uid).deliveries == ()
            (why,) = events(pacs, uid, "forward.refused")
            assert "it came from NODE, and nothing is sent back to where it came from" in why

            send(node, images[-1:], tmp_path / "late")
            node.work()
            assert held_at(pacs, uid) == uids(images)
            assert [len(each.instances) for each in node.story(uid).deliveries] == [5, 1], "what was sent is not sent again"
            told = command(node.node.config, "rule", "test", uid).stdout
            assert "send 6 instances of 1 series to pacs as rle (rule keep, priority 7)" in told
            replayed = json.loads(command(node.node.config, "rule", "replay", "--since", "1h", "--json").stdout)
            assert (replayed["studies"], replayed["differences"]) == (1, [])


def test_a_peer_that_is_away_holds_up_its_own_queue_only(tmp_path: Path) -> None:
    images = bright_series()
    uid = uid_of(images)
    with running(settings(tmp_path / "pacs", title="PACS")) as pacs:
        peers = peer("pacs", pacs.port) + peer("gone", 9, title="GONE")
        with running(settings(tmp_path / "node", more=peers + keep('forward = ["gone", "pacs"]'))) as node:
            send(node, images, tmp_path / "files")
            node.complete()
            node.route.step()
            for worker in node.deliveries:
                worker.step()
            states = {each.delivery.peer: each.delivery.state for each in node.story(uid).deliveries}
            assert states == {"gone": "SCHEDULED", "pacs": "DELIVERED"}
            assert held_at(pacs, uid) == uids(images)


def test_own_results_are_no_originals(tmp_path: Path) -> None:
    images = bright_series()
    uid = uid_of(images)
    tiny_bundle(tmp_path / "node" / "bundles")
    with running(settings(tmp_path / "pacs", title="PACS")) as pacs:
        with running(settings(tmp_path / "node", more=peer("pacs", pacs.port) + rule() + keep('forward = ["pacs"]'))) as node:
            send(node, images, tmp_path / "files")
            node.work()
            assert len(node.node.archive.instances(uid)) == len(images) + 2
            send(node, bright_series(SeriesInstanceUID="1.2.3.4.5", StudyInstanceUID=uid), tmp_path / "late")
            node.work()
            assert held_at(pacs, uid) == {
                each.sop_uid for each in node.node.archive.instances(uid) if each.sop_class_uid == images[0].SOPClassUID
            }


def test_a_study_is_held_until_a_person_releases_it(tmp_path: Path) -> None:
    images = bright_series()
    uid = uid_of(images)
    tiny_bundle(tmp_path / "node" / "bundles")
    hold = '\n[[rule]]\nname = "odd"\nfrom = ["SCAN*"]\nhold = "look at it first"\ntags = ["odd"]\n'
    with running(settings(tmp_path / "pacs", title="PACS")) as pacs:
        more = peer("pacs", pacs.port) + rule() + keep('forward = ["pacs"]') + hold
        with running(settings(tmp_path / "node", more=more)) as node:
            send(node, images, tmp_path / "files")
            node.work()
            story = node.story(uid)
            assert (story.runs, story.deliveries) == ((), ())
            assert story.study.flag == "held for review (rule odd: look at it first)"
            assert events(node, uid, "route.tagged") == ["odd (rule odd)"]
            (tagged,) = json.loads(command(node.node.config, "study", "list", "--tag", "odd", "--json").stdout)
            assert (tagged["study_uid"], tagged["tags"]) == (uid, ["odd"])
            assert json_replay(node) == []
            done = command(node.node.config, "rule", "release", uid, "--reason", "seen")
            assert done.returncode == 0, done.stderr
            node.work()
            story = node.story(uid)
            assert [each.run.state for each in story.runs] == ["COMPLETED"]
            assert [each.delivery.state for each in story.deliveries] == ["DELIVERED"]
            assert story.study.flag is None
            refused = command(node.node.config, "rule", "release", uid, "--reason", "seen")
            assert (refused.returncode, "no rule holds it" in refused.stderr) == (1, True)
            assert json_replay(node) == []


def json_replay(node: StepNode) -> list[object]:
    shown = command(node.node.config, "rule", "replay", "--since", "1h", "--json")
    assert shown.returncode == 0, shown.stderr
    return list(json.loads(shown.stdout)["differences"])


def test_what_is_ignored_is_told_and_another_file_is_tried_without_being_used(tmp_path: Path) -> None:
    images = bright_series(description="T1 PHANTOM")
    uid = uid_of(images)
    tiny_bundle(tmp_path / "node" / "bundles")
    ignore = '\n[[rule]]\nname = "phantoms"\nmatch = { SeriesDescription = "*PHANTOM*" }\nignore = "a phantom"\n'
    with running(settings(tmp_path / "node", more=rule() + ignore)) as node:
        send(node, images, tmp_path / "files")
        node.work()
        assert node.story(uid).runs == ()
        assert events(node, uid, "route.ignored") == ["rule phantoms, 1 series: a phantom"]
        assert events(node, uid, "route.nothing_applies") == []
        other = tmp_path / "other.toml"
        other.write_text(rule())
        series_uid = str(images[0].SeriesInstanceUID)
        tested = json.loads(command(node.node.config, "rule", "test", uid, "--rules", str(other), "--json").stdout)
        assert tested["models"][0]["series"] == [{"series_uid": series_uid, "chosen": True, "reason": "the only series that fits"}]
        lines = command(node.node.config, "rule", "replay", "--rules", str(other)).stdout.splitlines()
        assert lines == [f"+\trun tiny, series {series_uid}\t{uid}\trule bright"]
        assert node.work() == 0
        listed = command(node.node.config, "rule", "list").stdout.splitlines()
        assert listed[1] == "2\tphantoms\tSeriesDescription = *PHANTOM*\tignore: a phantom"


def test_changed_rules_are_taken_while_the_node_runs_and_broken_ones_are_not(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "node" / "bundles")
    config = settings(tmp_path / "node", more=peer("pacs", 9) + rule())
    file = tmp_path / "node" / "node.toml"
    good = file.read_text()
    rules = LiveRules(file, config, clock=lambda: 1000.0)
    assert not rules.look()
    file.write_text(good.replace('name = "bright"', 'name = "brighter"'))
    assert not rules.look(), "it may still be written"
    assert rules.look()
    assert [each.name for each in rules()] == ["brighter"]

    for broken, why in (
        ("[[rule]]\nname = 'x'\nmatch = { Modalty = 'MR' }\nrun = ['tiny']", "did you mean 'Modality'?"),
        (rule().replace("tiny", "tinny"), "runs 'tinny'"),
        (peer("new", 9) + rule("new"), "'new', a peer that the node was not started with"),
        ("[[rule", "is not valid TOML"),
    ):
        file.write_text(good.partition("[[rule]]")[0] + broken)
        assert (rules.look(), rules.look()) == (False, False)
        assert [each.name for each in rules()] == ["brighter"]
        state = running_state(config.runtime_dir)
        assert state is not None
        assert why in state.problem

    file.write_text(good.replace("Modality", "Modalty"))
    refused = command(config, "rule", "list")
    assert (refused.returncode, "did you mean 'Modality'?" in refused.stderr) == (2, True)
    assert refused.stderr.splitlines()[-1].endswith(": brighter")

    file.write_text(good.replace('quiet_period = "0s"', 'quiet_period = "9s"'))
    rules.ask()
    assert rules.look(), "asked for, it does not wait"
    assert rules.state.restart_for == ("study",)
    listed = json.loads(command(config, "rule", "list", "--json").stdout)
    assert (listed["running"]["problem"], listed["running"]["restart_for"]) == ("", ["study"])


def test_a_route_job_takes_the_rules_of_the_moment(tmp_path: Path) -> None:
    images = bright_series()
    uid = uid_of(images)
    file = tmp_path / "node" / "node.toml"
    with running(settings(tmp_path / "pacs", title="PACS")) as pacs:
        config = settings(tmp_path / "node", more=peer("pacs", pacs.port) + keep('tags = ["none"]'))
        rules = LiveRules(file, config, clock=lambda: 1000.0)
        with running(config, rules=rules) as node:
            file.write_text(file.read_text().replace('tags = ["none"]', 'forward = ["pacs"]'))
            rules.ask()
            assert rules.look()
            send(node, images, tmp_path / "files")
            node.work()
            assert held_at(pacs, uid) == uids(images)
            with node.node.database.read() as connection:
                (sent,) = node.story(uid).deliveries
                assert not deliveries.instances_of(connection, sent.delivery.pk, pending=True)
