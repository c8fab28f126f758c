"""Where the time of a pipeline goes, by stage, without a change to the pipeline."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import wraps
from typing import Any
from unittest import mock

REST = "everything else"


class StageClock:
    """
    Times functions while a pipeline calls them, on one thread; each stage is charged without the stages that it calls.

    Seconds are those of the processor, so that other processes on the same cores do not count.

    Args:
        stages: name of the stage, the module or class that the pipeline looks the function up in, and its name there.
    """

    def __init__(self, stages: Sequence[tuple[str, Any, str]]):
        self.stages = stages
        self.seconds: dict[str, float] = {}
        self.running: list[str] = []
        self.last_change = 0.0

    def seconds_of(self, action: Callable[[], object]) -> dict[str, float]:
        """Seconds that one call of `action` spends in each stage, and in the rest of it."""
        self.seconds = dict.fromkeys([stage for stage, _, _ in self.stages] + [REST], 0.0)
        with ExitStack() as stack:
            for stage, owner, name in self.stages:
                stack.enter_context(mock.patch.object(owner, name, self._clocked(stage, getattr(owner, name))))
            self.running = [REST]
            self.last_change = time.thread_time()
            action()
            self._charge()
        return self.seconds

    def _charge(self) -> None:
        now = time.thread_time()
        self.seconds[self.running[-1]] += now - self.last_change
        self.last_change = now

    def _clocked(self, stage: str, function: Callable) -> Callable:
        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            self._charge()
            self.running.append(stage)
            try:
                return function(*args, **kwargs)
            finally:
                self._charge()
                self.running.pop()

        return run
