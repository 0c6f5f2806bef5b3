"""What a training takes of its machine."""

from __future__ import annotations

import os
from pathlib import Path

import torch


def memory_used(device: torch.device) -> dict[str, float]:
    """Memory of this process now, and on a GPU the most it ever allocated since `forget_peak`; GB, for the ledger."""
    used: dict[str, float] = {}
    statm = Path("/proc/self/statm")
    if statm.exists():
        used["memory_gb"] = round(int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e9, 3)
    if device.type == "cuda":
        used["device_memory_gb"] = round(torch.cuda.max_memory_allocated(device) / 1e9, 3)
    return used


def forget_peak(device: torch.device) -> None:
    """Begins anew: a process of Ray may have trained something else before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
