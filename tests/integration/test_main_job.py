"""The main job on real sockets, a real index and archive, and a real (tiny) model; and what must hold when a part of it fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from structlog.testing import capture_logs

from dicom_node.config import Config
from dicom_node.work.executors import ProcessExecutor
from storage.errors import StaleToken
from tests.node import StepNode, bright_series, peer, rule, running, send, send_to, settings, uid_of
from tests.tiny_bundle import tiny_bundle

SEG, SR = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34"


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[StepNode]:
    """A second node that has no rules: the PACS."""
    with running(settings(tmp_path / "pacs", title="PACS")) as node:
        yield node


def node_settings(folder: Path, port: int, *, peer_more: str = "", rule_more: str = "", fault: str | None = None, **more: Any) -> Config:
    if not (folder / "bundles").exists():
        tiny_bundle(folder / "bundles", fault=fault)
    return settings(folder, more=peer("pacs", port, more=peer_more) + rule("pacs", more=rule_more), **more)


@contextlib.contextmanager
def node_for(folder: Path, pacs: StepNode, **more: Any) -> Iterator[StepNode]:
    with running(node_settings(folder, pacs.port, **more)) as node:
        yield node


def held(node: StepNode, study_uid: str) -> list[str]:
    """SOP classes of a node's instances of a study that are results."""
    found = [stored.sop_class_uid for stored in node.node.archive.instances(study_uid)]
    return sorted(uid for uid in found if uid in (SEG, SR))


def test_a_study_goes_in_and_seg_and_sr_arrive(tmp_path: Path, pacs: StepNode) -> None:
    images = bright_series()
    with node_for(tmp_path / "node", pacs) as node:
        assert send(node, images, tmp_path / "files") == [0] * 6
        assert node.work() == 4
        story = node.story(uid_of(images))
        run = story.runs[0]
        assert (run.run.state, run.run.findings["segments"]) == ("COMPLETED", [{"label": "Bright", "voxels": 18}])
        assert [[each.state for each in sent.instances] for sent in run.deliveries] == [["ACCEPTED"], ["ACCEPTED"]]
        assert [(each.delivery.form, each.delivery.state) for each in run.deliveries] == [("SEG", "DELIVERED"), ("SR", "DELIVERED")]
        assert held(pacs, uid_of(images)) == [SEG, SR]
        for stored in node.node.archive.instances(uid_of(images)):
            if stored.sop_class_uid in (SEG, SR):
                there = pacs.node.archive.open_instance(stored.sop_uid)
                assert there.digest == stored.digest
        assert node.work() == 0, "results in the study start nothing"


def test_the_child_process_does_the_same(tmp_path: Path, pacs: StepNode) -> None:
    images = bright_series()
    executor = ProcessExecutor("cpu", threads=1)
    try:
        with running(node_settings(tmp_path / "node", pacs.port), executor=executor) as node:
            send(node, images, tmp_path / "files")
            node.work()
            assert held(pacs, uid_of(images)) == [SEG, SR]
    finally:
        executor.close()


def test_nothing_found_is_delivered_and_says_so(tmp_path: Path, pacs: StepNode) -> None:
    images = bright_series(bright=False)
    with node_for(tmp_path / "node", pacs) as node:
        send(node, images, tmp_path / "files")
        node.work()
        assert SR in held(pacs, uid_of(images))


def test_an_mr_study_without_a_t1_is_told_why(tmp_path: Path, pacs: StepNode) -> None:
    images = bright_series(description="T2 FLAIR")
    with node_for(tmp_path / "node", pacs) as node:
        send(node, images, tmp_path / "files")
        node.work()
        story = node.story(uid_of(images))
        assert story.runs == ()
        assert "T2 FLAIR" in story.series[0].selections[0].reason
        assert "route.nothing_applies" in [row.event for row in story.audit]
        assert held(pacs, uid_of(images)) == []


def test_two_series_that_fit_are_ambiguous_and_none_is_run(tmp_path: Path, pacs: StepNode) -> None:
    first = bright_series()
    second = bright_series(StudyInstanceUID=first[0].StudyInstanceUID)
    with node_for(tmp_path / "node", pacs) as node:
        send(node, [*first, *second], tmp_path / "files")
        node.work()
        story = node.story(uid_of(first))
        assert story.runs == ()
        assert all(choice.reason.startswith("ambiguous") for each in story.series for choice in each.selections)
        assert "selection.ambiguous" in [row.event for row in story.audit]


def test_a_rule_may_run_every_series_that_fits(tmp_path: Path, pacs: StepNode) -> None:
    first = bright_series()
    second = bright_series(StudyInstanceUID=first[0].StudyInstanceUID)
    with node_for(tmp_path / "node", pacs, rule_more='series = "all"') as node:
        send(node, [*first, *second], tmp_path / "files")
        node.work()
        assert [run.run.state for run in node.story(uid_of(first)).runs] == ["COMPLETED", "COMPLETED"]
        assert held(pacs, uid_of(first)) == [SEG, SEG, SR, SR]


def test_images_that_make_no_volume_end_as_not_applicable(tmp_path: Path, pacs: StepNode) -> None:
    images = bright_series()
    del images[2]
    with node_for(tmp_path / "node", pacs) as node:
        send(node, images, tmp_path / "files")
        node.work()
        run = node.story(uid_of(images)).runs[0]
        assert run.run.state == "NOT_APPLICABLE"
        assert "missing-slices" in (run.run.reason or "")
        assert run.deliveries == ()
        assert held(pacs, uid_of(images)) == []


def test_a_peer_that_asks_for_it_gets_an_sr_of_a_run_that_did_not_apply(tmp_path: Path, pacs: StepNode) -> None:
    images = bright_series()
    del images[2]
    with node_for(tmp_path / "node", pacs, peer_more="negative_reports = true") as node:
        send(node, images, tmp_path / "files")
        node.work()
        assert held(pacs, uid_of(images)) == [SR]


def test_a_model_that_fails_is_tried_again_and_then_ends_with_a_reason(tmp_path: Path, pacs: StepNode) -> None:
    images = bright_series()
    config = node_settings(tmp_path / "node", pacs.port, fault="raise", late="[executor]\nattempts = 2\nbackoff = 0")
    with running(config) as node, capture_logs() as logs:
        send(node, images, tmp_path / "files")
        node.work()
        story = node.story(uid_of(images))
        job = next(each for each in story.jobs if each.job.kind == "infer")
        assert (story.runs[0].run.state, job.job.state, job.job.attempts) == ("FAILED", "FAILED", 2)
        assert "ConfigExpression" in (story.runs[0].run.reason or "")
        failures = [line for line in logs if line["event"] == "run.failed"]
        assert [line["code"] for line in failures] == ["failed-load", "failed-load"]
        assert "ConfigExpression" not in str(logs), "what a model says may quote a data set, and stays out of the log"
        assert held(pacs, uid_of(images)) == []


def test_the_same_input_is_never_run_twice(tmp_path: Path, pacs: StepNode) -> None:
    images = bright_series()
    with node_for(tmp_path / "node", pacs) as node:
        send(node, images, tmp_path / "files")
        node.work()
        assert send(node, images, tmp_path / "files") == [0] * 6
        assert node.work() == 0, "duplicates do not complete a study again"
        other = bright_series(description="localizer", StudyInstanceUID=images[0].StudyInstanceUID)
        send(node, other, tmp_path / "other")
        node.work()
        story = node.story(uid_of(images))
        assert len(story.runs) == 1, "a late instance outside the selected series makes no run"
        assert "run.not_needed" in [row.event for row in story.audit]


@pytest.mark.parametrize(("policy", "runs"), [("rerun", 2), ("ignore", 1), ("flag", 1)])
def test_a_late_instance_meets_the_policy(tmp_path: Path, pacs: StepNode, policy: str, runs: int) -> None:
    images = bright_series(7)
    with node_for(tmp_path / "node", pacs, late=f'late = "{policy}"') as node:
        send(node, images[:6], tmp_path / "files")
        node.work()
        send(node, images[6:], tmp_path / "late")
        node.work()
        story = node.story(uid_of(images))
        assert len(story.runs) == runs
        assert bool(story.study.flag) == (policy == "flag")
        if policy == "rerun":
            assert story.runs[1].run.predecessor_pk == story.runs[0].run.pk
            assert held(pacs, uid_of(images)) == [SEG, SEG, SR, SR]
            second = [s for s in node.node.archive.instances(uid_of(images)) if s.sop_class_uid == SR]
            replaced = [dcmread(s.file()).get("PredecessorDocumentsSequence") for s in second]
            assert sum(item is not None for item in replaced) == 1


def test_a_result_superseded_while_it_ran_is_kept_and_not_sent(tmp_path: Path, pacs: StepNode) -> None:
    images = bright_series(7)
    with node_for(tmp_path / "node", pacs) as node:
        send(node, images[:6], tmp_path / "files")
        node.complete()
        node.route.step()
        handler: Any = node.infer._handlers["infer"]
        inner = handler._executor.execute

        def late_meanwhile(request: Any, deadline: float, token: str) -> Any:
            handler._executor.execute = inner
            send(node, images[6:], tmp_path / "late")
            node.complete()
            node.route.step()
            return inner(request, deadline, token)

        handler._executor.execute = late_meanwhile
        node.work()
        first, second = node.story(uid_of(images)).runs
        assert (first.run.state, first.run.delivered, first.deliveries) == ("COMPLETED", False, ())
        assert second.deliveries[0].delivery.state == "DELIVERED"
        assert held(node, uid_of(images)) == [SEG, SEG, SR, SR]
        assert held(pacs, uid_of(images)) == [SEG, SR]


def test_a_study_deleted_while_its_run_was_under_way_does_not_come_back(tmp_path: Path, pacs: StepNode) -> None:
    images = bright_series()
    with node_for(tmp_path / "node", pacs) as node:
        send(node, images, tmp_path / "files")
        handler: Any = node.infer._handlers["infer"]
        inner = handler._executor.execute

        def deleted_meanwhile(request: Any, deadline: float, token: str) -> Any:
            answer = inner(request, deadline, token)
            node.node.archive.delete_study(uid_of(images), who="me", reason="asked for")
            return answer

        handler._executor.execute = deleted_meanwhile
        node.work()
        assert node.node.archive.instances(uid_of(images)) == []
        assert held(pacs, uid_of(images)) == []
        jobs = node.node.queue().list(kind="infer")
        assert [(job.state, job.attempts) for job in jobs] == [("FAILED", 1)]


def test_what_is_deleted_before_its_delivery_has_begun_is_not_sent(tmp_path: Path, pacs: StepNode, monkeypatch: pytest.MonkeyPatch) -> None:
    from dicom_node.work import deliver

    images = bright_series()
    inner = deliver.open_association
    with node_for(tmp_path / "node", pacs) as node:
        send(node, images, tmp_path / "files")

        def deleted_meanwhile(*arguments: Any) -> Any:
            association = inner(*arguments)
            (report,) = (each for each in node.node.archive.instances(uid_of(images)) if each.sop_class_uid == SR)
            node.node.archive.delete_instance(report.sop_uid, who="me", reason="asked for")
            monkeypatch.setattr(deliver, "open_association", inner)
            return association

        monkeypatch.setattr(deliver, "open_association", deleted_meanwhile)
        node.work()
        assert held(pacs, uid_of(images)) == [SEG]
        states = {each.delivery.form: each.instances[0].state for each in node.story(uid_of(images)).runs[0].deliveries}
        assert states == {"SEG": "ACCEPTED", "SR": "REFUSED"}


def test_bytes_that_changed_on_the_disk_are_never_whole_at_a_peer(tmp_path: Path, pacs: StepNode) -> None:
    images = bright_series()
    with node_for(tmp_path / "node", pacs) as node:
        send(node, images, tmp_path / "files")
        node.complete()
        assert node.route.step()
        assert node.infer.step()
        (seg,) = (each for each in node.node.archive.instances(uid_of(images)) if each.sop_class_uid == SEG)
        place = seg.offset + seg.length - 1
        with seg.path.open("r+b") as segment:
            segment.seek(place)
            (last,) = segment.read(1)
            segment.seek(place)
            segment.write(bytes([last ^ 1]))
        assert node.deliveries[0].step()
        assert SEG not in held(pacs, uid_of(images))
        job = node.node.queue().list(kind="deliver")[-1]
        assert (job.payload["form"], job.state) == ("SEG", "SCHEDULED")
        assert job.error == "pacs: an object's bytes are not those that were archived"
        with seg.path.open("r+b") as segment:
            segment.seek(place)
            segment.write(bytes([last]))
        node.work()
        assert held(pacs, uid_of(images)) == [SEG, SR]


def test_a_worker_that_lost_its_job_leaves_nothing_behind(tmp_path: Path, pacs: StepNode) -> None:
    images = bright_series()
    with node_for(tmp_path / "node", pacs) as node:
        send(node, images, tmp_path / "files")
        node.complete()
        node.route.step()
        queue = node.node.queue()
        lost = queue.claim(["infer"], "slow")
        assert lost is not None
        handler: Any = node.infer._handlers["infer"]
        inner = handler._executor.execute

        def taken_meanwhile(request: Any, deadline: float, token: str) -> Any:
            answer = inner(request, deadline, token)
            queue.release(lost, "taken by another")
            handler._executor.execute = inner
            assert node.infer.step()
            return answer

        handler._executor.execute = taken_meanwhile
        with pytest.raises(StaleToken):
            handler(lost)
        node.work()
        assert held(node, uid_of(images)) == [SEG, SR]
        assert held(pacs, uid_of(images)) == [SEG, SR]


def test_our_own_results_coming_back_change_nothing(tmp_path: Path, pacs: StepNode) -> None:
    images = bright_series()
    with node_for(tmp_path / "node", pacs) as node:
        send(node, images, tmp_path / "files")
        node.work()
        before = node.story(uid_of(images))
        results = [dcmread(s.file()) for s in pacs.node.archive.instances(uid_of(images))]
        for result in results:
            result.PatientID = "COERCED"
        assert send(node, results, tmp_path / "back", calling="PACS") == [0, 0]
        assert node.work() == 0
        after = node.story(uid_of(images))
        assert after.study.revision == before.study.revision
        assert after.study.instances == before.study.instances
        assert after.quarantine == ()


def test_a_pacs_that_is_down_gets_its_results_when_it_is_up(tmp_path: Path) -> None:
    images = bright_series()
    with running(settings(tmp_path / "pacs", title="PACS")) as first:
        port = first.port
    with running(node_settings(tmp_path / "node", port)) as node:
        send(node, images, tmp_path / "files")
        node.complete()
        assert node.route.step()
        assert node.infer.step()
        assert node.deliveries[0].step()
        job = next(each.job for each in node.story(uid_of(images)).jobs if each.job.kind == "deliver")
        assert (job.state, job.attempts) == ("SCHEDULED", 1)
        assert "tcp" in (job.error or "")
        again = settings(tmp_path / "pacs", title="PACS")
        fixed = again.model_copy(update={"dimse": again.dimse.model_copy(update={"port": port})})
        with running(fixed) as pacs:
            node.work()
            assert held(pacs, uid_of(images)) == [SEG, SR]


def test_a_peer_that_refuses_for_good_is_not_asked_again(tmp_path: Path) -> None:
    images = bright_series()
    refusing = settings(tmp_path / "pacs", title="PACS")
    refusing = refusing.model_copy(update={"dimse": refusing.dimse.model_copy(update={"unknown_peers": "echo"})})
    with running(refusing) as pacs, running(node_settings(tmp_path / "node", pacs.port)) as node:
        send(node, images, tmp_path / "files")
        node.work()
        sent = node.story(uid_of(images)).runs[0].deliveries
        assert [(each.delivery.form, each.delivery.state) for each in sent] == [("SEG", "NOT_TAKEN"), ("SR", "FAILED")]
        assert [[row.state for row in each.instances] for each in sent] == [["REFUSED"], ["REFUSED"]]


def test_a_profile_without_seg_gets_the_report_only(tmp_path: Path, pacs: StepNode) -> None:
    images = bright_series()
    with node_for(tmp_path / "node", pacs, peer_more='results = ["SR"]') as node:
        send(node, images, tmp_path / "files")
        node.work()
        (run,) = node.story(uid_of(images)).runs
        told = {each.delivery.form: (each.delivery.state, each.instances[0].state) for each in run.deliveries}
        assert told == {"SEG": ("NOT_TAKEN", "NOT_OFFERED"), "SR": ("DELIVERED", "ACCEPTED")}
        assert held(pacs, uid_of(images)) == [SR]


def test_one_dead_destination_holds_up_no_other(tmp_path: Path, pacs: StepNode) -> None:
    images = bright_series()
    tiny_bundle(tmp_path / "node" / "bundles")
    more = peer("pacs", pacs.port) + peer("dead", 9) + rule("dead", "pacs")
    with running(settings(tmp_path / "node", more=more)) as node:
        send(node, images, tmp_path / "files")
        node.complete()
        node.route.step()
        node.infer.step()
        while any(worker.step() for worker in node.deliveries):
            pass
        states = {(each.delivery.peer, each.delivery.state) for each in node.story(uid_of(images)).runs[0].deliveries}
        assert states == {("pacs", "DELIVERED"), ("dead", "SCHEDULED")}


def test_two_nodes_that_forward_to_each_other_come_to_rest(tmp_path: Path) -> None:
    images = bright_series()
    with running(settings(tmp_path / "b0", title="PACS")) as placeholder:
        port = placeholder.port
    with running(node_settings(tmp_path / "a", port)) as a:
        tiny_bundle(tmp_path / "b" / "bundles", version="2")
        more = peer("pacs", a.port, title="NODE") + rule("pacs")
        config = settings(tmp_path / "b", title="PACS", more=more)
        config = config.model_copy(update={"dimse": config.dimse.model_copy(update={"port": port})})
        with running(config) as b:
            send(a, images, tmp_path / "files")
            send_to(b.port, images, tmp_path / "files", called="PACS")
            for _ in range(6):
                if a.work() + b.work() == 0:
                    break
            else:
                raise AssertionError("the nodes do not come to rest")
            assert held(a, uid_of(images)) == held(b, uid_of(images)) == [SEG, SEG, SR, SR]


def test_a_peer_that_knows_no_segmentations_gets_the_report_and_the_delivery_says_so(tmp_path: Path) -> None:
    from pynetdicom import AE, evt

    taken: list[str] = []

    def on_store(event: Any) -> int:
        taken.append(str(event.request.AffectedSOPClassUID))
        return 0xA700 if len(taken) == 1 else 0x0000

    images = bright_series()
    peer_ae = AE(ae_title="PACS")
    peer_ae.add_supported_context(SR)
    server = peer_ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store)])
    assert server is not None
    try:
        with running(node_settings(tmp_path / "node", server.server_address[1])) as node:
            send(node, images, tmp_path / "files")
            node.work()
            seg, sr = node.story(uid_of(images)).runs[0].deliveries
    finally:
        server.shutdown()
    assert taken == [SR, SR], "out of resources passes: it is sent again"
    assert (seg.instances[0].state, sr.instances[0].state) == ("REFUSED", "ACCEPTED")
    assert (seg.delivery.state, sr.delivery.state) == ("NOT_TAKEN", "DELIVERED")
    assert seg.delivery.detail == "SEG refused (0122, no such objects are taken); SR suffices for pacs"
