"""Chained models on a real node: one's segments are another's input, in its input set and its run key."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import pytest

from dicom_node.actions import rerun_study, retry_job
from dicom_node.checks import refuse_unknown_models
from dicom_node.config import Config
from dicom_node.errors import ConfigurationError
from dicom_node.work.chaining import segments
from storage.records import RunRecord
from tests.node import StepNode, bright_series, command, running, send, settings, uid_of
from tests.several_inputs import DICOM as PAIR
from tests.tiny_bundle import INFERENCE, tiny_bundle

RULES = """
[[rule]]
name = "second"
match = { Modality = "MR" }
run = ["within"]

[[rule]]
name = "first"
match = { Modality = "MR" }
run = ["tiny"]
"""


def within(folder: Path, *, name: str = "within", of: str = "tiny") -> Path:
    """A bundle that finds in its second channel what the first model found."""
    root = folder / name
    (root / "configs").mkdir(parents=True)
    inference = deepcopy(INFERENCE)
    inference["postprocessing"]["transforms"] = [{"_target_": "Identityd", "keys": "pred"}]
    (root / "configs" / "inference.json").write_text(json.dumps(inference))
    metadata = {"version": "1", "name": name, "network_data_format": {"inputs": {}, "outputs": {}}}
    (root / "configs" / "metadata.json").write_text(json.dumps(metadata))
    text = PAIR.format(more="", threshold=0.5).replace('name = "pair"', f'name = "{name}"')
    text = text.replace('name = "flair"\nany = [{ SeriesDescription = "*FLAIR*" }]', f'name = "found"\nsegments_of = "{of}"')
    (root / "dicom.toml").write_text(text)
    return root


def node(folder: Path, *, fault: str | None = None, rules: str = RULES) -> Config:
    tiny_bundle(folder / "bundles", fault=fault)
    within(folder / "bundles")
    return settings(folder, more=rules)


def runs_of(opened: StepNode, study: str) -> dict[str, list[RunRecord]]:
    found: dict[str, list[RunRecord]] = {"tiny": [], "within": []}
    for each in opened.story(study).runs:
        found[each.run.bundle].append(each.run)
    return found


def test_the_second_waits_takes_the_segments_and_reruns_with_the_first(tmp_path: Path) -> None:
    config, images = node(tmp_path), bright_series()
    study = uid_of(images)
    with running(config) as opened:
        send(opened, images, tmp_path / "sent")
        opened.complete()
        assert opened.route.step()
        runs = runs_of(opened, study)
        ((first,), (second,)) = runs["tiny"], runs["within"]
        assert (second.state, second.reason) == ("SCHEDULED", f"waits for run {first.pk} of tiny")
        assert f"waits for run {first.pk} of tiny" in command(config, "study", "show", study).stdout
        opened.work()
        runs = runs_of(opened, study)
        ((first,), (second,)) = runs["tiny"], runs["within"]
        assert (first.state, second.state) == ("COMPLETED", "COMPLETED"), second.reason
        (mask,) = [each for each in opened.node.archive.instances(study) if each.sop_uid == segments(first.run_key)[0]]
        assert [mask.sop_uid, mask.digest] in [list(pair) for pair in second.input_set]
        assert second.parameters["inputs"]["found"] == mask.series_uid
        assert [each["voxels"] for each in second.findings["segments"]] == [6 * 12 * 10, 2 * 3 * 3]  # all above 0.5; what tiny found

        rerun_study(config, opened.node.database, study, rule="first", who="jo", why="again", now=opened.node.clock())
        opened.work()
        assert [len(each) for each in runs_of(opened, study).values()] == [2, 1]  # that rule alone
        rerun_study(config, opened.node.database, study, who="jo", why="again", now=opened.node.clock())
        opened.work()
        runs = runs_of(opened, study)
        assert [len(each) for each in runs.values()] == [3, 2]
        assert runs["within"][1].predecessor_pk == runs["within"][0].pk
        assert runs["within"][1].input_set != runs["within"][0].input_set
        assert {each.state for both in runs.values() for each in both} == {"COMPLETED"}


def test_what_ends_the_first_ends_the_second_with_that_reason(tmp_path: Path) -> None:
    config, images = node(tmp_path, fault="raise", rules="[executor]\nattempts = 1\n" + RULES), bright_series()
    study = uid_of(images)
    with running(config) as opened:
        send(opened, images, tmp_path / "sent")
        opened.work()
        runs = runs_of(opened, study)
        ((first,), (second,)) = runs["tiny"], runs["within"]
        assert (first.state, second.state) == ("FAILED", "FAILED")
        assert str(second.reason).startswith(f"run {first.pk} of tiny failed: load")
        assert first.job_pk is not None
        retry_job(config, opened.node.database, first.job_pk, who="jo")
        assert runs_of(opened, study)["within"][0].state == "SCHEDULED"
        opened.work()
        assert runs_of(opened, study)["within"][0].state == "FAILED"


def test_a_first_that_finds_nothing_leaves_the_second_not_applicable(tmp_path: Path) -> None:
    config, images = node(tmp_path), bright_series(bright=False)
    with running(config) as opened:
        send(opened, images, tmp_path / "sent")
        opened.work()
        ((first,), (second,)) = runs_of(opened, uid_of(images)).values()
    assert (first.state, second.state) == ("COMPLETED", "NOT_APPLICABLE")
    assert second.reason == f"run {first.pk} of tiny found nothing to segment"


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (RULES.replace('run = ["tiny"]', 'run = ["tiny"]\nafter = ["within"]'), "in a circle: tiny after within after tiny"),
        (RULES.replace('run = ["tiny"]', 'tags = ["seen"]'), "within takes the segments of 'tiny', and no rule runs that"),
    ],
)
def test_a_circle_is_refused_when_the_rules_are_read(tmp_path: Path, rules: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        refuse_unknown_models(node(tmp_path, rules=rules))


def test_a_rule_may_ask_for_the_order_alone(tmp_path: Path) -> None:
    rules = RULES.replace('run = ["within"]', 'run = ["other"]\nafter = ["tiny"]')
    tiny_bundle(tmp_path / "bundles", name="other")
    config, images = node(tmp_path, rules=rules), bright_series()
    with running(config) as opened:
        send(opened, images, tmp_path / "sent")
        opened.complete()
        assert opened.route.step()
        first, second = (each.run for each in sorted(opened.story(uid_of(images)).runs, key=lambda each: each.run.bundle == "other"))
        assert second.reason == f"waits for run {first.pk} of tiny"
        opened.work()
        after = next(each.run for each in opened.story(uid_of(images)).runs if each.run.bundle == "other")
    assert after.state == "COMPLETED", after.reason
    assert segments(first.run_key)[0] in {uid for uid, _ in after.input_set}
