"""Workitems on the command line: a run's follows it, and a waiting one is canceled with its run."""

from __future__ import annotations

import json
from pathlib import Path

from storage import workitem_runs
from tests.node import StepNode, bright_series, command, rule, running, send, settings, uid_of
from tests.tiny_bundle import tiny_bundle


def catch_up(node: StepNode) -> None:
    with node.node.database.begin() as connection:
        workitem_runs.catch_up(connection, by="NODE", now=node.node.clock())


def test_a_waiting_runs_workitem_is_listed_shown_and_canceled(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "bundles")
    with running(settings(tmp_path, more=rule(more="priority = 1"))) as node:
        config, images = node.node.config, bright_series()
        send(node, images, tmp_path / "in")
        node.complete()
        assert node.route.step()
        catch_up(node)
        listed = command(config, "workitem", "list", "--state", "SCHEDULED", "--json")
        (item,) = json.loads(listed.stdout)
        assert (item["label"], item["priority"], item["study_uid"], item["run_pk"]) == ("tiny", "HIGH", uid_of(images), 1)
        assert "transaction_uid" not in item
        told = command(config, "workitem", "cancel", item["uid"], "--reason", "not needed")
        assert told.stdout == f"workitem {item['uid']} is canceled\n"
        (run,) = node.story(uid_of(images)).runs
        assert run.run.state == "CANCELED"
        shown = command(config, "workitem", "show", item["uid"])
        states = [line.split("  ")[-1].partition(",")[0] for line in shown.stdout.splitlines()[-2:]]
        assert states == ["state: IN PROGRESS", "state: CANCELED"]
        assert "run 1 of this node" in shown.stdout
        unknown = command(config, "workitem", "show", "1.2.3")
        assert (unknown.returncode, "there is no such workitem" in unknown.stderr) == (1, True)
        assert node.work() == 0


def test_a_run_that_ended_has_a_workitem_that_says_what_it_made(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "bundles")
    with running(settings(tmp_path, more=rule())) as node:
        images = bright_series()
        send(node, images, tmp_path / "in")
        node.work()
        catch_up(node)
        catch_up(node)
        (item,) = json.loads(command(node.node.config, "workitem", "list", "--json").stdout)
        shown = json.loads(command(node.node.config, "workitem", "show", item["uid"], "--json").stdout)
        assert (item["state"], item["priority"]) == ("COMPLETED", "MEDIUM")
        made = {row.sop_uid for row in node.node.archive.instances(uid_of(images))} - {image.SOPInstanceUID for image in images}
        assert len(made) == 2
        assert all(uid in json.dumps(shown["dataset"]) for uid in made)
