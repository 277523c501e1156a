"""An import completes, runs and delivers nothing, whatever its study is just doing, unless it is told to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from pydicom import Dataset
from sqlalchemy import func, select

from dicom_node.cli.main import main
from storage import completion
from storage.completion import CompletionPolicy
from storage.importer import import_files
from storage.schema import job, run
from tests.imaging import as_file
from tests.node import StepNode, bright_series, peer, rule, running, send, settings, uid_of
from tests.tiny_bundle import tiny_bundle

PORT = 4  # nobody listens there: nothing of these tests may be sent anyway


@pytest.fixture
def node(tmp_path: Path) -> Iterator[StepNode]:
    tiny_bundle(tmp_path / "node" / "bundles")
    with running(settings(tmp_path / "node", more=peer("pacs", PORT) + rule("pacs"))) as opened:
        yield opened


def files(folder: Path, images: Sequence[Dataset]) -> Path:
    folder.mkdir()
    for number, image in enumerate(images):
        (folder / f"{number}.dcm").write_bytes(as_file(image).getvalue())
    return folder


def counts(node: StepNode) -> tuple[int, int]:
    """Jobs and runs that there are, of any state."""
    with node.node.database.read() as connection:
        jobs, runs = (connection.scalar(select(func.count()).select_from(table)) or 0 for table in (job, run))
    return jobs, runs


def long_after(node: StepNode) -> int:
    """What the clock's duty completes when everything has been quiet for long."""
    return len(completion.complete_quiet(node.node.database, node.node.clock() + 1e6, CompletionPolicy(quiet_period=1.0)))


def test_a_new_study_is_not_run(node: StepNode, tmp_path: Path) -> None:
    images = bright_series()
    assert import_files(node.node.archive, [files(tmp_path / "files", images)]).outcomes == {"STORED": 6}
    assert long_after(node) == 0
    assert node.work() == 0
    assert counts(node) == (0, 0)
    assert node.story(uid_of(images)).runs == ()


def test_a_completed_study_is_not_run_again(node: StepNode, tmp_path: Path) -> None:
    images = bright_series()
    send(node, images[:5], tmp_path / "sent")
    node.complete()
    assert node.route.step()
    assert node.infer.step()
    before = counts(node)
    import_files(node.node.archive, [files(tmp_path / "files", images[5:])])
    assert long_after(node) == 0
    node.complete()
    assert not node.route.step()
    assert counts(node) == before
    assert before[1] == 1


def test_a_study_that_waits_for_its_rules_is_run_although_something_was_imported(node: StepNode, tmp_path: Path) -> None:
    images = bright_series()
    send(node, images[:5], tmp_path / "sent")
    node.complete()
    import_files(node.node.archive, [files(tmp_path / "files", images[5:])])
    assert node.route.step()
    (made,) = node.story(uid_of(images)).runs
    assert len(made.run.input_set) == 6


def test_a_study_being_received_is_not_completed(node: StepNode, tmp_path: Path) -> None:
    images = bright_series()
    send(node, images[:5], tmp_path / "sent")
    import_files(node.node.archive, [files(tmp_path / "files", images[5:])])
    assert counts(node) == (0, 0)
    assert not node.route.step()
    # What was received completes as it would have, once, with the imported instance among its input.
    node.complete()
    assert node.route.step()
    (made,) = node.story(uid_of(images)).runs
    assert len(made.run.input_set) == 6
    assert counts(node)[1] == 1


@pytest.mark.parametrize("told", [False, True])
def test_the_command_routes_only_when_told_to(tmp_path: Path, told: bool) -> None:
    tiny_bundle(tmp_path / "node" / "bundles")
    config = settings(tmp_path / "node", more=peer("pacs", PORT) + rule("pacs"))
    images = bright_series()
    folder = files(tmp_path / "files", images)
    arguments = ["archive", "import", str(folder), *(["--run-rules"] if told else []), "--config", str(tmp_path / "node" / "node.toml")]
    assert main(arguments) == 0
    with running(config) as node:
        assert node.complete() == 0
        assert bool(node.route.step()) is told
        assert len(node.story(uid_of(images)).runs) == int(told)
