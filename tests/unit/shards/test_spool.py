"""A killed packing goes on where it was, wherever that was, and ends as if nothing had happened."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from shards import pack as pack_module
from shards import workers
from shards.manifest import load
from shards.pack import PackInterrupted, PackOptions, PackProgress, pack
from shards.sources import SOURCES
from shards.sources.base import Listing, SourceKind, SourceOptions
from tests.unit.shards.conftest import ArrayItem, array_item, noise_clip

KILLED = 137


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def some_items() -> list[ArrayItem]:
    """A film of three clips, the second of which is also a picture, and some pictures; eight different clips."""
    film = array_item("film", *(noise_clip(f"film/{n}", frames=2) for n in range(3)))
    twin = array_item("twin", replace(noise_clip("film/1", frames=2), name="twin"))
    return [film, twin, array_item("bad", ValueError("broken")), *(array_item(f"p{n}") for n in range(5))]


def use(monkeypatch: pytest.MonkeyPatch, items: list[ArrayItem]) -> None:
    """Makes `items` the source "arrays"."""

    def listed(path: Path | None, options: SourceOptions) -> Listing:
        return Listing("arrays", tuple(items))

    monkeypatch.setitem(SOURCES, "arrays", SourceKind(listed, "arrays", takes_path=False, layout="arrays"))


def run(out: Path, **options: object) -> list[PackProgress]:
    chosen = {"shard_bytes": 6000, "jobs": 1, "force": True, **options}
    calls: list[PackProgress] = []
    pack("arrays", None, out, PackOptions(**chosen), on_progress=calls.append)  # pyright: ignore[reportArgumentType]
    return calls


def killed_at(moment: int, folder: Path, action: Callable[[], object]) -> bool:
    """Runs the action in a forked process that dies at its n-th file operation below `folder`, without a word.

    What is in its buffers is lost, as after kill -9. Returns whether it died before it was through.
    """
    child = os.fork()
    if child == 0:
        left = moment

        def count(*_: object) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                os._exit(KILLED)

        def audit(event: str, arguments: tuple[object, ...]) -> None:
            if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir") and str(
                arguments[0]
            ).startswith(str(folder)):
                count()

        real_fsync = os.fsync
        os.fsync = lambda file: (count(), real_fsync(file))[1]
        sys.addaudithook(audit)
        try:
            action()
        finally:
            os._exit(0 if sys.exc_info()[0] is None else 1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED), f"the packing failed at operation {moment}"
    return code == KILLED


@pytest.fixture
def undisturbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    monkeypatch.setattr("shards.spool.PIECE_BYTES", 4000)
    use(monkeypatch, some_items())
    run(tmp_path / "undisturbed")
    assert len(load(tmp_path / "undisturbed").shards) >= 4
    return contents(tmp_path / "undisturbed")


def finished_as(undisturbed: dict[str, bytes], out: Path) -> None:
    run(out)
    assert contents(out) == undisturbed
    assert not (out.parent / f".{out.name}.packing").exists()


@pytest.mark.parametrize(
    "start", [pytest.param(number, marks=[pytest.mark.slow] if number else []) for number in range(6)]
)
def test_killed_at_any_file_operation_it_ends_the_same(
    undisturbed: dict[str, bytes], tmp_path: Path, start: int
) -> None:
    moment = start
    while True:
        folder = tmp_path / f"at-{moment}"
        folder.mkdir()
        if not killed_at(moment, folder, lambda folder=folder: run(folder / "out")):
            break
        finished_as(undisturbed, folder / "out")
        shutil.rmtree(folder)
        moment += 6
    assert moment > 60


def test_killed_while_it_replaces_a_data_set_there_is_always_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, [array_item("old")])
    run(tmp_path / "old")
    use(monkeypatch, [array_item("a")])
    run(tmp_path / "undisturbed")
    undisturbed = contents(tmp_path / "undisturbed")
    moment, replaced = 0, list[str]()
    while True:
        folder = tmp_path / f"at-{moment}"
        shutil.copytree(tmp_path / "old", folder / "out")
        if not killed_at(moment, folder, lambda folder=folder: run(folder / "out")):
            break
        if not (folder / "out").exists():
            replaced.append("neither")
            assert contents(folder / ".out.packing" / "old") == contents(tmp_path / "old")
        else:
            replaced.append("old" if contents(folder / "out") == contents(tmp_path / "old") else "new")
            assert replaced[-1] == "old" or contents(folder / "out") == undisturbed
        finished_as(undisturbed, folder / "out")
        moment += 1
    assert list(dict.fromkeys(replaced)) == ["old", "neither", "new"]


def test_killed_again_and_again_it_ends_the_same(undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    choose = random.Random(7)
    for _ in range(2):
        kills = 0
        while kills < 40 and killed_at(choose.randrange(45), tmp_path, lambda: run(tmp_path / "out")):
            kills += 1
        assert kills > 1
        finished_as(undisturbed, tmp_path / "out")
        shutil.rmtree(tmp_path / "out")


def test_a_kill_loses_no_finished_work(
    undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(call: PackProgress) -> None:
        if (call.phase, call.done) == ("writing", 6):
            os._exit(KILLED)

    options = PackOptions(shard_bytes=6000, jobs=1)
    assert killed_at(
        10**9, tmp_path, lambda: pack("arrays", None, tmp_path / "out", options, on_progress=die)
    )
    rows = [json.loads(line) for line in (tmp_path / ".out.packing" / "journal.jsonl").open()]
    complete = [row["url"] for row in rows[1:]]
    times = {name: (tmp_path / ".out.packing" / "new" / name).stat().st_mtime_ns for name in complete}
    assert len(complete) >= 2
    calls = run(tmp_path / "out")
    assert contents(tmp_path / "out") == undisturbed
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in complete} == times
    last = {call.phase: call for call in calls}
    assert last["reading"].taken_over == last["reading"].total == 8
    assert last["writing"].taken_over == sum(row["nsamples"] for row in rows[1:]) > 0
    assert not any(call.phase == "reading" and call.total < 8 for call in calls)


def die_while_writing(tmp_path: Path) -> None:
    """Leaves a packing of which some shards are complete and their pieces gone."""

    def die(call: PackProgress) -> None:
        if (call.phase, call.done) == ("writing", 6):
            os._exit(KILLED)

    options = PackOptions(shard_bytes=6000, jobs=1)
    assert killed_at(
        10**9, tmp_path, lambda: pack("arrays", None, tmp_path / "out", options, on_progress=die)
    )


def test_other_options_after_a_kill_use_what_they_can(
    undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    die_while_writing(tmp_path)
    others = {"shard_bytes": 9000, "split": {"train": 0.5, "test": 0.5}}
    calls = run(tmp_path / "out", **others)
    again = [call.current for call in calls if call.phase == "reading" and call.total < 8]
    assert 0 < len(again) < 7, "what is still in the spool needs no encoding"
    run(tmp_path / "other", **others)
    assert contents(tmp_path / "out") == contents(tmp_path / "other")


def test_a_source_that_changed_after_a_kill_is_packed_as_it_is_now(
    undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    die_while_writing(tmp_path)
    items = some_items()
    changed = array_item("p1", noise_clip("p1", seed=99), version=1)
    now = [item for item in items if item.name not in ("p1", "p3")] + [changed, array_item("p9")]
    use(monkeypatch, now)
    calls: list[PackProgress] = []
    parts: list[int] = []

    def count(call: PackProgress) -> None:
        calls.append(call)
        parts.append(len(list((tmp_path / ".out.packing" / "spool").glob("*.json"))))

    options = PackOptions(shard_bytes=6000, jobs=1)
    pack("arrays", None, tmp_path / "out", options, on_progress=count)
    assert max(call.taken_over for call in calls if call.phase == "reading" and call.total == 8) == 6
    assert parts[-1] == 8, "what belongs to no item is gone"
    run(tmp_path / "other")
    assert contents(tmp_path / "out") == contents(tmp_path / "other")


@pytest.mark.parametrize("change", [{"profile": "raw"}, {"clips": SourceOptions(frames=3)}])
def test_another_profile_or_other_clips_start_anew_and_free_the_disk_first(
    undisturbed: dict[str, bytes], tmp_path: Path, change: dict[str, object]
) -> None:
    die_while_writing(tmp_path)
    leftovers: list[int] = []

    def count(call: PackProgress) -> None:
        leftovers.append(len(list((tmp_path / ".out.packing").rglob("*.json"))))
        assert not call.taken_over

    options = PackOptions(shard_bytes=6000, jobs=1, **change)  # pyright: ignore[reportArgumentType]
    pack("arrays", None, tmp_path / "out", options, on_progress=count)
    assert leftovers[0] == 1
    run(tmp_path / "other", **change)
    assert contents(tmp_path / "out") == contents(tmp_path / "other")


def damage_piece(spool: Path) -> None:
    path = max(spool.glob("*.bin"), key=lambda path: path.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


def cut_description(spool: Path) -> None:
    path = max(spool.glob("*.json"), key=lambda path: path.stat().st_size)
    path.write_bytes(path.read_bytes()[:100])


def change_description(spool: Path) -> None:
    path = max(spool.glob("*.json"), key=lambda path: path.stat().st_size)
    path.write_bytes(path.read_bytes().replace(b"film/1", b"film/8"))


def cut_piece(spool: Path) -> None:
    path = max(spool.glob("*.bin"), key=lambda path: path.stat().st_size)
    path.write_bytes(path.read_bytes()[:100])


def remove_piece(spool: Path) -> None:
    next(spool.glob("*.bin")).unlink()


def interrupt_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pack_module, "select", interrupt)
        with pytest.raises(PackInterrupted, match=r"8 of 8 items encoded; .*packing keeps what is done"):
            run(tmp_path / "out")
    return tmp_path / ".out.packing" / "spool"


@pytest.mark.parametrize(
    "damage", [cut_description, change_description, cut_piece, damage_piece, remove_piece]
)
def test_a_damaged_spool_is_made_anew(
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], None],
) -> None:
    damage(interrupt_before_writing(tmp_path, monkeypatch))
    finished_as(undisturbed, tmp_path / "out")


def test_bits_that_flip_while_it_works_never_reach_a_shard(
    undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    def damage(call: PackProgress) -> None:
        if call.phase == "writing" and call.done == 1:
            damage_piece(tmp_path / ".out.packing" / "spool")

    options = PackOptions(shard_bytes=6000, jobs=1)
    with pytest.raises(ValueError, match=r"damaged since it was written .* run the same command again"):
        pack("arrays", None, tmp_path / "out", options, on_progress=damage)
    finished_as(undisturbed, tmp_path / "out")


def test_the_disk_never_holds_more_than_one_copy_and_one_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.spool.PIECE_BYTES", 20_000)
    clips = [noise_clip(f"film/{n:02d}", width=64, height=64) for n in range(12)]
    use(monkeypatch, [array_item("film", *clips), *(array_item(c.name, c) for c in clips[:3])])
    used: list[int] = []

    def measure(call: PackProgress) -> None:
        if call.phase != "writing":
            return
        files = [file for file in (tmp_path / ".out.packing").rglob("*") if file.is_file()]
        used.append(sum(file.stat().st_size for file in files if file.suffix in (".bin", ".tar")))

    options = PackOptions(shard_bytes=45_000, jobs=1, split={"train": 1.0})
    dataset = pack("arrays", None, tmp_path / "out", options, on_progress=measure)
    assert len(dataset.shards) == 4
    one_copy = sum(shard.size for shard in dataset.shards)
    # A shard is complete before its pieces go, and the last of them may hold clips of the next one.
    assert len(used) == 12
    assert max(used) <= one_copy + 45_000 + 20_000


def hang_or_die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), 9)
    return number


def test_a_worker_that_is_killed_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(workers.WorkerDiedError):
        list(workers.run_all(hang_or_die, range(50), jobs=2))


class KillerItem(ArrayItem):
    """Kills the process that reads it, once."""

    def clips(self) -> object:  # pyright: ignore[reportIncompatibleMethodOverride]
        marker = Path(self.source)
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), 9)
        return super().clips()


def test_a_worker_killed_for_want_of_memory_is_explained_and_the_rest_is_kept(
    undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [array_item(f"p{n}") for n in range(40)]
    use(monkeypatch, [*items, KillerItem("z", (noise_clip("z"),), str(tmp_path / "marker"))])
    with pytest.raises(ValueError, match=r"was killed with \d+ of 41 items done.*same command .*--jobs 1"):
        run(tmp_path / "out", jobs=2)
    calls = run(tmp_path / "out", jobs=2)
    assert max(call.taken_over for call in calls) >= 20
    assert len(load(tmp_path / "out").samples) == 41


STATE = {"is_parent": False}


def look_around(number: int) -> tuple[int, bool, bool, str]:
    """What a worker sees: the number, whether it was forked, whether Ctrl-C reaches it, its number of threads."""
    blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    return 2 * number, STATE["is_parent"], blocked, os.environ["OPENBLAS_NUM_THREADS"]


def test_workers_share_nothing_but_their_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in workers.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(STATE, "is_parent", True)
    before = dict(os.environ)
    found = dict(workers.run_all(look_around, range(40), jobs=2))
    assert found == {number: (2 * number, False, True, "1") for number in range(40)}
    assert dict(os.environ) == before


def wait_and_touch(path: Path | None) -> None:
    if path:
        time.sleep(4)
        path.touch()


def test_workers_are_gone_when_the_caller_stops(tmp_path: Path) -> None:
    results = workers.run_all(wait_and_touch, [None, None, tmp_path / "a", tmp_path / "b"], jobs=2)
    next(results)
    results.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert not list(tmp_path.iterdir())
    assert not multiprocessing.active_children()


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(3):
        noise = noise_clip(str(number), width=40, height=40).frames[0].rgb
        Image.fromarray(noise).save(pictures / f"{number}.png")
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\nfrom shards.pack import PackOptions, pack\n"
        f"here = Path({str(tmp_path)!r})\n"
        "pack('folder', here / 'pictures', here / 'out', PackOptions(jobs=2), on_progress=lambda _: None)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "call it inside of: if __name__ == '__main__':" in done.stderr
