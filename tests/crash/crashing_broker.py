"""A sluiced that dies, or whose disk fails, at a named point (crash_at.c)."""

import os
import pathlib
import random
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))

import pika  # noqa: E402

import harness  # noqa: E402


def seed_from_environment():
    """SLUICE_SEED repeats a run; printed in any case."""
    seed = int(os.environ.get("SLUICE_SEED", str(random.SystemRandom().randrange(1 << 32))))
    print(f"SLUICE_SEED={seed}", flush=True)
    return seed


class CrashingBroker(harness.Sluiced):
    """`point` is CALL:NAME:HOW:COUNT for the next start, or None."""

    def __init__(self, arguments=(), data_dir=None):
        super().__init__()
        self.set_arguments(arguments)
        self.point = None
        self._data_dir = data_dir

    def set_arguments(self, arguments):
        """For the next start."""
        # Functions have tests of their own; without an executor a start is faster.
        self._arguments = ["--executor", "/no/such/program", *arguments]

    @property
    def data_dir(self):
        return self._data_dir or super().data_dir

    def _launch(self, command, env=None):
        if self.point is not None:
            library = harness.build_dir() / "tests/crash/libcrash_at.so"
            assert library.exists(), f"{library} is missing: build it"
            env = {**os.environ, "LD_PRELOAD": str(library), "SLUICE_CRASH_AT": self.point}
        super()._launch(command, env)

    def exit_status(self):
        return self._process.exit_status()

    def start_or_crash(self):
        """Starts; False where the point lay in the start and killed it."""
        try:
            self.start()
            return True
        except AssertionError:
            if self.exit_status() != -signal.SIGKILL:
                raise
            return False

    def parameters(self):
        return pika.ConnectionParameters(
            self.host, self.port, heartbeat=0, socket_timeout=10, stack_timeout=15,
            credentials=pika.PlainCredentials("guest", "guest"))
