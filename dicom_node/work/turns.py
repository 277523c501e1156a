"""How sources share the devices, as configured."""

from __future__ import annotations

from collections.abc import Sequence

from dicom_node.config import Config, QuotaTable
from storage.fair_share import Turns
from storage.quotas import Quota


def turns_of(config: Config) -> Turns:
    """The turns that [jobs] fair_share and the [[quota]] tables ask for."""
    return Turns(config.jobs.fair_share, quotas_of(config.quota))


def quotas_of(tables: Sequence[QuotaTable]) -> tuple[Quota, ...]:
    """The quotas of [[quota]] tables."""
    return tuple(Quota(each.sources, each.runs, each.per) for each in tables)
