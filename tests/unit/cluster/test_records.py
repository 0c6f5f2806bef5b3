"""What was submitted: numbers in the order of submission, and never one for two."""

from __future__ import annotations

import json
import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path

from cluster.records import JobRecord, now, records_in, write_record


def record(job_id: str, trials: tuple[str, ...] = ()) -> JobRecord:
    return JobRecord("slurm", job_id, "array", "name", "2026-01-01T00:00:00+0000", "/logs", trials=trials)


def write_many(folder: Path, who: str, together: Barrier) -> None:
    for number in range(25):
        together.wait(timeout=30)
        write_record(folder, record(f"{who}-{number}"))


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert records_in(tmp_path) == []
    written = [
        record("7", ("a", "b")),
        record("6"),
        JobRecord("ray", "r", "sweep", "n", "t", "/", "http://x"),
    ]
    paths = [write_record(tmp_path, one) for one in written]
    assert paths == [tmp_path / "jobs" / f"000{number}.json" for number in (1, 2, 3)]
    assert records_in(tmp_path) == written
    assert json.loads(paths[0].read_text())["trials"] == ["a", "b"]


def test_the_order_is_that_of_numbers_and_none_is_written_over(tmp_path: Path) -> None:
    for job in "123":
        write_record(tmp_path, record(job))
    (tmp_path / "jobs" / "0001.json").unlink()
    # Two are there, and the third number is taken.
    assert write_record(tmp_path, record("4")).name == "0004.json"
    assert [one.job_id for one in records_in(tmp_path)] == ["2", "3", "4"]


def test_two_that_submit_at_once_take_different_numbers(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    together = context.Barrier(2)
    writers = [context.Process(target=write_many, args=(tmp_path, who, together)) for who in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    jobs = [one.job_id for one in records_in(tmp_path)]
    assert sorted(jobs) == sorted(f"{who}-{number}" for who in "ab" for number in range(25))
    # Each writer's own come in its own order.
    assert [job for job in jobs if job[0] == "a"] == [f"a-{number}" for number in range(25)]
    assert len(list((tmp_path / "jobs").iterdir())) == 50, "nothing temporary is left"


def test_times_tell_their_offset() -> None:
    assert now()[19] in "+-"
