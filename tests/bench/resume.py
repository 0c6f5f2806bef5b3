"""Time to the first batch after a resume in the middle of an epoch of a million samples.

Run with: python tests/bench/resume.py
Each run is a fresh process: open the data set, load the stream's state, read the first batch.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from shards.index import tables_to_bytes
from shards.manifest import DATASET_FILE, INDEX_FILE
from shards.pack import PackOptions, pack
from tests.bench.hardware import described

SAMPLES = 1_000_000
BATCH = 16
RUNS = 7

RESUMED = """
import sys, time
import numpy
from shards.manifest import load
from shards.stream import Stream
started = time.perf_counter()
stream = Stream(load(sys.argv[1]), data_seed=0, global_batch_size=int(sys.argv[2]), patch_size=64, augment=True, cache_bytes=0)
stream.load_state_dict(stream.state_dict() | {"cursor": int(sys.argv[3]), "samples_seen": int(sys.argv[3])})
assert stream.next_batch().hr.shape[0] == int(sys.argv[2])
print(time.perf_counter() - started)
"""


def million(root: Path) -> Path:
    """The bundled photographs, the first of which an index lists a million times."""
    small = pack("photos", None, root / "photos", PackOptions(), on_progress=lambda _state: None)
    first = small.of_split("train").numbers.start
    one = small.samples
    rows = np.repeat(one.rows[first : first + 1], SAMPLES)
    data = tables_to_bytes(
        {"samples": rows, "members": one.members, "bands": one.bands, "strings": one.strings}
    )
    (small.root / INDEX_FILE).write_bytes(data)
    head = json.loads((small.root / DATASET_FILE).read_text())
    head |= {
        "index_sha256": hashlib.sha256(data).hexdigest(),
        "index_size": len(data),
        "num_samples": SAMPLES,
    }
    (small.root / DATASET_FILE).write_text(json.dumps(head))
    return small.root


def main() -> None:
    """Prints one JSON line."""
    with tempfile.TemporaryDirectory() as folder:
        root = million(Path(folder))
        seconds = []
        for run in range(RUNS):
            cursor = SAMPLES * (run + 1) // (RUNS + 1) + run
            command = [sys.executable, "-c", RESUMED, str(root), str(BATCH), str(cursor)]
            seconds.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    print(
        json.dumps(
            {
                "bench": "first batch after a resume",
                "samples": SAMPLES,
                "median_s": round(statistics.median(seconds), 3),
                "all_s": [round(s, 3) for s in seconds],
                **described(),
            }
        )
    )


if __name__ == "__main__":
    main()
