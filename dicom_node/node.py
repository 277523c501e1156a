"""The composition root: the one place where a node's parts are built and put together. Nothing is built at import time."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import select

from dicom_node import clock as clocks
from dicom_node import nudge
from dicom_node.clock import Clock
from dicom_node.config import Config
from dicom_node.errors import ConfigurationError
from dicom_node.own_devices import OwnDevices
from dicom_node.releases import history
from dicom_node.transcode import Transcoder
from storage import associations
from storage.archive import Archive, ArchiveSettings, IngestSession, Source
from storage.database import Database, open_database
from storage.errors import IndexUnavailable
from storage.jobs import Backoff, JobQueue
from storage.purging import Purger
from storage.retention_rules import DiskState, Need, RetentionRule, disk_state
from storage.schema import archive_info

if TYPE_CHECKING:
    from dicom_node.config_rules import Rule
    from dicom_node.dimse.association import AssociationContext
    from dicom_node.dimse.server import Server
    from dicom_node.work.executors import Executor
    from dicom_node.work.worker import Worker

log = structlog.get_logger()

ASSOCIATION_LEASE = 30.0
ENDS_GATHERED = 0.1
MAX_ENDS_KEPT = 10_000


def prepare(config: Config) -> None:
    """Make what a first start needs: folders, the index with its tables, an empty archive. Does nothing to what is there.

    Raises
    ------
    ConfigurationError
        The data folder cannot be made, or a TLS file cannot be used.
    ArchiveMismatch
        Archive and index do not belong together, or the archive's disk is not mounted.
    """
    root = config.archive_root
    if config.dimse.tls is not None:
        tls_context(config)
    try:
        config.node.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"node.data_dir = '{config.node.data_dir}' cannot be made: {error.strerror}") from error
    database = open_database(config.database_url, create=True)
    try:
        if not (root / "archive-id").exists() and read_archive_id(database) is None:
            Archive.create(root, database)
            log.info("archive.created", root=str(root))
        Archive.open(root, database, process="prepare").close()
        history.recall(database, config.releases_root)
    finally:
        database.close()


def read_archive_id(database: Database) -> str | None:
    """The id that the index holds of its archive."""
    with database.read() as connection:
        return connection.scalar(select(archive_info.c.value).where(archive_info.c.key == "archive_id"))


@dataclass
class Node:
    """One process's share of a node."""

    config: Config
    clock: Clock
    database: Database
    archive: Archive
    archive_id: str
    process: str
    transcoder: Transcoder = field(default_factory=Transcoder)

    def queue(self, *, backoff: Backoff | None = None) -> JobQueue:
        return JobQueue(self.database, clock=self.clock, backoff=backoff, lease=self.config.jobs.lease)

    def disk_state(self) -> DiskState:
        """How the archive's disk stands to its two watermarks. Whoever pulls from peers asks first, and pulls only while it is OK."""
        return disk_state(self.archive, self.config.retention.keep_free)

    def ring(self, name: str) -> None:
        """Tell other processes that there is work."""
        nudge.ring(self.config.runtime_dir, name)

    def close(self) -> None:
        self.transcoder.close()
        self.archive.close()
        self.database.close()


@contextlib.contextmanager
def open_node(config: Config, role: str, *, clock: Clock = clocks.system) -> Iterator[Node]:
    """Open index and archive for one process."""
    database = open_database(config.database_url)
    try:
        archive_id = read_archive_id(database) or ""
        process = f"{role}@{socket.gethostname()}:{os.getpid()}"
        archive = Archive.open(
            config.archive_root,
            database,
            process=process,
            clock=clock,
            own_device_uids=OwnDevices(config, database, archive_id),
            settings=archive_settings(config),
        )
        node = Node(config, clock, database, archive, archive_id, process)
        try:
            yield node
        finally:
            node.transcoder.close()
            archive.close()
    finally:
        database.close()


def archive_settings(config: Config) -> ArchiveSettings:
    """The archive's own settings."""
    return ArchiveSettings(min_free=config.archive.min_free, max_segment=config.archive.segment_size)


def retention_rules(config: Config) -> list[RetentionRule]:
    """The configured rules, in their order."""
    rules = []
    for rule in config.retention.rule:
        needs = Need(rule.needs)
        results = Need(rule.results_need) if rule.results_need else (Need.DELIVERED if needs is Need.NOTHING else needs)
        rules.append(RetentionRule(rule.name, rule.sources, rule.after, rule.when_low, needs, results, rule.peers))
    return rules


def build_purger(node: Node) -> Purger:
    """What carries out retention."""
    return Purger(node.archive, retention_rules(node.config), keep_free=node.config.retention.keep_free)


# --- receiver


class LeasedAssociations:
    """Association hooks: a row per association that stores, kept alive by one heartbeat for all of them.

    The row is made with the first instance, in its transaction; ends are recorded many at a time, shortly after.
    """

    def __init__(self, node: Node, *, lease: float = ASSOCIATION_LEASE) -> None:
        self._node = node
        self._lease = lease
        self._open: set[str] = set()
        self._ended: list[associations.Ended] = []
        self._lock = threading.Lock()
        self._some_ended = threading.Event()
        self._done = threading.Event()
        self._threads = [
            threading.Thread(target=self._beat, name="association-heartbeat", daemon=True),
            threading.Thread(target=self._record_ends, name="association-ends", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._done.set()
        self._some_ended.set()
        for thread in self._threads:
            thread.join()

    def session(self, context: AssociationContext) -> IngestSession:
        """The association's way into the archive."""
        source = Source(
            association_id=context.id,
            calling_ae=context.calling_ae,
            called_ae=context.called_ae,
            address=context.address,
            process=self._node.process,
            lease=self._lease,
        )
        return self._node.archive.session(source)

    def opened(self, context: AssociationContext) -> None:
        with self._lock:
            self._open.add(context.id)

    def closed(self, context: AssociationContext, ended: str) -> None:
        end = associations.Ended(context.id, ended, context.stored, self._node.clock())
        with self._lock:
            self._open.discard(context.id)
            self._ended.append(end)
        if self._threads[1].is_alive():
            self._some_ended.set()
        else:
            self._flush()

    def _record_ends(self) -> None:
        while not self._done.is_set():
            self._some_ended.wait()
            self._done.wait(ENDS_GATHERED)  # a sender with an association for each image ends hundreds a second
            self._some_ended.clear()
            self._flush()
        self._flush()

    def _flush(self) -> None:
        with self._lock:
            ended, self._ended = self._ended, []
        try:
            associations.close_all(self._node.database, ended)
        except IndexUnavailable as error:
            log.warning("association.not_closed", count=len(ended), why=str(error))
            with self._lock:  # once more with the next; at the latest their leases run out
                self._ended = (ended + self._ended)[-MAX_ENDS_KEPT:]

    def _beat(self) -> None:
        while not self._done.wait(self._lease / 3):
            self._node.archive.tend()
            self._some_ended.set()
            with self._lock:
                held = list(self._open)
            try:
                associations.touch(self._node.database, self._node.process, self._lease, now=self._node.clock(), among=held)
            except IndexUnavailable as error:
                log.warning("association.heartbeat_missed", why=str(error))


def build_server(node: Node, hooks: LeasedAssociations) -> Server:
    """The receiver's server with its services."""
    from dicom_node.commitment import CommitmentDesk
    from dicom_node.destinations import PeerDestinations
    from dicom_node.dimse.admission import KnownPeer, PeerAdmission, Unknown
    from dicom_node.dimse.association import Service
    from dicom_node.dimse.contexts import FIND_CLASSES, GET_CLASSES, MOVE_CLASSES, STORAGE_COMMITMENT, VERIFICATION, storage_classes
    from dicom_node.dimse.server import Server, ServerSettings
    from dicom_node.dimse.services.commitment import CommitmentService
    from dicom_node.dimse.services.echo import EchoService
    from dicom_node.dimse.services.find import FindService
    from dicom_node.dimse.services.get import GetService
    from dicom_node.dimse.services.move import MoveService
    from dicom_node.dimse.services.store import COERCION_OF_DATA_ELEMENTS, CONFLICT, StoreService
    from dicom_node.workitem_events import workitem_services

    config = node.config
    limits = config.dimse
    settings = ServerSettings(
        host=limits.host,
        port=limits.port,
        ae_title=config.node.ae_title,
        max_associations=limits.max_associations,
        per_address=limits.max_associations_per_address,
        max_pending=limits.max_pending,
        pre_association_deadline=limits.association_deadline,
        max_pdu=limits.max_pdu,
        stall=limits.stall_timeout,
        send_deadline=limits.send_timeout,
        idle=limits.idle_timeout,
        reuse_port=limits.receivers > 1,
        extra_transfer_syntaxes=limits.extra_transfer_syntaxes,
        tls_context=(lambda: tls_context(config)) if limits.tls else None,
    )
    conflict = CONFLICT if config.archive.conflict == "refuse" else COERCION_OF_DATA_ELEMENTS
    store = StoreService(hooks.session, conflict_status=conflict)
    services: dict[str, Service] = dict.fromkeys((*storage_classes(), *limits.extra_sop_classes), store)
    services[VERIFICATION] = EchoService()
    desk = CommitmentDesk(config, node.database, node.queue(), clock=node.clock, who=node.process, ring=node.ring)
    services[STORAGE_COMMITMENT] = CommitmentService(desk, max_instances=config.commitment.max_instances)
    find = FindService(node.database, config.node.ae_title, max_results=config.query.max_results)
    services.update(dict.fromkeys(FIND_CLASSES, find))
    services.update(dict.fromkeys(GET_CLASSES, GetService(node.archive, node.transcoder)))
    services.update(dict.fromkeys(MOVE_CLASSES, MoveService(node.archive, node.transcoder, PeerDestinations(config))))
    services.update(workitem_services(node))
    peers = [
        KnownPeer(
            peer.name,
            peer.ae_title,
            peer.addresses,
            peer.may_store,
            peer.may_query,
            peer.may_retrieve,
            peer.may_commit,
            peer.may_manage_workitems,
        )
        for peer in config.peer
    ]
    admission = PeerAdmission(
        [config.node.ae_title], peers, check_called=limits.check_called_ae_title, unknown=Unknown(limits.unknown_peers)
    )
    return Server(settings, services, admission, hooks, clock=node.clock)


def tls_context(config: Config) -> ssl.SSLContext:
    """The receiver's side of TLS.

    Raises
    ------
    ConfigurationError
        A file is missing or is not what its key says.
    """
    tls = config.dimse.tls
    assert tls is not None
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tls.ca) if tls.ca else None)
    except OSError as error:
        raise ConfigurationError(f"'dimse.tls.ca' = '{tls.ca}' cannot be used: {error.strerror}") from error
    try:
        context.load_cert_chain(tls.certificate, tls.key)
    except OSError as error:
        files = f"'dimse.tls.certificate' = '{tls.certificate}' and 'dimse.tls.key' = '{tls.key}'"
        raise ConfigurationError(f"{files} cannot be used: {error.strerror}") from error
    if tls.ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


# --- workers


def build_io_workers(node: Node, rules: Callable[[], tuple[Rule, ...]] | None = None) -> list[Worker]:
    """One worker for routing and one for each peer that is sent to: a dead destination holds up nobody else. ``rules``: those of the
    moment; else those of the configuration."""
    from dicom_node.work.commit import CommitHandler
    from dicom_node.work.deliver import DeliverHandler
    from dicom_node.work.prior import PriorHandler
    from dicom_node.work.route import RouteHandler
    from dicom_node.work.worker import Worker
    from storage import commitments, priors
    from storage.deliveries import queue_of

    config = node.config
    queue = node.queue(backoff=Backoff(base=config.delivery.backoff, cap=config.delivery.max_backoff))
    route = RouteHandler(config, node.database, node.archive, queue, clock=node.clock, ring=node.ring, rules=rules)
    deliver = DeliverHandler(config, node.database, node.archive, queue, clock=node.clock, transcoder=node.transcoder)
    workers = [Worker(queue, ["route"], {"route": route}, name=f"{node.process}/route", bell=nudge.Doorbell(config.runtime_dir, "route"))]
    for peer in config.destinations:
        bell = nudge.Doorbell(config.runtime_dir, f"deliver-{peer.name}")
        name = f"{node.process}/{peer.name}"
        workers.append(Worker(queue, [queue_of(peer.name)], {"deliver": deliver}, name=name, bell=bell))
    for peer in config.peer:
        if peer.may_commit:
            commit = CommitHandler(config, node.database, node.archive, queue, clock=node.clock)
            bell = nudge.Doorbell(config.runtime_dir, f"commit-{peer.name}")
            name = f"{node.process}/{peer.name}-commitment"
            workers.append(Worker(queue, [commitments.queue_of(peer.name)], {"commit": commit}, name=name, bell=bell))
    prior = PriorHandler(config, node.database, node.archive, queue, clock=node.clock, ring=node.ring)
    bell = nudge.Doorbell(config.runtime_dir, priors.QUEUE)
    workers.append(Worker(queue, [priors.QUEUE], {priors.KIND: prior}, name=f"{node.process}/prior", bell=bell))
    if config.scheduled_evaluation:
        from dicom_node.releases.scheduled import QUEUE, EvaluateHandler

        evaluate = EvaluateHandler(config, node.database, node.archive, queue, clock=node.clock)
        bell = nudge.Doorbell(config.runtime_dir, QUEUE)
        workers.append(Worker(queue, [QUEUE], {"evaluate": evaluate}, name=f"{node.process}/evaluation", bell=bell))
    return workers


def build_executor(config: Config, device: str) -> Executor:
    """The configured way to run models on a device."""
    from dicom_node.work.executors import InlineExecutor, ProcessExecutor

    kind = InlineExecutor if config.executor.kind == "inline" else ProcessExecutor
    return kind(device, cache=config.node.weights, threads=config.executor.threads, memory=config.executor.memory)


def build_inference_worker(node: Node, executor: Executor) -> Worker:
    """The worker of one device."""
    from dicom_node.work.infer import InferHandler
    from dicom_node.work.worker import Worker

    queue = node.queue(backoff=Backoff(base=node.config.executor.backoff))
    handler = InferHandler(
        node.config, node.database, node.archive, queue, executor=executor, archive_id=node.archive_id, clock=node.clock, ring=node.ring
    )
    bell = nudge.Doorbell(node.config.runtime_dir, "infer")
    return Worker(queue, ["infer"], {"infer": handler}, name=f"{node.process}/{executor.device}", bell=bell)
