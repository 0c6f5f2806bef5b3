"""What the per-clip results of an evaluation come to."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def mean_scores(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Mean of each metric over the clips on which it is defined, for rows as `evaluate` returns them; else NaN."""
    names = [name for name in rows[0] if name not in ("clip", "source")]
    defined = {name: [row[name] for row in rows if math.isfinite(row[name])] for name in names}
    return {name: float(np.mean(values)) if values else math.nan for name, values in defined.items()}
