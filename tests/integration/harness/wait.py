"""Waiting for what has no event of its own: always towards a condition, always with a deadline."""

import time


class Deadline:
    """A point in time that several waits share."""

    def __init__(self, timeout_s):
        self._at = time.monotonic() + timeout_s

    def remaining_s(self):
        return max(0.0, self._at - time.monotonic())

    def passed(self):
        return time.monotonic() >= self._at


def await_until(condition, timeout_s=10.0, what="the condition"):
    """Calls `condition` until it answers something true, and returns that answer.

    `what` completes the sentence "waited N s for ...". The pause between two looks starts at 2 ms
    and doubles up to 50 ms, so that a fast answer is seen fast and a slow one costs no CPU.
    """
    deadline = Deadline(timeout_s)
    pause_s = 0.002
    while True:
        answer = condition()
        if answer:
            return answer
        if deadline.passed():
            raise AssertionError(
                f"waited {timeout_s:g} s for {what() if callable(what) else what}")
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.05)
