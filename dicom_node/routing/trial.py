"""What the rules make of a stored study; nothing is done."""

from __future__ import annotations

from functools import cache

from dicom_node.actions import study_of
from dicom_node.config import Config
from dicom_node.node import Node
from dicom_node.releases.resolve import resolve
from dicom_node.routing.look import look
from dicom_node.routing.plan import Plan, make_plan, peers_of
from storage.errors import NotFound
from storage.rule_facts import StudyFacts


def try_rules(config: Config, node: Node, uid: str) -> tuple[Plan, StudyFacts]:
    """The plan of a configuration's rules for a study, and what they judged it by; ``uid`` may be a series' or an instance's.

    Raises
    ------
    NotFound
        There is no such study.
    """
    with node.database.read() as connection:
        study = study_of(connection, uid)
    models = cache(lambda name: resolve(config, node.database, name))
    facts = look(node.database, node.archive, [study], config.rule, models).get(study)
    if facts is None:
        raise NotFound(f"no study {study}")
    return make_plan(facts, config.rule, models, peers_of(config)), facts
