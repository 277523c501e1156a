"""What every table of the configuration file is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Table(BaseModel):
    """Frozen; unknown keys are refused; a value that is refused is not quoted by pydantic."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
