"""Imported once by the server that ranks of tests are forked from, so that each need not: seconds per rank."""

import os

# DeepSpeed settles on a device when it is imported; all ranks of tests compute on the CPU.
os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed.runtime.zero.muon.original_muon
import deepspeed.runtime.zero.stage3  # noqa: F401
import torch._dynamo  # noqa: F401

import sr.engines
import sr.ranks  # noqa: F401

del os.environ["DS_ACCELERATOR"]
