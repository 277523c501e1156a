"""What ``dicom-node check`` looks at, each in one sentence, with the step that failed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from dicom_node.config import Config, Peer
from dicom_node.dimse.errors import DimseError
from dicom_node.errors import ConfigurationError
from storage.errors import StorageError

if TYPE_CHECKING:
    from dicom_node.releases.resolve import Resolution

log = structlog.get_logger()


@dataclass(frozen=True)
class Checked:
    """One thing that was looked at."""

    subject: str
    ok: bool
    detail: str


def check_all(config: Config) -> Iterator[Checked]:
    """Check everything that a configuration names; a configuration that can be read has passed its own check."""
    yield Checked("configuration", True, f"{len(config.peer)} peers, {len(config.rule)} rules")
    yield from _running_rules(config)
    yield from _storage(config)
    yield _viewer(config)
    yield from _sign_in(config)
    if config.dimse.tls is not None:
        yield _tls(config)
    for peer in config.peer:
        if peer.host is not None:
            yield check_peer(config, peer)
        if peer.dicomweb is not None:
            yield _dicomweb(config, peer)
    for device in config.executor.devices:
        yield _device(device)
    for name in dict.fromkeys(name for rule in config.rule for name in rule.run):
        yield _model(config, name)


def _viewer(config: Config) -> Checked:
    """Whether there is a viewer; a node without one is sound."""
    from dicom_node.viewer import INSTALL
    from dicom_node.viewer.installation import installed

    found = installed(config)
    return Checked("viewer", True, f"OHIF {found.version} at /viewer" if found else f"not installed; {INSTALL}")


def _sign_in(config: Config) -> Iterator[Checked]:
    """Who may open the pages, where others than this machine can reach them."""
    from dicom_node.config import is_loopback
    from storage import accounts
    from storage.database import open_database

    if is_loopback(config.web.host):
        return
    if not config.web.proxies:
        why = "nothing encrypts pages and passwords: put a proxy with a certificate in front, and name it in [web] proxies"
        yield Checked("TLS", True, why)
    if config.web.allow_anonymous and not config.web.sign_in:
        yield Checked("sign-in", True, "whoever reaches it reads and stores: [web] allow_anonymous is set")
        return
    database = open_database(config.database_url)
    try:
        if database.current() is None:
            return
        with database.read() as connection:
            some = accounts.exist(connection)
    except StorageError:
        return  # told of already
    finally:
        database.close()
    if not some and not config.web.tokens:
        yield Checked("sign-in", False, "nobody can sign in: dicom-node user add NAME --role administrator")


def _running_rules(config: Config) -> Iterator[Checked]:
    """Of a node that runs here: whether it has the rules that stand in the file."""
    from dicom_node.routing.live import running_state

    state = running_state(config.runtime_dir)
    if state is None:
        return
    if state.problem:
        yield Checked("rules in use", False, f"the file was refused, and {len(state.rules)} rules before it kept: {state.problem}")
    else:
        later = f"; in use after a restart: {', '.join(state.restart_for)}" if state.restart_for else ""
        yield Checked("rules in use", True, f"{', '.join(state.rules) or 'none'}{later}")


def _storage(config: Config) -> Iterator[Checked]:
    from dicom_node.node import read_archive_id
    from storage.database import open_database

    database = open_database(config.database_url)
    if database.dialect == "sqlite" and not config.archive_root.exists() and not config.node.data_dir.joinpath("index.sqlite").exists():
        yield Checked("database", True, f"new: dicom-node serve makes index and archive in {config.node.data_dir}")
        return
    try:
        try:
            revision = database.current()
            if revision is None and not (config.archive_root / "archive-id").exists():
                yield Checked("database", True, f"new: dicom-node serve makes its tables, and the archive in {config.node.data_dir}")
                return
            known = read_archive_id(database)
        except StorageError as error:
            yield Checked("database", False, str(error))
            return
        yield Checked("database", True, f"{database.dialect}, schema {revision}")
        yield _archive(config, known)
        yield _damage(config)
    finally:
        database.close()


def _archive(config: Config, known: str | None) -> Checked:
    import shutil

    mark = config.archive_root / "archive-id"
    try:
        found = mark.read_text(encoding="utf-8").strip()
    except OSError as error:
        return Checked("archive", False, f"{mark}: {error.strerror}; is the disk mounted?")
    if found != known:
        return Checked("archive", False, f"{config.archive_root} is archive {found}, and the database belongs to {known}")
    free = shutil.disk_usage(config.archive_root).free
    if free < config.archive.min_free:
        return Checked("archive", False, f"{free} bytes are free, and storing stops below {config.archive.min_free}")
    return Checked("archive", True, f"{config.archive_root}, {free / 1e9:.1f} GB free")


def _tls(config: Config) -> Checked:
    from dicom_node.node import tls_context

    try:
        tls_context(config)
    except ConfigurationError as error:
        return Checked("tls", False, str(error))
    return Checked("tls", True, "certificate and key belong together")


def _damage(config: Config) -> Checked:
    import time

    from storage.database import open_database
    from storage.metrics import collect

    database = open_database(config.database_url)
    try:
        figures = collect(database, time.time())
    except StorageError as error:
        return Checked("instances", False, str(error))
    finally:
        database.close()
    if figures.damaged:
        return Checked("instances", False, f"{figures.damaged} of {figures.instances} are damaged: dicom-node archive verify")
    return Checked("instances", True, f"{figures.instances} in {figures.studies} studies, {figures.quarantine_held} in quarantine")


def check_peer(config: Config, peer: Peer) -> Checked:
    """Associate with a peer and echo."""
    from dicom_node.dimse.scu import echo_contexts
    from dicom_node.work.associating import associate_peer

    subject = f"peer {peer.name}"
    try:
        with associate_peer(config, peer, [(abstract, list(syntaxes)) for abstract, syntaxes in echo_contexts()]) as association:
            status = association.echo()
    except DimseError as error:
        return Checked(subject, False, f"{error.step}: {error}")
    except OSError as error:
        return Checked(subject, False, f"tls: {error}")
    where = f"{peer.ae_title} at {peer.host}:{peer.port}"
    return Checked(subject, status == 0, f"{where} answered the echo" if status == 0 else f"echo: {where} answered {status:04X}")


def _dicomweb(config: Config, peer: Peer) -> Checked:
    """Whether a peer's archive is searched over DICOMweb: for a study that nobody has."""
    from dicom_node.dicomweb_client import DicomwebClient, DicomwebError

    subject, limits = f"DICOMweb of {peer.name}", config.delivery
    assert peer.dicomweb is not None
    client = DicomwebClient(
        peer.dicomweb,
        token=peer.dicomweb_token or "",
        ca=peer.dicomweb_ca,
        connect=limits.connect_timeout,
        stall=limits.response_timeout,
    )
    try:
        client.studies({"StudyInstanceUID": "2.25.0"}, (), within=limits.connect_timeout + limits.response_timeout)
    except DicomwebError as error:
        return Checked(subject, False, str(error))
    return Checked(subject, True, f"{peer.dicomweb} answered a search")


def _device(device: str) -> Checked:
    if device == "cpu":
        return Checked("device cpu", True, "always there")
    from dicom_node.work.device import name_of

    try:
        return Checked(f"device {device}", True, name_of(device))
    except ConfigurationError as error:
        return Checked(f"device {device}", False, str(error))


def _model(config: Config, name: str) -> Checked:
    from models.bundle import validate_bundle
    from models.errors import ModelError
    from models.weights import resolve_weights

    subject = f"model {name}"
    try:
        meant = meaning(config, name)
        if meant.problem:
            return Checked(subject, False, meant.problem)
        for chosen in (meant.live, *meant.shadows):
            problems = validate_bundle(chosen.bundle) if chosen is not None else []
            if problems:
                return Checked(subject, False, "; ".join(str(problem) for problem in problems))
            if chosen is not None:
                resolve_weights(chosen.bundle, config.node.weights)
    except (ModelError, StorageError) as error:
        return Checked(subject, False, str(error))
    beside = f"; {len(meant.shadows)} in the shadow" if meant.shadows else ""
    if meant.live is None:
        return Checked(subject, True, f"nothing is run: {meant.idle}{beside}")
    bundle, released = meant.live.bundle, meant.live.release is not None
    where = "the deployed release" if released else f"the folder {bundle.root}, since no release of it was ever deployed"
    return Checked(subject, True, f"{bundle.name} {bundle.version}, release digest {bundle.digest[:12]}, weights verified: {where}{beside}")


def meaning(config: Config, name: str) -> Resolution:
    """What a rule's word for a model means on this node, whether it has an index yet or not."""
    from dicom_node.releases.resolve import resolve
    from storage.database import open_database

    database = open_database(config.database_url)
    try:
        try:
            there = database.current() is not None
        except StorageError:
            there = False
        return resolve(config, database if there else None, name)
    finally:
        database.close()


def refuse_unknown_models(config: Config) -> None:
    """Look, before a node starts, whether there is every model that its rules name.

    Raises
    ------
    ConfigurationError
        There is none of that name, or models wait for each other in a circle. One that is there and broken is told in the log: receiving
        goes on without it.
    """
    from dicom_node.routing.order import problems
    from models.weights import missing_weights

    bundles = {}
    for name in dict.fromkeys(name for rule in config.rule for name in rule.run):
        meant = meaning(config, name)
        if meant.unknown:
            rules = ", ".join(f"'{rule.name}'" for rule in config.rule if name in rule.run)
            raise ConfigurationError(f"rule {rules} runs '{name}': {meant.problem}")
        if meant.problem or meant.idle:
            log.error("model.not_run", name=name, why=meant.problem or meant.idle)
        if meant.live is not None:
            bundles[name] = meant.live.bundle
        if meant.live is not None and missing_weights(meant.live.bundle, config.node.weights):
            log.error("model.weights_missing", name=name, way_out=f"dicom-node model fetch {name}")
    wrong = problems(config.rule, bundles)
    if wrong:
        raise ConfigurationError("; ".join(wrong))
