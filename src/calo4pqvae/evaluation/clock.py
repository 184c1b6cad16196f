"""Wall time of the steps of an evaluation, and what the caller is told about them."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

__all__ = ["Clock", "Progress"]

Progress = Callable[[str, int, int], None]
"""Told (step, done, in all)."""


@dataclass(eq=False)
class Clock:
    """Times steps by name.

    Args:
        progress: Told when a step starts, how far it has come, and when it ends; None for nobody.
        seconds: Wall time by step so far.
    """

    progress: Progress | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """Times a step; gives a function to tell how far it has come."""
        start = time.perf_counter()
        self._tell(name, 0, 1)
        yield lambda done, total: self._tell(name, done, total)
        self._tell(name, 1, 1)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def _tell(self, name: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(name, done, total)
