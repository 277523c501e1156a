"""What ``model show`` tells of a model's memory: what this node's runs took, as a line for each device and rung."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from dicom_node.cli.common import index_of
from dicom_node.config import Config
from models.memory import Profile, told
from storage.memory_uses import MemoryUseRecord


def memory_of(config: Config, digest: str) -> list[dict[str, Any]]:
    """What the index knows of a release's memory; nothing where there is no index, or one that no node has brought up to date."""
    from sqlalchemy.exc import DBAPIError

    from dicom_node.work.admission import uses
    from storage import memory_uses
    from storage.errors import IndexUnavailable

    try:
        with index_of(config) as database, database.read() as connection:
            records = memory_uses.of_release(connection, digest)
    except (IndexUnavailable, DBAPIError):
        return []
    profile = Profile()
    profile.learn(uses(records))
    return [
        {
            "device": device,
            "rung": rung,
            "base": round(line.base) if line else None,
            "per_voxel": line.slope if line else None,
            "largest": line.largest if line else None,
            "measured": [each for each in records if (each.device, each.rung) == (device, rung)],
        }
        for (device, rung), line in profile.lines().items()
    ]


def told_memory(memory: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The same for people."""
    if memory:
        yield "memory it took here"
    for each in memory:
        where = f"  {each['rung']} on {each['device']}:"
        if each["base"] is not None:
            base = f"{told(each['base'])} and " if each["base"] > 0 else ""
            runs = sum(use.runs for use in each["measured"] if use.fitted)
            yield f"{where} {base}{each['per_voxel']:.1f} bytes a voxel, up to {each['largest']} voxels; {runs} runs"
        failed: list[MemoryUseRecord] = [use for use in each["measured"] if not use.fitted]
        for use in failed:
            yield f"{where} {use.voxels} voxels did not fit into {told(use.taken)}"
