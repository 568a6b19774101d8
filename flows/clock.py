"""The durations of the stages of a run."""

import time


class Clock:
    """Wall seconds since the last mark, by stage.

    >>> clock = Clock()
    >>> clock.mark("plan")
    >>> list(clock.stages)
    ['plan']
    """

    def __init__(self) -> None:
        self._begun = self._last = time.monotonic()
        self.stages: dict[str, float] = {}

    def mark(self, stage: str) -> None:
        """End a stage."""
        now = time.monotonic()
        self.stages[stage] = round(now - self._last, 3)
        self._last = now

    @property
    def seconds(self) -> float:
        """Seconds since the clock was created."""
        return round(time.monotonic() - self._begun, 1)
