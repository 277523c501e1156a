"""Event reports of workitems as an outside subscriber gets them, over a WebSocket to the served node (PS3.18 8.10, 11.10 to 11.12)."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from dicom_node.accounts import hashed
from dicom_node.web.channel import ChannelProtocol
from dicom_node.web.dicomweb import event_channel
from storage import accounts, workitem_events, workitems
from storage import workitem_values as values
from storage.errors import WorkitemRefused
from storage.schema import audit
from storage.visibility import Limits
from storage.workitem_events import DIMSE, FILTERED, GLOBAL, WEB
from storage.workitem_owners import refuse_stranger
from storage.workitem_values import Json, element
from tests.contract.test_workitems import PERFORMED, UID, dataset
from tests.dimse import until
from tests.integration.test_workitems_web import Worklist
from tests.node import command
from tests.webserver import WebNode, configured, serving, web_node

WATCHER = "WATCHER"
PASSWORD = "correct horse battery"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebNode]:
    with web_node(tmp_path) as served:
        yield served


def worklist(web: WebNode) -> Worklist:
    return Worklist(web.url, web.client)


def subscribe(web: WebNode, target: str = GLOBAL, aet: str = WATCHER, **query: str) -> str:
    """Subscribe, and the address of the WebSocket."""
    answer = web.client.post(f"{web.url}/workitems/{target}/subscribers/{aet}", params=query)
    assert answer.status_code == 201, answer.text
    return answer.headers["content-location"]


@contextlib.contextmanager
def listening(address: str, **more: Any) -> Iterator[ClientConnection]:
    channel: ClientConnection = connect(address, open_timeout=20, proxy=None, **more)
    with channel:
        yield channel


def told(channel: ClientConnection, count: int) -> list[tuple[str, int, str]]:
    """The next reports: of which workitem, of what type, and the state that they tell."""
    reports = [json.loads(channel.recv(timeout=20)) for _ in range(count)]
    return [(values.text(each, "00001000"), values.first(each, "00001002"), values.text(each, values.STATE)) for each in reports]


def waiting(web: WebNode, aet: str = WATCHER) -> int:
    with web.node.database.read() as connection:
        return len(workitem_events.waiting(connection, WEB, [aet], 1000))


def test_a_subscriber_is_told_what_happens_to_every_workitem(web: WebNode) -> None:
    items = worklist(web)
    address = subscribe(web)
    assert address == f"{web.url.replace('http', 'ws').removesuffix('/dicom-web')}/dicom-web/ws/subscribers/{WATCHER}"
    with listening(address) as channel:
        items.ask("POST", f"?{UID}", [dataset()])
        items.state("IN PROGRESS")
        progress: Json = {values.PROGRESS: element("SQ", {"00741004": element("DS", 50)})}
        station = {"00404025": element("SQ", values.code("GPU1", "99L", "first"))}
        items.ask("POST", f"/{UID}?transaction=2.25.77", [{**progress, **station, values.PERFORMED: element("SQ", PERFORMED)}])
        items.ask("POST", f"/{UID}/cancelrequest")
        items.state("COMPLETED")
        assert told(channel, 6) == [
            (UID, 1, "SCHEDULED"),
            (UID, 1, "IN PROGRESS"),
            (UID, 3, ""),
            (UID, 5, ""),
            (UID, 2, ""),
            (UID, 1, "COMPLETED"),
        ]
        until(lambda: waiting(web) == 0)


def test_what_happens_while_nobody_listens_waits_in_order_and_what_was_not_confirmed_comes_again(web: WebNode) -> None:
    items = worklist(web)
    address = subscribe(web)
    items.ask("POST", f"?{UID}", [dataset()])
    with listening(address) as channel:
        assert told(channel, 1) == [(UID, 1, "SCHEDULED")]
        until(lambda: waiting(web) == 0)
    uids = [f"2.25.{number}" for number in range(100, 160)]
    for uid in uids:
        assert items.ask("POST", f"?{uid}", [dataset()]).status_code == 201
    with silent(web, address) as peer:  # takes what comes, and never answers a ping
        assert b'"2.25.100"' in received(peer, b'"2.25.149"')
    assert waiting(web) == len(uids)
    with listening(address) as channel:
        assert told(channel, len(uids)) == [(uid, 1, "SCHEDULED") for uid in uids]
        until(lambda: waiting(web) == 0)


def test_what_another_process_does_is_told_too_and_people_see_who_is_told(web: WebNode) -> None:
    items, config = worklist(web), web.node.config
    items.ask("POST", f"?{UID}", [dataset()])
    address = subscribe(web, UID, deletionlock="true")
    subscribe(web, aet="OTHER")
    with listening(address) as channel:
        assert told(channel, 1) == [(UID, 1, "SCHEDULED")]
        assert "is canceled" in command(config, "workitem", "cancel", UID).stdout
        assert told(channel, 2) == [(UID, 1, "IN PROGRESS"), (UID, 1, "CANCELED")]
        until(lambda: waiting(web) == 0)
    watchers = json.loads(command(config, "workitem", "watchers", "--json").stdout)
    assert [(each["aet"], each["target"], each["deletion_lock"], each["waiting"]) for each in watchers] == [
        ("OTHER", GLOBAL, False, 3),
        (WATCHER, UID, True, 0),
    ]
    assert "OTHER watches no workitem" in command(config, "workitem", "unsubscribe", "OTHER").stdout
    lines = command(config, "workitem", "watchers").stdout
    assert WATCHER in lines
    assert "OTHER" not in lines
    assert command(config, "workitem", "unsubscribe", "OTHER").returncode == 1
    assert waiting(web, "OTHER") == 0


def test_a_subscriber_hears_once_that_the_node_has_started_again(tmp_path: Path) -> None:
    config = configured(tmp_path)
    with serving(config) as web:
        subscribe(web)
    for _ in range(2):
        with serving(config) as web:
            assert waiting(web) == 1
    with serving(config) as web, listening(subscribe(web)) as channel:
        report = json.loads(channel.recv(timeout=20))
    assert (values.text(report, "00001000"), values.first(report, "00001002")) == (GLOBAL, 4)
    assert [values.text(report, tag) for tag in ("00741242", "00741244", "00741246")] == ["RESTARTED", "WARM START", "WARM START"]


@contextlib.contextmanager
def silent(web: WebNode, address: str) -> Iterator[socket.socket]:
    """A peer that opens a WebSocket and says nothing more."""
    path = address.partition("://")[2].partition("/")[2]
    head = f"GET /{path} HTTP/1.1\r\nHost: 127.0.0.1:{web.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    with socket.create_connection(("127.0.0.1", web.port), timeout=20) as peer:
        peer.sendall(f"{head}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        assert b" 101 " in received(peer, b"\r\n\r\n", 1)  # and not a byte of the first report
        yield peer


def received(peer: socket.socket, until_there: bytes, at_once: int = 65536) -> bytes:
    got = b""
    while until_there not in got:
        piece = peer.recv(at_once)
        assert piece, got[-500:]
        got += piece
    return got


def test_a_filter_a_single_workitem_and_the_end_of_a_subscription(web: WebNode) -> None:
    items = worklist(web)
    items.ask("POST", f"?{UID}", [dataset()])
    subscribe(web, UID, "ONE", deletionlock="true")
    subscribe(web, FILTERED, "LOW", filter="ScheduledProcedureStepPriority=LOW,00741204=seg*")
    for number, priority in ((2, "LOW"), (3, "HIGH")):
        items.ask("POST", f"?2.25.{number}", [dataset(**{values.PRIORITY: element("CS", priority)})])
    address = subscribe(web, aet="ALL")
    with listening(address.replace("ALL", "ONE")) as one, listening(address.replace("ALL", "LOW")) as low, listening(address) as every:
        assert told(one, 1) == [(UID, 1, "SCHEDULED")]
        assert told(low, 1) == [("2.25.2", 1, "SCHEDULED")]
        assert [uid for uid, _, _ in told(every, 3)] == [UID, "2.25.2", "2.25.3"]
        assert web.client.post(f"{web.url}/workitems/{GLOBAL}/subscribers/ALL/suspend").status_code == 200
        assert web.client.delete(f"{web.url}/workitems/{FILTERED}/subscribers/LOW").status_code == 200
        items.ask("POST", "?2.25.4", [dataset(**{values.PRIORITY: element("CS", "LOW")})])
        items.state("IN PROGRESS", uid="2.25.2")
        items.state("IN PROGRESS")
        assert told(every, 2) == [("2.25.2", 1, "IN PROGRESS"), (UID, 1, "IN PROGRESS")]
        assert told(one, 1) == [(UID, 1, "IN PROGRESS")]
        assert waiting(web, "LOW") == 0
    with web.node.database.read() as connection:
        done = [row.event for row in connection.execute(audit.select().order_by(audit.c.pk)) if row.event.startswith("workitem.")]
    assert done == ["workitem.subscribed"] * 3 + ["workitem.subscription_suspended", "workitem.unsubscribed"]


MANY = "%5C".join(f"a*{number}" for number in range(200))
KEYS = "&".join(f"0074{number:04X}=1" for number in range(0x1200, 0x1240))
NO_SUBSCRIPTIONS = [
    ("POST", f"/2.25.404/subscribers/{WATCHER}", 404),
    ("POST", f"/no-uid/subscribers/{WATCHER}", 400),
    ("POST", f"/{GLOBAL}/subscribers/{'X' * 17}", 400),
    ("POST", f"/{GLOBAL}/subscribers/a%5Cb", 400),
    ("POST", f"/{GLOBAL}/subscribers/{WATCHER}?deletionlock=perhaps", 400),
    ("POST", f"/{GLOBAL}/subscribers/{WATCHER}?filter=00741204=x", 400),
    ("POST", f"/{FILTERED}/subscribers/{WATCHER}", 400),
    ("POST", f"/{FILTERED}/subscribers/{WATCHER}?filter=nonsense", 400),
    ("POST", f"/{FILTERED}/subscribers/{WATCHER}?filter=Nonsense=1", 400),
    ("POST", f"/{FILTERED}/subscribers/{WATCHER}?filter=00741204={MANY}", 400),
    ("POST", f"/{FILTERED}/subscribers/{WATCHER}?filter=00404025.00080100={MANY}", 400),
    (
        "POST",
        f"/{FILTERED}/subscribers/{WATCHER}?filter=" + ",".join(f"0074{number:04X}=1" for number in range(0x1200, 0x1220, 2)) * 2,
        400,
    ),
    ("POST", f"/2.25.1/subscribers/{WATCHER}/suspend", 409),
    ("DELETE", f"/2.25.404/subscribers/{WATCHER}", 404),
    ("PUT", f"/{GLOBAL}/subscribers/{WATCHER}", 405),
]


def test_what_is_no_subscription(web: WebNode) -> None:
    for method, path, status in NO_SUBSCRIPTIONS:
        answer = web.client.request(method, f"{web.url}/workitems{path}")
        assert answer.status_code == status, (path[:100], answer.text)
        assert "error" in answer.json()
    assert worklist(web).ask("POST", f"?{UID}", [dataset()]).status_code == 201
    assert waiting(web) == 0


TOKENS = """
tokens = [
  { name = "reader", token = { env = "TEST_READER" }, rights = ["read"] },
  { name = "storer", token = { env = "TEST_STORER" }, rights = ["store"] },
  { name = "manager", token = { env = "TEST_MANAGER" }, rights = ["read", "store"] },
]
"""


def test_with_tokens_a_channel_needs_one_as_every_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("reader", "storer", "manager")
    for name in names:
        monkeypatch.setenv(f"TEST_{name.upper()}", f"{name}-{'x' * 32}")
    with web_node(tmp_path, web=TOKENS) as web:
        path = f"{web.url}/workitems/{GLOBAL}/subscribers/{WATCHER}"
        bearer = {name: {"Authorization": f"Bearer {name}-{'x' * 32}"} for name in names}
        assert web.client.post(path).status_code == 401
        assert web.client.post(path, headers=bearer["reader"]).status_code == 403
        answer = web.client.post(path, headers=bearer["manager"])
        assert answer.status_code == 201
        address = answer.headers["content-location"]
        assert refused(address) == 401
        assert refused(address, additional_headers={"Authorization": "Bearer nonsense"}) == 401
        assert refused(address, additional_headers=bearer["storer"]) == 403
        assert refused(address, additional_headers=bearer["reader"]) == 403  # it is the manager's
        assert refused(address, additional_headers=bearer["manager"], origin="https://elsewhere.example") == 403
        with listening(address, additional_headers=bearer["manager"]) as channel:
            items = Worklist(web.url, web.client)
            assert items.ask("POST", f"?{UID}", [dataset()], **bearer["storer"]).status_code == 201
            assert told(channel, 1) == [(UID, 1, "SCHEDULED")]
        assert web.client.delete(path, headers=bearer["manager"]).status_code == 200


def refused(address: str, **more: Any) -> int:
    with pytest.raises(InvalidStatus) as error, listening(address, **more):
        pass
    return error.value.response.status_code


def test_pages_of_elsewhere_and_names_that_lead_here_get_no_channel(web: WebNode) -> None:
    address = subscribe(web)
    assert refused(address, origin="https://elsewhere.example") == 403
    with socket.create_connection(("127.0.0.1", web.port)) as direct:
        assert refused(address.replace("127.0.0.1", "elsewhere.example"), sock=direct) == 421
    assert refused(address.replace(WATCHER, "X" * 17)) == 400
    assert refused(address.replace("/ws/", "/nothing/")) == 403


def test_a_channel_ends_with_the_session_that_it_was_opened_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_channel, "LOOK_AGAIN", 0.05)
    with web_node(tmp_path, web="sign_in = true") as web:
        with web.node.database.begin() as connection:
            ada = accounts.add(connection, "ada", hashed("x", PASSWORD), "operator", Limits(), actor="test")
        address = f"ws://127.0.0.1:{web.port}/dicom-web/ws/subscribers/{WATCHER}"
        assert refused(address) == 401
        assert web.client.post(f"http://127.0.0.1:{web.port}/sign-in", data={"name": "ada", "password": PASSWORD}).status_code == 303
        signed_in = {"Cookie": "; ".join(f"{name}={value}" for name, value in web.client.cookies.items())}
        for origin in ("https://elsewhere.example", "http://localhost:3000"):
            assert refused(address, additional_headers=signed_in, origin=origin) == 403
        with listening(address, additional_headers=signed_in) as channel:
            with web.node.database.begin() as connection:
                workitem_events.subscribe(connection, WATCHER, GLOBAL, channel=WEB, now=1.0)
                workitems.create(connection, UID, dataset(), by="manager", now=2.0)
            assert told(channel, 1) == [(UID, 1, "SCHEDULED")]
            with web.node.database.begin() as connection:
                accounts.close_sessions(connection, ada, actor="test")
            assert code_of(channel) == event_channel.NOT_ALLOWED


def test_nobody_else_listens_subscribes_or_unsubscribes_in_a_subscribers_name(tmp_path: Path) -> None:
    secrets = {name: (name[0] * 32) for name in ("ada", "ben")}
    for name, secret in secrets.items():
        (tmp_path / name).write_text(secret)
    table = '[[web.tokens]]\nname = "{0}"\ntoken = {{ file = "{1}" }}\nrights = ["read", "store"]\n'
    tokens = "".join(table.format(name, tmp_path / name) for name in secrets)
    with serving(configured(tmp_path, more=tokens)) as web:
        as_ada, as_ben = ({"Authorization": f"Bearer {secrets[name]}"} for name in ("ada", "ben"))
        address = f"{web.url}/workitems/{GLOBAL}/subscribers/{WATCHER}"
        listen = f"ws://127.0.0.1:{web.port}/dicom-web/ws/subscribers/{WATCHER}"
        with listening(listen, additional_headers=as_ben) as early:  # nobody's yet
            assert web.client.post(address, headers=as_ada).status_code == 201
            assert refused(listen, additional_headers=as_ben) == 403
            for method, path in (("POST", address), ("POST", f"{address}/suspend"), ("DELETE", address)):
                assert web.client.request(method, path, headers=as_ben).status_code == 403, path
            with listening(listen, additional_headers=as_ada) as channel:
                assert code_of(early) == event_channel.TAKEN_OVER
                with web.node.database.begin() as connection:
                    workitems.create(connection, UID, dataset(), by="manager", now=2.0)
                assert told(channel, 1) == [(UID, 1, "SCHEDULED")]
        with web.node.database.begin() as connection, pytest.raises(WorkitemRefused, match="somebody else"):
            refuse_stranger(connection, WATCHER, DIMSE, None)
        with web.node.database.read() as connection:
            noted = [(row.event, row.actor) for row in connection.execute(audit.select()) if row.event.endswith("refused")]
        assert noted.count(("workitem.subscription_refused", "ben")) == 3
        assert ("token.refused", "127.0.0.1") in noted
        assert web.client.delete(address, headers=as_ada).status_code == 200
        assert web.client.post(address, headers=as_ben).status_code == 201


def test_a_channel_that_was_open_before_somebody_else_subscribed_hears_nothing(web: WebNode) -> None:
    with listening(f"ws://127.0.0.1:{web.port}/dicom-web/ws/subscribers/{WATCHER}") as channel:
        with web.node.database.begin() as connection:
            workitem_events.subscribe(connection, WATCHER, GLOBAL, channel=WEB, owner="ada", now=1.0)
            workitems.create(connection, UID, dataset(), by="manager", now=2.0)
        with pytest.raises(TimeoutError):
            channel.recv(timeout=2)
        assert waiting(web) == 1


def test_limits_of_channels(web: WebNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_channel, "MAX_CHANNELS", 1)
    monkeypatch.setattr(event_channel, "MAX_HEARD", 3)
    address = subscribe(web)
    with listening(address) as first:
        assert refused(address.replace(WATCHER, "OTHER")) == 503
        with listening(address) as second:  # the newest of an AE title is the one that is served
            assert code_of(first) == event_channel.TAKEN_OVER
            for _ in range(3):
                second.send("something")
            assert code_of(second) == event_channel.NOT_ALLOWED
    with listening(address) as third:
        third.send("x" * 5000)
        assert code_of(third) == 1009


def code_of(channel: ClientConnection) -> int | None:
    with pytest.raises(ConnectionClosed):
        channel.recv(timeout=20)
    return channel.close_code


def test_a_subscriber_that_does_not_answer_is_let_go(web: WebNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_channel, "PING_EVERY", 0.1)
    monkeypatch.setattr(event_channel, "PONG_DEADLINE", 0.5)
    address = subscribe(web)
    with contextlib.suppress(ConnectionResetError), silent(web, address) as peer:
        while peer.recv(65536):  # until it ends: a peer that is kept waits longer than the socket's timeout
            pass


def test_a_subscriber_that_asks_and_does_not_read_is_let_go(web: WebNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChannelProtocol, "read_deadline", 0.5)
    address = subscribe(web)
    with pytest.raises((ConnectionResetError, BrokenPipeError)), silent(web, address) as peer:
        ping_without_end(peer)


def ping_without_end(peer: socket.socket) -> None:
    until_then = time.monotonic() + 20
    while time.monotonic() < until_then:
        peer.sendall((b"\x89\xfd\0\0\0\0" + b"x" * 125) * 500)
