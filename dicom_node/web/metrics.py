"""The figures that /metrics shows, read from index and disk when asked for. Labels are queues, states and peers; never a patient."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from dicom_node.node import Node
from storage import release_watch, releases
from storage.metrics import IndexMetrics, collect
from storage.retention_rules import DiskState

CONTENT_TYPE = CONTENT_TYPE_LATEST

# Every metric: name > what it tells, and its labels.
METRICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "dicom_node_studies": ("Studies in the archive", ()),
    "dicom_node_series": ("Series in the archive", ()),
    "dicom_node_instances": ("Instances in the archive", ()),
    "dicom_node_instances_damaged": ("Instances whose bytes no longer match their digest", ()),
    "dicom_node_studies_receiving": ("Studies that are not complete yet", ()),
    "dicom_node_jobs": ("Live jobs", ("queue", "state")),
    "dicom_node_jobs_failed": ("Jobs that failed for good", ("queue",)),
    "dicom_node_oldest_job_seconds": ("Age of the oldest job that is due; 0 where none is", ("queue",)),
    "dicom_node_delivery_age_seconds": ("Age of the oldest delivery that is not finished; 0 where none waits", ("peer",)),
    "dicom_node_commitment_age_seconds": ("Age of the oldest storage commitment that a peer was asked for and has not given", ("peer",)),
    "dicom_node_commitment_unreported_seconds": ("Age of the oldest storage commitment asked of us and not reported yet", ("peer",)),
    "dicom_node_quarantine_held": ("Quarantined instances that wait for a decision", ()),
    "dicom_node_header_backlog": ("Instances without their header JSON", ()),
    "dicom_node_pulling_stopped": ("1 while so little disk is free that nothing is pulled from peers, else 0", ()),
    "dicom_node_release_flagged": ("1 while the deployed release of a model is flagged, else 0", ("model", "kind")),
    "dicom_node_disk_free_bytes": ("Free space of the archive's disk", ()),
}


def render(node: Node) -> bytes:
    """The metrics as Prometheus text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(node))
    return generate_latest(registry)


class _Figures(Collector):
    def __init__(self, node: Node) -> None:
        self._node = node

    def collect(self) -> Iterator[GaugeMetricFamily]:
        figures = collect(self._node.database, self._node.clock())
        peers = self._node.config.peer
        values = _values(
            figures,
            [peer.name for peer in peers if peer.host],
            committing=[peer.name for peer in peers if peer.commitment],
            asking=[peer.name for peer in peers if peer.may_commit],
        )
        values["dicom_node_pulling_stopped"] = {(): float(self._node.disk_state() is not DiskState.OK)}
        values["dicom_node_release_flagged"] = self._flags()
        values["dicom_node_disk_free_bytes"] = {(): float(self._node.archive.free_bytes())}
        for name, (text, labels) in METRICS.items():
            family = GaugeMetricFamily(name, text, labels=labels)
            for labelled, value in values[name].items():
                family.add_metric(labelled, value)
            yield family

    def _flags(self) -> dict[tuple[str, ...], float]:
        with self._node.database.read() as connection:
            deployed = [each.name for each in releases.every(connection) if each.state == releases.State.DEPLOYED]
            raised = set(release_watch.flagged(connection))
        return {(name, kind): float((name, kind) in raised) for name in deployed for kind in ("drift", "evaluation")}


def _values(
    figures: IndexMetrics, peers: list[str], *, committing: list[str], asking: list[str]
) -> dict[str, dict[tuple[str, ...], float]]:
    queues = ["route", "infer", *(f"deliver:{peer}" for peer in peers)]  # an alarm needs a 0, not an absence
    jobs: dict[tuple[str, ...], float] = {
        (queue, state): float(count) for queue, states in figures.jobs.items() for state, count in states.items()
    }
    return {
        "dicom_node_studies": {(): figures.studies},
        "dicom_node_series": {(): figures.series},
        "dicom_node_instances": {(): figures.instances},
        "dicom_node_instances_damaged": {(): figures.damaged},
        "dicom_node_studies_receiving": {(): figures.receiving},
        "dicom_node_jobs": jobs,
        "dicom_node_jobs_failed": {(queue,): float(figures.failed_jobs.get(queue, 0)) for queue in {*queues, *figures.failed_jobs}},
        "dicom_node_oldest_job_seconds": {(queue,): figures.oldest_job.get(queue, 0.0) for queue in {*queues, *figures.oldest_job}},
        "dicom_node_delivery_age_seconds": {(peer,): figures.oldest_delivery.get(peer, 0.0) for peer in {*peers, *figures.oldest_delivery}},
        "dicom_node_commitment_age_seconds": {
            (peer,): figures.oldest_commitment.get(peer, 0.0) for peer in {*committing, *figures.oldest_commitment}
        },
        "dicom_node_commitment_unreported_seconds": {
            (peer,): figures.oldest_unreported.get(peer, 0.0) for peer in {*asking, *figures.oldest_unreported}
        },
        "dicom_node_quarantine_held": {(): figures.quarantine_held},
        "dicom_node_header_backlog": {(): figures.header_backlog},
    }
