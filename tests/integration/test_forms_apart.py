"""Each form of a result is a delivery of its own: what a peer does about one befalls no other, over one association where that goes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE, evt

from dicom_node.config import Config
from dicom_node.results.forms import SOP_CLASSES, kind_of
from storage import deliveries
from storage.jobs import JobQueue
from tests.dimse import until
from tests.node import StepNode, bright_series, command, peer, rule, running, send, settings, uid_of
from tests.tiny_bundle import tiny_bundle

FORMS = 'results = ["SEG", "SR", "SC"]\nsuffices = ["SEG", "SR"]'


class Pacs:
    """A PACS (pynetdicom): what it was sent, over how many associations; ``answer`` says what it does about a kind."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.tried: list[str] = []
        self.associations = 0
        self.answer: Callable[[str, Any], int] = lambda kind, association: 0x0000
        self.port = 0

    def on_store(self, event: Any) -> int:
        kind = kind_of(str(event.request.AffectedSOPClassUID)) or ""
        self.tried.append(kind)
        status = self.answer(kind, event.assoc)
        if status == 0:
            self.taken.append(kind)
        return status

    def on_accepted(self, event: Any) -> None:
        self.associations += 1


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    made = Pacs()
    entity = AE(ae_title="PACS")
    for uid in SOP_CLASSES:
        entity.add_supported_context(uid)
    handlers: list[Any] = [(evt.EVT_C_STORE, made.on_store), (evt.EVT_ACCEPTED, made.on_accepted)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    made.port = server.server_address[1]
    yield made
    server.shutdown()


def configured(folder: Path, pacs: Pacs, more: str = FORMS) -> Config:
    if not (folder / "bundles").exists():
        tiny_bundle(folder / "bundles")
    return settings(folder, more=peer("pacs", pacs.port, more=more) + rule("pacs"))


@contextlib.contextmanager
def with_a_study(folder: Path, pacs: Pacs, more: str = FORMS) -> Iterator[tuple[StepNode, str]]:
    """A node whose model has run: its result is to be sent."""
    images = bright_series()
    with running(configured(folder, pacs, more)) as node:
        send(node, images, folder.parent / "files")
        node.complete()
        assert node.route.step()
        assert node.infer.step()
        yield node, uid_of(images)


def deliver(node: StepNode) -> None:
    while any(worker.step() for worker in node.deliveries):
        pass


def states(node: StepNode, study_uid: str) -> dict[str, str]:
    (run,) = node.story(study_uid).runs
    return {each.delivery.form: each.delivery.state for each in run.deliveries}


def jobs(node: StepNode, study_uid: str) -> dict[str, Any]:
    return {each.job.payload["form"]: each.job for each in node.story(study_uid).jobs if each.job.kind == "deliver"}


def test_all_forms_go_over_one_association(tmp_path: Path, pacs: Pacs) -> None:
    with with_a_study(tmp_path / "node", pacs) as (node, study):
        deliver(node)
        assert states(node, study) == {"SEG": "DELIVERED", "SR": "DELIVERED", "SC": "DELIVERED"}
        assert (pacs.taken, pacs.associations) == (["SEG", "SR", "SC"], 1)
        shown = command(node.node.config, "study", "show", study).stdout
        assert all(f"to pacs, {form}: DELIVERED" in shown for form in ("SEG", "SR", "SC"))


def test_a_form_that_does_not_pass_now_is_retried_and_canceled_alone(tmp_path: Path, pacs: Pacs) -> None:
    pacs.answer = lambda kind, association: 0xA700 if kind == "SC" else 0x0000
    with with_a_study(tmp_path / "node", pacs) as (node, study):
        node.deliveries[0].step()
        node.deliveries[0].step()
        node.deliveries[0].step()
        assert states(node, study) == {"SEG": "DELIVERED", "SR": "DELIVERED", "SC": "SCHEDULED"}
        waiting = jobs(node, study)["SC"]
        assert (waiting.state, waiting.attempts, waiting.error) == ("SCHEDULED", 1, "pacs has not taken 1 of 1 objects yet: A700")
        listed = json.loads(command(node.node.config, "job", "list", "--kind", "deliver", "--json").stdout)
        assert {each["payload"]["form"]: each["state"] for each in listed} == {"SEG": "COMPLETED", "SR": "COMPLETED", "SC": "SCHEDULED"}
        assert command(node.node.config, "job", "cancel", str(waiting.pk)).returncode == 0
        node.duties.reclaim_jobs()
        assert states(node, study) == {"SEG": "DELIVERED", "SR": "DELIVERED", "SC": "CANCELED"}
        pacs.answer = lambda kind, association: 0x0000
        assert command(node.node.config, "job", "retry", str(waiting.pk)).returncode == 0
        deliver(node)
        assert states(node, study) == dict.fromkeys(("SEG", "SR", "SC"), "DELIVERED")
        assert pacs.taken == ["SEG", "SR", "SC"], "what was taken is not sent again"


def test_a_form_at_which_the_peer_aborts_takes_no_other_with_it(tmp_path: Path, pacs: Pacs) -> None:
    def aborts(kind: str, association: Any) -> int:
        if kind == "SEG":
            association.abort()
        return 0x0000 if kind != "SEG" else 0xA700

    pacs.answer = aborts
    with with_a_study(tmp_path / "node", pacs) as (node, study):
        until(lambda: node.deliveries[0].step() and len(pacs.taken) == 2, 20)
        assert states(node, study) == {"SEG": "SCHEDULED", "SR": "DELIVERED", "SC": "DELIVERED"}
        assert jobs(node, study)["SEG"].attempts >= 1
        assert pacs.taken == ["SR", "SC"]


def test_a_form_that_fails_again_and_again_goes_behind_the_others(tmp_path: Path, pacs: Pacs) -> None:
    pacs.answer = lambda kind, association: 0xA700 if kind == "SEG" else 0x0000
    with with_a_study(tmp_path / "node", pacs) as (node, study):
        for _ in range(3):  # there is no wait between two attempts here: the SEG is due at once
            assert node.deliveries[0].step()
        assert pacs.tried == ["SEG", "SR", "SC"]
        assert states(node, study) == {"SEG": "SCHEDULED", "SR": "DELIVERED", "SC": "DELIVERED"}
        pacs.answer = lambda kind, association: 0x0000
        deliver(node)
        assert states(node, study)["SEG"] == "DELIVERED"


def test_a_form_that_is_refused_for_good_is_its_own_dead_letter(tmp_path: Path, pacs: Pacs) -> None:
    pacs.answer = lambda kind, association: 0xC000 if kind == "SEG" else 0x0000
    with with_a_study(tmp_path / "node", pacs) as (node, study):
        deliver(node)
        assert states(node, study) == {"SEG": "FAILED", "SR": "DELIVERED", "SC": "DELIVERED"}
        assert jobs(node, study)["SEG"].error == "SEG refused (C000)"


def test_one_that_is_not_needed_is_not_taken(tmp_path: Path, pacs: Pacs) -> None:
    pacs.answer = lambda kind, association: 0xC000 if kind == "SC" else 0x0000
    with with_a_study(tmp_path / "node", pacs) as (node, study):
        deliver(node)
        assert states(node, study) == {"SEG": "DELIVERED", "SR": "DELIVERED", "SC": "NOT_TAKEN"}
        (run,) = node.story(study).runs
        assert run.deliveries[2].delivery.detail == "SC refused (C000); SEG, SR suffices for pacs"


def test_where_nothing_suffices_nothing_is_excused(tmp_path: Path, pacs: Pacs) -> None:
    pacs.answer = lambda kind, association: 0xC000
    with with_a_study(tmp_path / "node", pacs) as (node, study):
        deliver(node)
        assert "FAILED" in states(node, study).values()
        assert states(node, study)["SR"] == "FAILED"


def test_a_node_that_dies_between_two_forms_sends_each_once(tmp_path: Path, pacs: Pacs) -> None:
    with with_a_study(tmp_path / "node", pacs) as (node, study):
        assert node.deliveries[0].step()
        assert pacs.taken == ["SEG"]
        lost = JobQueue(node.node.database, lease=0.01).claim(["deliver:pacs"], "a worker that dies")  # as kill -9 leaves it
        assert lost is not None
        assert lost.payload["form"] == "SR"
    with running(configured(tmp_path / "node", pacs)) as node:
        node.duties.reclaim_jobs()
        deliver(node)
        assert states(node, study) == dict.fromkeys(("SEG", "SR", "SC"), "DELIVERED")
        assert pacs.taken == ["SEG", "SR", "SC"]


def test_a_delivery_of_before_with_every_form_in_it_still_goes(tmp_path: Path, pacs: Pacs) -> None:
    pacs.answer = lambda kind, association: 0xC000 if kind == "SEG" else 0x0000
    with with_a_study(tmp_path / "node", pacs, 'results = ["SEG", "SR"]') as (node, study):
        deliver(node)
        (run,) = node.story(study).runs
        everything = [row.sop_uid for each in run.deliveries for row in each.instances]
        with node.node.database.begin() as connection:
            deliveries.create_delivery(connection, run.run.pk, study, "pacs", everything, node.node.queue())
        deliver(node)
        whole = node.story(study).runs[0].deliveries[-1]
        assert (whole.delivery.form, whole.delivery.state) == ("", "DELIVERED")
        assert whole.delivery.detail == "SEG refused (C000); SR suffices for pacs"
