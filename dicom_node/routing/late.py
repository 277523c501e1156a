"""What a late instance changes: a completed study that completes again, on another input set for a model that has had one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Policy = Literal["rerun", "ignore", "flag"]


@dataclass(frozen=True)
class Earlier:
    """A run of the same model on an earlier revision of the study."""

    run_pk: int
    run_key: str
    state: str


@dataclass(frozen=True)
class Decision:
    """Whether to run, what the result replaces, and the sentence about it."""

    run: bool
    predecessor: int | None
    flag: bool
    reason: str


def decide(policy: Policy, run_key: str, same: Earlier | None, earlier: Earlier | None) -> Decision:
    """Decide over one model and one input set.

    Parameters
    ----------
    same
        The run with this very run key, finished or not.
    earlier
        The newest run of this model on an earlier revision, with another input set.
    """
    if same is not None:
        return Decision(False, None, False, f"this model has had this very input set: run {same.run_pk} is {same.state}")
    if earlier is None:
        return Decision(True, None, False, "first run of this model on this study")
    if policy == "ignore":
        return Decision(False, None, False, f"late instances are ignored: run {earlier.run_pk} stands")
    if policy == "flag":
        return Decision(False, None, True, f"late instances are flagged: run {earlier.run_pk} does not have them")
    predecessor = earlier.run_pk if earlier.state == "COMPLETED" else None
    return Decision(True, predecessor, False, f"late instances: replaces run {earlier.run_pk}")
