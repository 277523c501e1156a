"""Who may ask what over HTTP: tokens and their rights, Host and Origin, deletion; refusals leave a trace and name no secret."""

from __future__ import annotations

import http.client
from pathlib import Path

import pytest
from sqlalchemy import select

from dicom_node.config import parse
from dicom_node.errors import ConfigurationError
from storage.schema import audit, instance, tombstone
from tests.datasets import CT, dataset, part10
from tests.webserver import WebNode, web_node

READER, WRITER, CLEANER = "reader-token-0123456789", "writer-token-0123456789", "cleaner-token-0123456789"
TOKENS = """
tokens = [
  { name = "viewer", token = { env = "TEST_READER" } },
  { name = "modality", token = { env = "TEST_WRITER" }, rights = ["read", "store"] },
  { name = "cleaner", token = { env = "TEST_CLEANER" }, rights = ["delete"] },
]
"""


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_READER", READER)
    monkeypatch.setenv("TEST_WRITER", WRITER)
    monkeypatch.setenv("TEST_CLEANER", CLEANER)


def file(sop: str = "1.2.3.1.1", *, study: str = "1.2.3", series: str = "1.2.3.1") -> bytes:
    return part10(dataset(study, series, sop), CT, sop)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def get(web: WebNode, path: str = "/studies", **headers: str) -> int:
    """The status of a search; 200 also where it found nothing."""
    status = web.client.get(web.url + path, headers=headers).status_code
    return 200 if status == 204 else status


def kept(web: WebNode, table: object) -> list[object]:
    with web.node.database.read() as connection:
        return list(connection.execute(select(table)).all())  # type: ignore[call-overload]


def test_with_tokens_every_request_needs_one_that_has_the_right(tmp_path: Path) -> None:
    with web_node(tmp_path, web=TOKENS) as web:
        refused = web.client.get(f"{web.url}/studies")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Bearer")
        assert "token" in refused.json()["error"]
        assert get(web, Authorization=f"Bearer {READER}") == 200
        assert get(web, Authorization=f"bearer  {READER}") == 200
        assert get(web, Authorization=f"Basic {READER}") == 401
        assert get(web, Authorization="Bearer wrong") == 401
        assert get(web, "/nowhere") == 401
        assert web.store([file()]).status_code == 401
        assert web.store([file()], **bearer(READER)).status_code == 403
        assert web.store([file()], **bearer(WRITER)).status_code == 200
        assert get(web, **bearer(CLEANER)) == 403
        assert len(kept(web, instance)) == 1
        address = f"http://127.0.0.1:{web.port}"
        for path in ("/healthz", "/readyz"):
            assert web.client.get(address + path).status_code == 200
        assert web.client.get(f"{address}/metrics").status_code == 401
        assert web.client.get(f"{address}/metrics", headers=bearer(CLEANER)).status_code == 403
        assert web.client.get(f"{address}/metrics", headers=bearer(READER)).status_code == 200


def test_a_refused_token_leaves_one_row_a_minute_and_is_not_in_it(tmp_path: Path) -> None:
    with web_node(tmp_path, web=TOKENS) as web:
        for _ in range(5):
            assert get(web, **bearer("a-guessed-token")) == 401
        (row,) = [row for row in kept(web, audit) if row.event == "token.refused"]
        assert (row.actor, row.detail["count"]) == ("127.0.0.1", 1)
        assert "guessed" not in str(row)


def test_who_stored_stands_in_the_audit_trail(tmp_path: Path) -> None:
    with web_node(tmp_path, web=TOKENS) as web:
        web.store([file()], **bearer(WRITER))
        assert [row.actor for row in kept(web, audit) if row.event == "study.stored"] == ["modality"]
        assert [row.calling_ae for row in kept(web, instance)] == ["modality"]


def test_a_token_refused_before_the_body_is_read(tmp_path: Path) -> None:
    with web_node(tmp_path, web=TOKENS) as web:
        connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=10)
        connection.putrequest("POST", "/dicom-web/studies")
        connection.putheader("Content-Type", "application/dicom")
        connection.putheader("Content-Length", "1000000")
        connection.endheaders()
        assert connection.getresponse().status == 401
        connection.close()


@pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost", "LOCALHOST:80", "[::1]:8042", "10.1.2.3", "node.example.org"])
def test_hosts_that_can_mean_this_node(tmp_path: Path, host: str) -> None:
    with web_node(tmp_path, web='allowed_hosts = ["node.example.org"]') as web:
        assert get(web, Host=host) == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8042", ""])
def test_a_name_made_to_lead_here_is_no_host_of_ours(tmp_path: Path, host: str) -> None:
    with web_node(tmp_path) as web:
        assert get(web, Host=host) == 421
        assert web.store([file()], Host=host).status_code == 421


def test_pages_of_other_origins_get_nothing_unless_they_are_named(tmp_path: Path) -> None:
    with web_node(tmp_path, web='allowed_origins = ["https://viewer.example.org"]') as web:
        assert get(web, Origin="https://evil.example") == 403
        assert get(web, Origin="null") == 403
        assert get(web, Origin=f"http://127.0.0.1:{web.port}") == 200
        assert web.store([file()], Origin="https://evil.example").status_code == 403
        allowed = web.client.get(f"{web.url}/studies", headers={"Origin": "https://viewer.example.org"})
        assert allowed.headers["access-control-allow-origin"] == "https://viewer.example.org"
        assert "Origin" in allowed.headers["vary"]
        asked = {"Origin": "https://viewer.example.org", "Access-Control-Request-Method": "POST"}
        preflight = web.client.options(f"{web.url}/studies", headers=asked)
        assert preflight.status_code == 204
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert "access-control-allow-origin" not in web.client.get(f"{web.url}/studies").headers


@pytest.mark.parametrize("page", ["http://localhost:3000", "http://127.0.0.1", "https://[::1]:8443"])
def test_a_page_of_this_machine_may_read_where_no_token_is_needed_and_only_this_machine_is_answered(tmp_path: Path, page: str) -> None:
    with web_node(tmp_path / "local") as web:
        found = web.client.get(f"{web.url}/studies", headers={"Origin": page})
        assert (found.status_code, found.headers["access-control-allow-origin"]) == (204, page)
        asked = {"Origin": page, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "accept"}
        assert web.client.options(f"{web.url}/studies", headers=asked).status_code == 204
        assert web.store([file()], Origin=page).status_code == 403
        assert web.client.options(f"{web.url}/studies", headers={**asked, "Access-Control-Request-Method": "POST"}).status_code == 403
        assert web.client.post(f"http://127.0.0.1:{web.port}/api/jobs/1/retry?reason=x", headers={"Origin": page}).status_code == 403
        for other in ("http://localhost.evil.example", "http://127.0.0.1.evil.example:80", "file://localhost", "null"):
            assert get(web, Origin=other) == 403, other
    with web_node(tmp_path / "tokens", web=TOKENS) as web:
        assert get(web, Origin=page, **bearer(READER)) == 403
    with web_node(tmp_path / "all", web='host = "0.0.0.0"\nallow_anonymous = true') as web:
        assert get(web, Origin=page) == 403


def test_every_answer_bears_the_headers_that_keep_browsers_safe(tmp_path: Path) -> None:
    with web_node(tmp_path) as web:
        answers = [
            web.client.get(f"http://127.0.0.1:{web.port}/healthz"),
            web.client.get(f"{web.url}/studies"),
            web.client.get(f"{web.url}/none"),
            web.store([file()]),
            web.client.get(f"{web.url}/studies", headers={"Host": "evil.example"}),
        ]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"]


@pytest.mark.parametrize(
    ("web", "says"),
    [
        ("host = '0.0.0.0'", ["web.host = '0.0.0.0'", "tokens", "allow_anonymous"]),
        ("tokens = [{ name = 'a', token = 'stands-here-in-the-open' }]", ["web.tokens[1].token", "must not stand here"]),
        ("tokens = [{ name = 'a', token = { env = 'TEST_NO_SUCH' } }]", ["TEST_NO_SUCH is not set"]),
        ("tokens = [{ name = 'a', token = { env = 'TEST_SHORT' } }]", ["web.tokens[1].token", "at least 16"]),
        ("tokens = [{ name = 'a', token = { env = 'TEST_READER' }, rights = ['all'] }]", ["web.tokens[1].rights"]),
        (
            "tokens = [{ name = 'a', token = { env = 'TEST_READER' } }, { name = 'a', token = { env = 'TEST_WRITER' } }]",
            ["two web.tokens are called 'a'"],
        ),
        ("allowed_origins = ['viewer.example.org']", ["web.allowed_origins"]),
    ],
)
def test_a_configuration_that_leaves_the_door_open_is_refused(web: str, says: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_SHORT", "secret")
    with pytest.raises(ConfigurationError) as raised:
        parse(f"[web]\n{web}")
    for part in says:
        assert part in str(raised.value)
    for secret in ("stands-here-in-the-open", READER, WRITER):
        assert secret not in str(raised.value)


OPEN = [f"host = '0.0.0.0'\n{TOKENS}", "host = '0.0.0.0'\nallow_anonymous = true", "host = '127.8.9.1'", "host = '::1'"]


@pytest.mark.parametrize("web", OPEN)
def test_what_may_be_listened_on(web: str) -> None:
    assert parse(f"[web]\n{web}").web.host == web.split("'")[1]


def test_deleting_is_not_offered_unless_it_is_configured(tmp_path: Path) -> None:
    with web_node(tmp_path) as web:
        web.store([file()])
        assert web.client.delete(f"{web.url}/studies/1.2.3").status_code == 405
        assert len(kept(web, instance)) == 1


def test_delete_an_instance_a_series_a_study(tmp_path: Path) -> None:
    files = [file(f"1.2.3.{series}.{number}", series=f"1.2.3.{series}") for series in (1, 2, 3) for number in (1, 2)]
    with web_node(tmp_path, web=f"allow_delete = true\n{TOKENS}") as web:
        assert web.store(files, **bearer(WRITER)).status_code == 200
        study = f"{web.url}/studies/1.2.3"
        assert web.client.delete(study, headers=bearer(WRITER)).status_code == 403
        assert web.client.delete(study).status_code == 401
        cleaner = bearer(CLEANER)
        for wrong in ("/series/1.2.3.9", "/series/1.2.3.2/instances/1.2.3.1.1", "/series/1.2.3.1/instances/1.2.3.1.9"):
            assert web.client.delete(study + wrong, headers=cleaner).status_code == 404
        assert web.client.delete(f"{study}/series/x", headers=cleaner).status_code == 400
        assert len(kept(web, instance)) == 6
        gone = f"{study}/series/1.2.3.1/instances/1.2.3.1.1"
        assert web.client.delete(gone, params={"reason": "wrong patient"}, headers=cleaner).status_code == 204
        assert web.client.delete(gone, headers=cleaner).status_code == 404
        assert len(kept(web, instance)) == 5
        assert web.client.delete(f"{study}/series/1.2.3.2", headers=cleaner).status_code == 204
        assert sorted(row.sop_uid for row in kept(web, instance)) == ["1.2.3.1.2", "1.2.3.3.1", "1.2.3.3.2"]
        assert web.client.delete(study, headers=cleaner).status_code == 204
        assert not kept(web, instance)
        assert web.client.delete(study, headers=cleaner).status_code == 404
        tombstones = kept(web, tombstone)
        assert {row.deleted_by for row in tombstones} == {"cleaner"}
        assert tombstones[0].reason == "wrong patient"
        events = [(row.event, row.actor) for row in kept(web, audit) if row.event.endswith(".deleted")]
        assert events == [("instance.deleted", "cleaner"), ("instance.deleted", "cleaner"), ("study.deleted", "cleaner")]
        assert web.client.delete(study, params={"reason": "x" * 201}, headers=cleaner).status_code == 400


def test_on_loopback_without_tokens_the_machine_itself_may_delete_where_that_is_configured(tmp_path: Path) -> None:
    with web_node(tmp_path, web="allow_delete = true") as web:
        web.store([file()])
        assert web.client.delete(f"{web.url}/studies/1.2.3").status_code == 204


def test_anonymous_ones_from_the_network_may_not_delete(tmp_path: Path) -> None:
    with web_node(tmp_path, web="host = '0.0.0.0'\nallow_anonymous = true\nallow_delete = true") as web:
        web.store([file()])
        assert web.client.delete(f"{web.url}/studies/1.2.3").status_code == 403
