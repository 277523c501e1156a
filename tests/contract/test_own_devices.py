"""A node knows the Device UIDs of all it has run: what comes back with one is its own result, also of a release that is new."""

from __future__ import annotations

from dicom_node.config import Config
from dicom_node.own_devices import OwnDevices
from dicom_node.results.uids import device_uid
from models.bundle import load_bundle
from storage.database import Database
from storage.jobs import JobQueue
from tests.contract.test_runs import create, spec


def test_a_release_that_runs_for_the_first_time_is_known_at_once(database: Database) -> None:
    own = OwnDevices(Config(), database, "the-archive")
    assert own() == frozenset()
    queue = JobQueue(database)
    for revision, digest in enumerate(("a" * 64, "b" * 64), start=1):
        assert create(database, queue, spec(revision, release_digest=digest)) is not None
        assert device_uid("the-archive", digest) in own()
    assert len(own()) == 2


def test_what_a_rule_may_run_is_known_before_it_ran(database: Database) -> None:
    config = Config.model_validate({"rule": [{"name": "brain", "match": {}, "run": ["brain_extraction", "no_such"]}]})
    assert OwnDevices(config, database, "the-archive")() == {device_uid("the-archive", load_bundle("brain_extraction").digest)}
