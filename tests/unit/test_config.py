"""The configuration: every fault names key, value and the way out; what cannot work is refused at start."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.cli.setup import TEMPLATE
from dicom_node.config import Config, file_system, load, parse
from dicom_node.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[dimse]\nprt = 3", ["unknown key 'dimse.prt' = 3", "did you mean 'port'"]),
        ("[nodes]\n", ["unknown key 'nodes'", "did you mean 'node'"]),
        ("[dimse]\nport = 'x'", ["'dimse.port' = 'x'", "a whole number without quotes"]),
        ("[dimse]\nport = 70000", ["'dimse.port' = 70000", "65535"]),
        ("[study]\nquiet_period = '60 parsecs'", ["'study.quiet_period' = '60 parsecs'", "'60s'"]),
        ("[archive]\nmin_free = 'lots'", ["'archive.min_free' = 'lots'", "'5GiB'"]),
        ("[executor]\nkind = 'ray'", ["'ray' is not available", "'process'"]),
        ("[executor]\ndevices = ['gpu']", ["executor.devices", "'gpu'"]),
        ("[dimse]\nreceivers = 2", ["dimse.receivers = 2", "PostgreSQL"]),
        ("[web]\nhost = '0.0.0.0'", ["web.host = '0.0.0.0'", "allow_anonymous = true"]),
        ("[[peer]]\nname = 'a'", ["'peer[1].ae_title' is missing"]),
        ("[[peer]]\nname = 'a'\nae_title = 'A'\nhost = 'h'", ["peer[1]", "host and port belong together"]),
        ("[[peer]]\nname = 'a'\nae_title = 'A'\n[[peer]]\nname = 'a'\nae_title = 'B'", ["two [[peer]] tables are called 'a'"]),
        ("[[rule]]\nname = 'r'\nrun = ['m']\ndeliver = ['p']", ["rule 'r' delivers to 'p'", "no [[peer]]"]),
        ("[database]\nurl = { env = 'DICOM_NODE_NO_SUCH' }", ["database.url", "DICOM_NODE_NO_SUCH is not set"]),
        ("[database]\nurl = 'mysql://me:hunter2@host/name'", ["database.url", "postgresql://"]),
        ("[database]\nurl = 'nonsense'", ["database.url", "sqlite:///PATH"]),
        ("[[peer]]\nname = 'a'\nae_title = 'A'\naddresses = ['10.0.0.300']", ["peer[1].addresses[1]", "'10.0.0.300'", "'10.0.0.0/8'"]),
        ("[[rule]]\nname = 'r'\nrun = ['m']\nmatch = { Modalityy = 'MR' }", ["rule[1].match", "'Modalityy'", "did you mean 'Modality'"]),
        ("[study]\nrequired = [{ SeriesDescripton = 'T1' }]", ["study.required[1]", "did you mean 'SeriesDescription'"]),
        ("[dimse]\nextra_sop_classes = ['1.2.a']", ["dimse.extra_sop_classes[1]", "'1.2.a'"]),
        ("[[rule]]\nname = 'r'\nrun = []", ["'rule[1]'", "it does nothing: give at least one of run, forward"]),
        ("[[rule]]\nname = 'r'\nrun = ''", ["'rule[1].run' = '': a list in brackets is needed"]),
        ("[[rule]]\nname = 'r'\nrun = ['']", ["'rule[1].run[1]' = '': it must not be empty"]),
        ("[[rule]]\nname = ''\nrun = ['m']", ["'rule[1].name' = '': a name of 1 to 64 letters"]),
        ("[[rule]]\nname = 'r'\nrun = ['m']\nmatch = []", ["'rule[1].match' = []: a table is needed"]),
        ("[[rule]]\nname = 'r'\nrun = ['m']\nmatch = { Modality = [] }", ["'rule[1].match.Modality' = []: an empty list matches nothing"]),
        ("[executor]\ndevices = []", ["'executor.devices' = []: at least one entry is needed"]),
        ("[node]\nae_title = ''", ["'node.ae_title' = '': it must not be empty"]),
        ("[study]\nexpected_count = 0", ["'study.expected_count' = 0: it must be 1 or more"]),
        ("[study]\nlate = ''", ["'study.late' = '': it must be 'rerun', 'ignore' or 'flag'"]),
        ("[dimse]\ncheck_called_ae_title = 'maybe'", ["check_called_ae_title' = 'maybe': true or false is needed"]),
        ("rule = ''", ["'rule' = ''", "is needed"]),
        ("[node\n", ["not valid TOML"]),
    ],
)
def test_a_fault_names_key_value_and_fix(text: str, says: list[str]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse(text)
    for part in says:
        assert part in str(raised.value)


@pytest.mark.parametrize("text", ["[executor]\ndevices = ['gpu']", "[[rule]]\nname = 'r'\nrun = [3]", "[[peer]]\nname = []\nae_title = 7"])
def test_no_fault_speaks_of_python(text: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse(text)
    for word in ("Tuple", "tuple", "Input", "String", "dictionary", "validation"):
        assert word not in str(raised.value)


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse("[dimse]\nprt = 1\n[web]\nprot = 2")
    assert "dimse.prt" in str(raised.value)
    assert "web.prot" in str(raised.value)


@pytest.mark.parametrize("url", ["['postgresql://me:hunter2@host/name']", "'mysql://me:hunter2@host/name'"])
def test_a_secret_never_stands_in_an_error(url: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse(f"[database]\nurl = {url}")
    assert "hunter2" not in str(raised.value)


def test_secrets_come_from_environment_or_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_TEST_URL", "postgresql://host/a")
    assert parse("[database]\nurl = { env = 'NODE_TEST_URL' }").database_url == "postgresql://host/a"
    (tmp_path / "secret").write_text("postgresql://host/b\n")
    assert parse(f"[database]\nurl = {{ file = '{tmp_path / 'secret'}' }}").database_url == "postgresql://host/b"


def test_relative_paths_count_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("[node]\ndata_dir = 'd'\nbundles = ['b']")
    config = load(file)
    assert config.node.data_dir == tmp_path / "d"
    assert config.node.bundles == (tmp_path / "b",)
    assert config.database_url == f"sqlite:///{tmp_path / 'd' / 'index.sqlite'}"


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="dicom-node init"):
        load(tmp_path / "none.toml")


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().node.ae_title = "X"  # type: ignore[misc]


def test_sqlite_on_a_network_file_system_is_seen(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("disk / ext4 rw 0 0\nserver:/x /mnt/share nfs4 rw 0 0\n")
    assert file_system(Path("/mnt/share/node"), mounts) == "nfs4"
    assert file_system(Path("/var/lib/node"), mounts) == "ext4"


def test_the_template_is_valid_and_holds_the_defaults(tmp_path: Path) -> None:
    written = parse(TEMPLATE.read_text(), where=tmp_path / "node.toml")
    assert written.model_dump(exclude={"peer", "rule"}) == parse("", where=tmp_path / "node.toml").model_dump(exclude={"peer", "rule"})


def test_relative_paths_count_from_the_files_folder(tmp_path: Path) -> None:
    text = """
        [node]
        data_dir = "data"
        [dimse.tls]
        certificate = "node.crt"
        key = "/etc/node.key"
        [[peer]]
        name = "pacs"
        ae_title = "PACS"
        host = "pacs"
        port = 104
        tls = true
        tls_ca = "ca.crt"
    """
    config = parse(text, where=tmp_path / "dicom-node.toml")
    assert config.node.data_dir == tmp_path / "data"
    assert config.dimse.tls is not None
    assert (config.dimse.tls.certificate, config.dimse.tls.key) == (tmp_path / "node.crt", Path("/etc/node.key"))
    assert config.peer[0].tls_ca == tmp_path / "ca.crt"
