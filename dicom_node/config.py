"""One TOML file, read once into frozen models. A wrong key or value is refused with its name, what stands there, and the way out.

[node] [dimse] [dimse.tls] [web] [query] [database] [archive] [study] [delivery] [commitment] [retention] [executor] [drift] [jobs] [log]
[[peer]]   Peer          [[rule]]   Rule          [[quota]]   QuotaTable          [[release_gate]]   ReleaseGate
[[scheduled_evaluation]]   ScheduledEvaluation
"""

from __future__ import annotations

import copy
import os
import tomllib
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, model_validator

from dicom_node.config_errors import describe
from dicom_node.config_rules import AePattern, Matching, Rule, Syntax
from dicom_node.config_rules import contradictions as rule_contradictions
from dicom_node.config_table import Table
from dicom_node.config_values import (
    AeTitle,
    DatabaseUrl,
    Device,
    Duration,
    Name,
    Network,
    Port,
    ServiceRoot,
    Size,
    StoredSecret,
    Uid,
)
from dicom_node.errors import ConfigurationError

ENVIRONMENT = "DICOM_NODE_CONFIG"
DEFAULT_FILE = "dicom-node.toml"
NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "fuse.sshfs", "lustre"})

Kind = Literal["SEG", "FRACTIONAL", "LABELMAP", "SR", "KO", "SC", "SC_MULTIFRAME", "PR"]


class NodeTable(Table):
    """Who this node is and where its data lie. ``bundles`` are further folders with model bundles, before the shipped ones."""

    ae_title: AeTitle = "DICOM_NODE"
    data_dir: Path = Path("dicom-node-data")
    bundles: tuple[Path, ...] = ()
    weights: Path | None = None


class TlsTable(Table):
    """A server certificate; with ``ca`` callers must show one that it signed."""

    certificate: Path
    key: Path
    ca: Path | None = None


class DimseTable(Table):
    """The receiver: where it listens, whom it lets in, and its limits."""

    host: str = "0.0.0.0"
    port: Port = 11112
    receivers: Annotated[int, Field(ge=1, le=64)] = 1
    check_called_ae_title: bool = True
    unknown_peers: Literal["refuse", "echo", "store"] = "echo"
    max_associations: Annotated[int, Field(ge=1)] = 256
    max_associations_per_address: Annotated[int, Field(ge=1)] = 128
    max_pending: Annotated[int, Field(ge=1)] = 512
    association_deadline: Duration = 10.0
    idle_timeout: Duration = 600.0
    stall_timeout: Duration = 60.0
    send_timeout: Duration = 30.0
    stop_deadline: Duration = 10.0
    max_pdu: Annotated[int, Field(ge=4096, le=1_048_576)] = 262_144
    extra_sop_classes: tuple[Uid, ...] = ()
    extra_transfer_syntaxes: tuple[Uid, ...] = ()
    tls: TlsTable | None = None


class TokenTable(Table):
    """A bearer token: who bears it and what it may do. It stands in the environment or in a file, never in the configuration."""

    name: Name
    token: StoredSecret
    rights: Annotated[tuple[Literal["read", "store", "delete", "operate"], ...], Field(min_length=1)] = ("read",)


class WebTable(Table):
    """Health, metrics and DICOMweb over HTTP. Without tokens it listens on loopback only, unless ``allow_anonymous`` says otherwise.

    ``allowed_hosts``: further names by which this node is called; ``allowed_origins``: other sites whose pages may ask. ``sign_in``: nobody
    is answered without an account or a token, from the start (without it: from the first account on); then it may listen anywhere.
    ``proxies``: addresses of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed.
    A session ends after ``session_idle`` without a request, and after ``session_lifetime`` at the latest.
    """

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Port = 8042
    allow_anonymous: bool = False
    sign_in: bool = False
    proxies: tuple[str, ...] = ()
    session_idle: Duration = 3600.0
    session_lifetime: Duration = 12 * 3600.0
    tokens: tuple[TokenTable, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[Annotated[str, Field(pattern=r"^https?://[^/\s]+$")], ...] = ()
    allow_delete: bool = False
    max_connections: Annotated[int, Field(ge=4)] = 512
    max_uploads: Annotated[int, Field(ge=1, le=256)] = 16
    max_request_size: Size = 64 * 1024**3
    max_part_size: Size = 16 * 1024**3
    max_parts: Annotated[int, Field(ge=1)] = 20_000
    stall_timeout: Duration = 60.0


class QueryTable(Table):
    """C-FIND: after ``max_results`` matches an answer ends with a warning."""

    max_results: Annotated[int, Field(ge=1)] = 10_000


class DatabaseTable(Table):
    """Index and jobs: SQLite in ``data_dir`` unless a URL is given."""

    url: DatabaseUrl | None = None


class ArchiveTable(Table):
    """The archive's bytes. ``conflict``: what a sender hears when other content comes under a known UID. ``results``: the kinds of results
    that are made and kept of every run, whether a peer takes them or not."""

    acknowledge: Literal["local"] = "local"
    conflict: Literal["refuse", "warn"] = "refuse"
    results: tuple[Kind, ...] = ()
    min_free: Size = 1024**3
    segment_size: Size = 1024**3
    scrub_interval: Duration = 7 * 86400.0


class StudyTable(Table):
    """When a study is complete, and what a late instance does."""

    quiet_period: Duration = 60.0
    max_wait: Duration = 3600.0
    required: tuple[Matching, ...] = ()
    expected_count: Annotated[int, Field(ge=1)] | None = None
    late: Literal["rerun", "ignore", "flag"] = "rerun"


class DeliveryTable(Table):
    """How results are sent: attempts, the waits between them (doubling from ``backoff`` to ``max_backoff``), deadlines."""

    attempts: Annotated[int, Field(ge=1)] = 50
    backoff: Duration = 5.0
    max_backoff: Duration = 900.0
    connect_timeout: Duration = 10.0
    response_timeout: Duration = 120.0


class CommitmentTable(Table):
    """Storage commitment. Asked of us: ``report_wait`` is how long a report is left to the association that asked, before one of our own
    is opened. Asked by us: without a report after ``timeout`` it is asked again; what was not committed is sent again, ``resend`` times."""

    max_instances: Annotated[int, Field(ge=1, le=1_000_000)] = 100_000
    report_wait: Duration = 5.0
    timeout: Annotated[Duration, Field(gt=0)] = 3600.0
    resend: Annotated[int, Field(ge=0)] = 3


class RetentionRule(Table):
    """When studies go, whose instances all came from ``sources`` (AE titles with wildcards, or "imported"): ``after`` so long, or
    ``when_low`` so long once the disk is low. ``needs``: what must have happened to the received instances elsewhere; ``results_need``:
    to the results (as ``needs``, but "delivered" where that is "nothing"). ``peers``: those that count for it; empty: any."""

    name: Name
    sources: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    after: Duration | None = None
    when_low: Duration | None = None
    needs: Literal["committed", "delivered", "nothing"] = "committed"
    results_need: Literal["committed", "delivered", "nothing"] | None = None
    peers: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _some_time(self) -> RetentionRule:
        if self.after is None and self.when_low is None:
            raise ValueError("after or when_low is needed: without either nothing ever goes")
        return self


class RetentionTable(Table):
    """What may be deleted, and when. Below ``keep_free`` bytes of free disk nothing is pulled from peers, and rules with ``when_low``
    apply; below [archive] min_free stores are refused. Without a rule nothing is ever deleted."""

    keep_free: Size = 0
    batch: Annotated[int, Field(ge=1, le=1000)] = 20
    rule: tuple[RetentionRule, ...] = ()


class ExecutorTable(Table):
    """Where models run. ``deadline`` ends a run that takes longer; ``attempts`` is how often a crashed one is tried again; ``memory`` is
    what a child on the CPU may take (its address space); ``memory_wait`` is how long a run waits for memory that other work has;
    ``batch`` is how many single 2-D images of one model that wait at the same time go through its network together, where memory allows."""

    kind: Literal["inline", "process"] = "process"
    devices: Annotated[tuple[Device, ...], Field(min_length=1)] = ("cpu",)
    threads: Annotated[int, Field(ge=1)] | None = None
    memory: Size | None = None
    batch: Annotated[int, Field(ge=1, le=256)] = 8
    memory_wait: Duration = 600.0
    deadline: Duration = 1800.0
    attempts: Annotated[int, Field(ge=1)] = 3
    backoff: Duration = 5.0

    @model_validator(mode="before")
    @classmethod
    def _no_ray(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("kind") == "ray":
            raise ValueError("kind = 'ray' is not available in this version; use 'process', which runs one child per device")
        return values


class DriftTable(Table):
    """The input of released models, beside their training data: over the ``window`` newest runs, once there are ``minimum``.
    ``limit``: from which distance (0 to 1) a feature has drifted; ``ignore``: features, with wildcards, that are not compared."""

    window: Annotated[int, Field(ge=10, le=10_000)] = 100
    minimum: Annotated[int, Field(ge=5)] = 20
    limit: Annotated[float, Field(gt=0, lt=1)] = 0.3
    ignore: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _enough(self) -> DriftTable:
        if self.minimum > self.window:
            raise ValueError(f"minimum = {self.minimum} is more than window = {self.window}: nothing would ever be compared")
        return self


class JobsTable(Table):
    """Leases of the job queue. ``fair_share``: runs of a source that sends much stand so far apart, and those of others between them."""

    lease: Annotated[Duration, Field(ge=1)] = 30.0
    fair_share: Annotated[Duration, Field(ge=0)] = 10.0


class QuotaTable(Table):
    """How many runs each source may have let go in a span: at most ``runs`` in any ``per``, for each calling AE title that ``from`` names
    (wildcards). More wait for their turn. Several tables may name one source; all of them count."""

    sources: Annotated[tuple[AePattern, ...], Field(alias="from", min_length=1)]
    runs: Annotated[int, Field(ge=1)]
    per: Annotated[Duration, Field(ge=1, le=31 * 86400)]


class LogTable(Table):
    level: Literal["debug", "info", "warning", "error"] = "info"


class Peer(Table):
    """A remote AE. ``commitment``: what it is sent counts as delivered only when it has committed it. ``results``: the kinds it is sent.
    ``max_frames``: of an object with frames; more are split over several objects. ``transfer_syntaxes``: in which results are sent, the
    first that the peer takes and that changes nothing but the encoding; else as they are archived.
    ``suffices``: the kinds that are enough where it refuses the others for good.
    ``negative_reports``: send an SR also when a model did not apply or failed.
    ``priors``: it is asked for earlier studies that models compare with (C-FIND), and has them sent to us (C-MOVE); by QIDO-RS and WADO-RS
    below ``dicomweb`` where that is given, with ``dicomweb_token`` as bearer token, its certificate verified (``dicomweb_ca``)."""

    name: Name
    ae_title: AeTitle
    host: str | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    addresses: tuple[Network, ...] = ()
    may_store: bool = True
    may_query: bool = True
    may_retrieve: bool = True
    may_commit: bool = True
    may_manage_workitems: bool = False
    commitment: bool = False
    results: tuple[Kind, ...] = ("SEG", "SR")
    max_frames: Annotated[int, Field(ge=1)] | None = None
    transfer_syntaxes: tuple[Syntax, ...] = ()
    suffices: tuple[Kind, ...] = ("SR",)
    negative_reports: bool = False
    priors: bool = False
    dicomweb: ServiceRoot | None = None
    dicomweb_token: Annotated[StoredSecret | None, Field(exclude=True, repr=False)] = None
    dicomweb_ca: Path | None = None
    tls: bool = False
    tls_ca: Path | None = None

    @model_validator(mode="after")
    def _reachable(self) -> Peer:
        if (self.host is None) != (self.port is None):
            raise ValueError("host and port belong together")
        root = urlsplit(self.dicomweb or "")
        if self.dicomweb_token and root.scheme != "https" and not is_loopback(root.hostname or ""):
            raise ValueError("dicomweb_token would go unencrypted: dicomweb must begin with https://")
        return self


class ReleaseGate(Table):
    """What an evaluation on the data set ``data`` must show before a release of ``model`` may be deployed here, beside what the model's own
    [gate] asks for: metrics, by their names in the report, at least or at most so large."""

    model: Annotated[str, Field(min_length=1)]
    data: Annotated[str, Field(min_length=1)]
    split: str = "test"
    minima: dict[str, float] = {}
    maxima: dict[str, float] = {}

    @model_validator(mode="after")
    def _some(self) -> ReleaseGate:
        if not self.minima and not self.maxima:
            raise ValueError("minima or maxima are needed: without either everything passes")
        return self


class ScheduledEvaluation(Table):
    """The deployed release of ``model`` is evaluated on a data set, ``every`` so often. ``data`` and ``splits`` as ``model evaluate`` takes
    them; paths in ``data`` are absolute."""

    model: Annotated[str, Field(min_length=1)]
    data: Annotated[str, Field(min_length=1)]
    splits: Path | None = None
    split: Literal["train", "validation", "test"] = "test"
    every: Annotated[Duration, Field(gt=0)] = 7 * 86400.0
    deadline: Annotated[Duration, Field(gt=0)] = 6 * 3600.0
    device: Device = "cpu"


class Config(Table):
    """The whole file."""

    node: NodeTable = NodeTable()
    dimse: DimseTable = DimseTable()
    web: WebTable = WebTable()
    query: QueryTable = QueryTable()
    database: DatabaseTable = DatabaseTable()
    archive: ArchiveTable = ArchiveTable()
    study: StudyTable = StudyTable()
    delivery: DeliveryTable = DeliveryTable()
    commitment: CommitmentTable = CommitmentTable()
    retention: RetentionTable = RetentionTable()
    executor: ExecutorTable = ExecutorTable()
    drift: DriftTable = DriftTable()
    jobs: JobsTable = JobsTable()
    log: LogTable = LogTable()
    peer: tuple[Peer, ...] = ()
    rule: tuple[Rule, ...] = ()
    quota: tuple[QuotaTable, ...] = ()
    release_gate: tuple[ReleaseGate, ...] = ()
    scheduled_evaluation: tuple[ScheduledEvaluation, ...] = ()

    @property
    def archive_root(self) -> Path:
        return self.node.data_dir / "archive"

    @property
    def releases_root(self) -> Path:
        return self.node.data_dir / "releases"

    @property
    def database_url(self) -> str:
        return self.database.url or f"sqlite:///{self.node.data_dir / 'index.sqlite'}"

    @property
    def runtime_dir(self) -> Path:
        return self.node.data_dir / "run"

    def peer_named(self, name: str) -> Peer:
        for peer in self.peer:
            if peer.name == name:
                return peer
        known = ", ".join(peer.name for peer in self.peer) or "none"
        raise ConfigurationError(f"there is no peer '{name}'; configured: {known}")

    @property
    def destinations(self) -> tuple[Peer, ...]:
        """The peers that something can be sent to."""
        return tuple(peer for peer in self.peer if peer.host is not None)

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        for problem in _contradictions(self):
            raise ValueError(problem)
        return self


def _contradictions(config: Config) -> list[str]:
    problems: list[str] = []
    for kind, names in (("peer", [peer.name for peer in config.peer]), ("rule", [rule.name for rule in config.rule])):
        problems += [f"two [[{kind}]] tables are called '{name}'" for name in sorted(set(names)) if names.count(name) > 1]
    peers = {peer.name: peer for peer in config.peer}
    problems += rule_contradictions(config.rule, peers)
    problems += _retention_contradictions(config, peers)
    sqlite = config.database_url.startswith("sqlite")
    if sqlite and config.dimse.receivers > 1:
        problems.append(
            f"dimse.receivers = {config.dimse.receivers} needs PostgreSQL: several receivers on one SQLite file are slower than one; "
            'set [database] url = "postgresql://..." or receivers = 1'
        )
    if sqlite and (kind := file_system(config.node.data_dir)) in NETWORK_FILE_SYSTEMS:
        problems.append(
            f"node.data_dir = '{config.node.data_dir}' is on a network file system ({kind}), where SQLite loses data; "
            "use a local disk, or PostgreSQL for [database] url"
        )
    web = config.web
    if web.enabled and not (is_loopback(web.host) or web.tokens or web.sign_in or web.allow_anonymous):
        problems.append(
            f"web.host = '{web.host}' would be open to the network without authentication; "
            "use '127.0.0.1', give [web] tokens or web.sign_in = true, or say web.allow_anonymous = true"
        )
    named = [token.name for token in web.tokens]
    problems += [f"two web.tokens are called '{name}'" for name in sorted(set(named)) if named.count(name) > 1]
    return problems


def _retention_contradictions(config: Config, peers: Mapping[str, Peer]) -> list[str]:
    retention = config.retention
    names = [rule.name for rule in retention.rule]
    problems = [f"two [[retention.rule]] tables are called '{name}'" for name in sorted(set(names)) if names.count(name) > 1]
    if retention.keep_free and retention.keep_free < config.archive.min_free:
        problems.append(
            f"retention.keep_free = {retention.keep_free} is below archive.min_free = {config.archive.min_free}, where stores are refused "
            "already; make it larger"
        )
    for rule in retention.rule:
        if rule.when_low is not None and not retention.keep_free:
            problems.append(f"retention rule '{rule.name}' has when_low, and no [retention] keep_free says when the disk is low")
        for name in rule.peers:
            if name not in peers:
                problems.append(f"retention rule '{rule.name}' counts on '{name}', and there is no [[peer]] of that name")
            elif "committed" in (rule.needs, rule.results_need) and not peers[name].commitment:
                problems.append(f"retention rule '{rule.name}' needs '{name}' to commit, and its [[peer]] has no commitment = true")
    return problems


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def file_system(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The type of the file system that holds a path (Linux; empty elsewhere)."""
    try:
        lines = mounts.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    absolute = str(path.absolute())
    for line in lines:
        _, where, found, *_ = line.split(" ")
        inside = where == "/" or absolute == where or absolute.startswith(where + "/")
        if inside and len(where) >= len(best):
            best, kind = where, found
    return kind


def find_file(named: str | None = None) -> Path:
    """The configuration file: as named, or by DICOM_NODE_CONFIG, or ``dicom-node.toml`` here."""
    return Path(named or os.environ.get(ENVIRONMENT) or DEFAULT_FILE)


def load(path: Path) -> Config:
    """Read a configuration file. Relative paths in it count from its own folder.

    Raises
    ------
    ConfigurationError
        Listing every problem, each with its key, value and the nearest valid key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        hint = f"; make one with: dicom-node init --config {path}" if isinstance(error, FileNotFoundError) else ""
        raise ConfigurationError(f"the configuration {path} cannot be read: {error.strerror}{hint}") from error
    return parse(text, where=path)


def parse(text: str, *, where: Path = Path(DEFAULT_FILE)) -> Config:
    """Read a configuration's text; ``where`` names it in errors and is what relative paths count from."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{where} is not valid TOML: {error}") from error
    folder = where.absolute().parent
    try:
        return Config.model_validate(_absolute(values, folder))
    except ValidationError as error:
        raise ConfigurationError("\n".join(f"{where}: {sentence}" for sentence in describe(error, Config, values))) from error


def _absolute(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The values with every path made absolute; what is no path or no table is left for validation to refuse."""
    result = copy.deepcopy(values)
    node = result.setdefault("node", {})
    tables: list[tuple[Any, tuple[str, ...]]] = [(node, ("data_dir", "weights"))]
    if isinstance(node, dict):
        node.setdefault("data_dir", str(NodeTable().data_dir))
        if isinstance(node.get("bundles"), list):
            node["bundles"] = [str(folder / each) if isinstance(each, str) else each for each in node["bundles"]]
    dimse, peers = result.get("dimse"), result.get("peer")
    tables.append((dimse.get("tls") if isinstance(dimse, dict) else None, ("certificate", "key", "ca")))
    tables += [(peer, ("tls_ca", "dicomweb_ca")) for peer in peers] if isinstance(peers, list) else []
    evaluations = result.get("scheduled_evaluation")
    tables += [(each, ("splits",)) for each in evaluations] if isinstance(evaluations, list) else []
    for table, keys in tables:
        for key in keys if isinstance(table, dict) else ():
            if isinstance(table.get(key), str):
                table[key] = str(folder / Path(table[key]).expanduser())
    return result
