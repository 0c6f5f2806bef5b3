"""The ranks of a trial under Ray Tune: the first is the trial's own process, the others are actors beside it.

All run in the trial's placement group, so that Tune gives a trial all its resources or none, and trials cannot wait for
each other's. The other ranks go from trial to trial with the first one, and so does what they have imported.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.machine import oom_kills
from sweeps.logs import last_lines, logging_to
from sweeps.tune.cluster import end_process
from sweeps.tune.head import end_with_raylet

if TYPE_CHECKING:
    from sr.config import TrialConfig
    from sr.ranks import Place
    from sr.world import World

log = logging.getLogger(__name__)

_LEAVE_S = 15.0
"""How long the other ranks may take to leave a trial that is over, before their processes are ended."""
_NOTICE_S = 20.0
"""How long the first rank may take to notice that another one is dead, e.g. within an operation of NCCL."""


@dataclass(frozen=True, slots=True)
class Host:
    """Where a process runs."""

    pid: int
    node_id: str
    name: str


def this_host() -> Host:
    """Where this process of Ray runs."""
    import ray

    return Host(os.getpid(), ray.get_runtime_context().get_node_id(), os.uname().nodename)


class Peer:
    """A rank other than the first, in a process of its own."""

    def __init__(self) -> None:
        end_with_raylet()
        # While the first rank does the same.
        importlib.import_module("sr.train")

    def host(self) -> Host:
        """Where it runs; it is ready when this returns."""
        return this_host()

    def train(self, folder: Path, config: TrialConfig, place: Place) -> None:
        """Takes part in a trial; what goes wrong is told to the first rank by way of the roll call."""
        from sr.ledger import Ledger
        from sr.ranks import joined
        from sr.train import train

        engine = config.engine
        with logging_to(rank_log(folder, place.rank)):
            try:
                with ExitStack() as stack:
                    # Not kept here, since connections close when nobody holds the world any more.
                    train(
                        config,
                        world=stack.enter_context(
                            joined(place, device=engine.device, timeout_s=engine.timeout_s)
                        ),
                        ledger=Ledger(folder),
                    )
            except SystemExit:
                log.info("rank %d: the trial was stopped", place.rank)
            except Exception:
                log.exception("rank %d leaves", place.rank)


def rank_log(folder: Path, rank: int) -> Path:
    """Where a rank other than the first logs."""
    return folder / f"log-rank{rank}.txt"


@contextmanager
def world_of(folder: Path, config: TrialConfig, *, tell: Callable[[str], None]) -> Iterator[World]:
    """The world of a trial in this process, which is its first rank; the others train as long as the block lasts.

    Whoever enters it should not keep the world: connections close, and the others notice, when nobody holds it any more.

    Args:
        folder: The trial's folder.
        config: Says how many ranks there are.
        tell: Told why, where this process has to end on the spot.

    Raises:
        RankLostError: Another rank died or does not answer; says where it was, its last words and, if known, why.
        OtherRankFailedError: Another rank failed.
    """
    from sr.ranks import joined
    from sr.rollcall import RankLostError
    from sr.world import single_process

    engine = config.engine
    if engine.ranks == 1:
        yield single_process(engine.device)
        return
    crew = _crew(config)
    try:
        place = crew.start(folder, config)[0]
        with crew.watched(folder, tell), ExitStack() as stack:
            yield stack.enter_context(joined(place, device=engine.device, timeout_s=engine.timeout_s))
        crew.dismiss()
    except RankLostError as error:
        why = crew.obituary(folder, str(error))
        crew.end()
        raise RankLostError(why) from None
    except SystemExit:
        # Stopped early. The others hear it together with this rank, and take up what comes next when they are done.
        raise
    except BaseException:
        crew.dismiss()
        raise


class _Crew:
    """The other ranks of this process, in one placement group.

    Args:
        group: The trial's placement group.
        size: How many.
    """

    def __init__(self, group: Any, size: int) -> None:  # noqa: ANN401 - Ray's PlacementGroup
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        self.group = group
        self.size = size
        self.is_alive = True
        self._tasks: list[Any] = []
        self._hosts: list[Host] = []
        self._oom_kills = oom_kills()
        bundles = group.bundle_specs
        self._actors: list[Any] = [
            ray.remote(Peer)
            .options(
                num_cpus=bundles[index].get("CPU", 0),
                num_gpus=bundles[index].get("GPU", 0),
                max_restarts=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    group, placement_group_bundle_index=index
                ),
            )
            .remote()
            for index in range(1, size + 1)
        ]

    def start(self, folder: Path, config: TrialConfig) -> list[Place]:
        """Lets the others begin the trial; the places of all ranks.

        Raises:
            RankLostError: One did not start.
        """
        import ray
        from ray.exceptions import RayError

        from sr.rollcall import RankLostError

        try:
            if not self._hosts:
                self._hosts = ray.get([actor.host.remote() for actor in self._actors])
        except RayError as error:
            raise RankLostError(f"the other ranks did not start: {_first_line(error)}") from None
        self._oom_kills = oom_kills()
        places = _places([this_host(), *self._hosts])
        self._tasks = [
            actor.train.remote(folder, config, place)
            for actor, place in zip(self._actors, places[1:], strict=True)
        ]
        return places

    @contextmanager
    def watched(self, folder: Path, tell: Callable[[str], None]) -> Iterator[None]:
        """Ends this process where it does not notice that another rank is dead, so that the trial is started again."""
        is_over = threading.Event()

        def watch() -> None:
            while not is_over.wait(1):
                if self._dead():
                    break
            if not is_over.wait(_NOTICE_S):
                tell(
                    self.obituary(
                        folder, "a rank is dead, and the first one was caught in an operation with it"
                    )
                )
                logging.shutdown()
                os._exit(70)

        thread = threading.Thread(target=watch, name="srloss-watch-ranks", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()

    def dismiss(self) -> None:
        """Waits until the others are done with the trial; ends them if they do not come to an end."""
        import ray

        if not self._tasks:
            return
        ready, late = ray.wait(self._tasks, num_returns=len(self._tasks), timeout=_LEAVE_S)
        if late or self._dead(ready):
            self.end()

    def end(self) -> None:
        """Ends the processes of the other ranks, even ones that are stopped."""
        import ray

        self.is_alive = False
        for actor in self._actors:
            ray.kill(actor)
        for host in self._hosts:
            end_process(host.pid, host=host.name, node_id=host.node_id)

    def obituary(self, folder: Path, what: str) -> str:
        """What the roll call says of a lost rank, what Ray knows, and the lost rank's last words."""
        import ray

        # Ray hears of a death a moment later than those who were connected to the dead.
        if self._tasks:
            ray.wait(self._tasks, num_returns=len(self._tasks), timeout=1)
        dead = self._dead()
        causes = [f"rank {rank}: {words}" for rank, words in dead.items()]
        if oom_kills() > self._oom_kills:
            causes.append("likely out of memory: the kernel has just ended a process for want of it")
        lost = list(dead) or [rank for rank in range(1, self.size + 1) if f"rank {rank} " in what]
        tails = [
            f"end of {rank_log(folder, rank).name}:\n{last_lines(rank_log(folder, rank), 5)}" for rank in lost
        ]
        return "\n".join(["; ".join([what, *causes]), *tails])

    def _dead(self, tasks: Sequence[Any] | None = None) -> dict[int, str]:
        """The ranks whose processes have ended, and what Ray says of each."""
        import ray
        from ray.exceptions import OutOfMemoryError, RayError

        tasks = self._tasks if tasks is None else tasks
        found = {}
        ready, _ = ray.wait(list(tasks), num_returns=len(tasks), timeout=0) if tasks else ([], [])
        for task in ready:
            try:
                ray.get(task)
            except OutOfMemoryError:
                found[self._tasks.index(task) + 1] = (
                    "out of memory: Ray ended it because its machine had none left"
                )
            except RayError as error:
                found[self._tasks.index(task) + 1] = _in_words(error)
        return found


_current: _Crew | None = None


def _crew(config: TrialConfig) -> _Crew:
    """The other ranks, those of the trial before if they can be used again."""
    import ray

    global _current
    group = ray.util.get_current_placement_group()
    assert group is not None, "a trial of several ranks needs a placement group"
    size = config.engine.ranks - 1
    crew = _current
    if crew is not None and crew.is_alive:
        # Of a trial that was stopped early they may be leaving still.
        crew.dismiss()
    if crew is None or not crew.is_alive or crew.group.id != group.id or crew.size != size:
        if crew is not None and crew.is_alive:
            crew.end()
        crew = _current = _Crew(group, size)
    return crew


def _places(hosts: Sequence[Host]) -> list[Place]:
    import ray

    from sr.ranks import Place, free_port

    names = [host.name for host in hosts]
    address = "127.0.0.1" if len(set(names)) == 1 else ray.util.get_node_ip_address()
    port = free_port()
    return [
        Place(rank, len(hosts), names[:rank].count(name), address, port) for rank, name in enumerate(names)
    ]


def _in_words(error: Exception) -> str:
    """What Ray says of a dead actor, without its ids."""
    if "low on memory" in str(error):
        return "out of memory: Ray ended it because its machine had none left"
    if "node" in str(error) and "died" in str(error) and "worker process has died" not in str(error):
        return "its machine died or cannot be reached"
    return "its process died"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or traceback.format_exception_only(error)[-1]).splitlines()[0]
