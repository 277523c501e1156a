"""Header JSON waits while instances stream in, but not for ever."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import update

from dicom_node.node import open_node, prepare
from dicom_node.schedule import HEADERS_PATIENCE, HEADERS_QUIET, Duties
from storage.archive import Source
from storage.schema import study
from tests.datasets import CT, EXPLICIT, dataset
from tests.node import settings


def test_header_json_waits_for_a_stream_of_instances_and_then_for_no_longer(tmp_path: Path) -> None:
    config, now = settings(tmp_path), 1_000_000.0
    prepare(config)
    with open_node(config, "test", clock=lambda: now) as node:
        session = node.archive.session(Source(None, "SCANNER", "NODE", "127.0.0.1"))

        def receive(number: int) -> None:
            writer = session.begin(sop_class_uid=CT, sop_instance_uid=f"1.2.1.{number}", transfer_syntax_uid=EXPLICIT)
            writer.write([dataset("1.2", "1.2.1", f"1.2.1.{number}", number=number)])
            writer.commit()

        duties = Duties(node)
        receive(1)
        assert duties.write_headers() == 0, "one has just come"
        now += HEADERS_QUIET
        assert duties.write_headers() == 1
        receive(2)
        began = now
        while now < began + HEADERS_PATIENCE:
            assert duties.write_headers() == 0
            now += 2.0
            with node.database.begin() as connection:  # as if more came all the time
                connection.execute(update(study).values(last_received_at=now))
        assert duties.write_headers() == 1
        session.close()
