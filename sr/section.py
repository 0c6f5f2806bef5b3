"""What all sections of a configuration have in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of all sections: frozen, strict, and unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class Component(Section):
    """An entry of one of the tables (GENERATORS, LOSSES, DEGRADATIONS) with all its parameters."""

    model_config = ConfigDict(extra="allow")

    type: str
    """Name in the table; `srloss losses` lists the losses."""

    @property
    def parameters(self) -> dict[str, Any]:
        """The component's own parameters, by name."""
        return dict(self.model_extra or {})
