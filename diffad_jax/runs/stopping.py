"""Told to stop: by SIGTERM, as clusters send before they take a machine away, or by Ctrl-C."""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

logger = logging.getLogger(__name__)
STATUS = 143  # exit status after SIGTERM, as of a shell: a scheduler sees that work is left
DOUBLE_SECONDS = 0.5  # a second Ctrl-C so soon is the first again, passed on by a wrapper
_HEARD = b"\nCtrl-C: saving, then stopping; once more ends at once\n"


class Stopped(BaseException):
    """Told to stop, with work left that the same command does."""


class AtOnce(KeyboardInterrupt):
    """Told by Ctrl-C a second time: nothing is waited for."""


class Stop:
    """Knows whether this process was told to stop. A context manager, for the main thread.

    The first Ctrl-C, like SIGTERM, is only noted. Leaving the context afterwards raises
    KeyboardInterrupt, so that whatever was to follow does not; after SIGTERM it raises `Stopped`
    where `leave` was called, and so work is left. The second Ctrl-C raises `AtOnce`.
    """

    def __init__(self) -> None:
        self._told = self._interruptible = self._left = False
        self._interrupted: float | None = None  # s, monotonic: when Ctrl-C came first
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            # With several hosts, JAX's own handler makes all of them stop after the same step.
            several = jax.process_count() > 1
            for number in (signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        # Of several processes all end alike, as after SIGTERM.
        if kind is None and self._interrupted is not None and jax.process_count() == 1:
            raise KeyboardInterrupt("by Ctrl-C; the same command continues")
        if kind is None and self._left:
            raise Stopped("by SIGTERM; the same command continues")

    def leave(self, step: int) -> None:
        """Say that the work ends after `step`, before it is done."""
        logger.info("told to stop: saving step %d; the same command continues", step)
        self._left = True

    def reached(self, step: int) -> bool:
        """Whether to save and stop after `step`; the same answer on every host."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._told

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """A context that raises Stopped as soon as this process is told to stop, or if it was.

        Not with several hosts, which would wait for each other: they stop after the next step.
        """
        if jax.process_count() > 1:
            yield
            return
        self._interruptible = True
        try:
            if self._told:
                raise Stopped
            yield
        finally:
            self._interruptible = False

    def _note(self, number: int, _) -> None:
        if number == signal.SIGINT:
            now = time.monotonic()
            if self._interrupted is None:
                self._interrupted = now
                os.write(2, _HEARD)  # no logging here: it may be what was interrupted
            elif now - self._interrupted < DOUBLE_SECONDS:
                return
            else:
                raise AtOnce("by Ctrl-C, at once; the newest complete checkpoint stays")
            if jax.process_count() > 1:
                os.kill(os.getpid(), signal.SIGTERM)  # which JAX tells the others
                return
        self._told = True
        if self._interruptible:
            self._interruptible = False
            raise Stopped
