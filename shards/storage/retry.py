"""How long to wait for a server, and how often to ask again."""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from shards.storage.ending import end_reads_with_program, pause
from shards.storage.errors import MissingError, StorageError

T = TypeVar("T")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a remote place may take. Every wait is bounded, whatever the server does."""

    connect_s: float = 10.0
    """To connect, and again for the TLS handshake."""
    stall_s: float = 20.0
    """Without a single byte."""
    total_s: float = 30.0
    """For one request, and on top of it the time that its bytes take at `min_bytes_per_s`."""
    min_bytes_per_s: float = 100_000.0
    """A server slower than this is taken for stuck."""
    tries: int = 6
    """Requests for the same bytes before giving up."""
    first_wait_s: float = 0.25
    """Before the second try; doubled from try to try, with a random part so that ranks do not come back together."""
    max_wait_s: float = 8.0
    max_retry_after_s: float = 60.0
    """A server may ask for a longer pause than `max_wait_s`, up to this."""
    give_up_s: float = 300.0
    """No new try later than this after the first one began."""
    redirects: int = 5

    def deadline(self, num_bytes: int) -> float:
        """When a request that begins now must have ended, on the clock of `time.monotonic`."""
        return time.monotonic() + self.total_s + num_bytes / self.min_bytes_per_s


class TransientError(StorageError):
    """A failure that may be over when one asks again."""

    def __init__(self, what: str, *, retry_after_s: float | None = None) -> None:
        """`retry_after_s` is the pause that the server wished for, in seconds."""
        super().__init__(what)
        self.retry_after_s = retry_after_s


class Retry:
    """Repeats what failed for a passing reason, with growing, random pauses."""

    def __init__(self, limits: Limits) -> None:
        """The randomness is its own: drawing from the global generator would change what others draw."""
        self._limits = limits
        self._random = random.Random()
        end_reads_with_program()

    def run(self, url: str, attempt: Callable[[], T]) -> T:
        """The first result that `attempt` gives.

        Raises:
            StorageError: It failed for good, or too often; names the URL, the last reason and the number of tries.
        """
        started = time.monotonic()
        for number in range(1, self._limits.tries + 1):
            try:
                pause(0.0)
                return attempt()
            except TransientError as error:
                wait_s = self._wait_s(number, error.retry_after_s)
                spent_s = time.monotonic() - started
                if number == self._limits.tries or spent_s + wait_s > self._limits.give_up_s:
                    raise StorageError(
                        f"{url}: {error} (tried {_times(number)} in {spent_s:.1f} s)"
                    ) from None
                _logger.info("%s: %s; asking again in %.1f s", url, error, wait_s)
                pause(wait_s)
            except MissingError as error:
                raise MissingError(f"{url}: {error}") from None
            except StorageError as error:
                tried = "" if number == 1 else f" (at try {number})"
                raise StorageError(f"{url}: {error}{tried}") from None
        raise AssertionError("Limits.tries must be at least 1")

    def _wait_s(self, number: int, retry_after_s: float | None) -> float:
        limits = self._limits
        wait_s = min(limits.first_wait_s * 2.0 ** (number - 1), limits.max_wait_s)
        wait_s *= self._random.uniform(0.5, 1.0)
        if retry_after_s is None:
            return wait_s
        return min(max(retry_after_s, 0.0), limits.max_retry_after_s) + wait_s * 0.5


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
