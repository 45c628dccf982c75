"""The cases, and how one broker is measured in one of them."""

import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import threading
import time

from brokers import end_with_parent, load_program

MEASURES = ("publish", "end-to-end", "drain", "latency")
_QUIET_S = 0.3
_QUIET_TIMEOUT_S = 10.0
# Unreachable in the time that publishing lasts; the load programs have a table of this many entries.
_COUNT_MAX = 4_000_000
_BYTES_MAX = 4 << 30
_LATENCY_WARM_UP_S = 1  # kWarmUpNs of load.c


@dataclasses.dataclass(frozen=True)
class Case:
    """A load: the base case, or the base case with one thing changed."""

    name: str
    size: int = 256
    queues: int = 1
    connections: int = 1
    window: int = 1000
    measures: tuple = ("publish", "drain", "end-to-end")
    quick: bool = False
    apart: bool = False  # measured only where it is asked for

    def load_options(self):
        return ["--size", self.size, "--queues", self.queues, "--connections", self.connections,
                "--window", self.window]


BASE = Case("base", measures=MEASURES, quick=True)
CASES = (
    BASE,
    Case("window 1", window=1, measures=("publish",), quick=True),
    Case("window 100", window=100, measures=("publish",)),
    Case("16 B", size=16),
    Case("1 KiB", size=1024),
    Case("16 KiB", size=16384),
    Case("100 queues", queues=100, quick=True),
    Case("50 connections", connections=50),
    Case("100 queues and 50 connections", queues=100, connections=50, apart=True),
)


class Machine:
    """What the whole machine's CPUs did, from /proc/stat."""

    def __init__(self):
        with open("/proc/stat", encoding="ascii") as file:
            ticks = [int(field) for field in file.readline().split()[1:9]]
        self._total = sum(ticks)
        self._idle = ticks[3] + ticks[4]
        self._steal = ticks[7]

    def since(self, before, own_cpu_s):
        """Percent of all CPU time since `before`: stolen by the hypervisor, used by strangers."""
        total = max(1, self._total - before._total)
        steal = self._steal - before._steal
        busy = total - (self._idle - before._idle) - steal
        others = busy - own_cpu_s * os.sysconf("SC_CLK_TCK")
        return {"steal_percent": round(100 * steal / total, 1),
                "others_percent": round(max(0.0, 100 * others / total), 1),
                "load_average": round(os.getloadavg()[0], 2)}


class LoadProgram:
    """A run of a load program, which waits for a word before it starts and before it ends."""

    def __init__(self, peer, client, command, arguments, timeout_s=600):
        self._name = f"{command} on {peer.name}"
        self._process = subprocess.Popen(
            [load_program(client), command, "--host", peer.server.host, "--port",
             str(peer.server.port), *peer.load_options, *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=end_with_parent)
        self._timer = threading.Timer(timeout_s, self._process.kill)

    def __enter__(self):
        self._timer.start()
        return self

    def __exit__(self, kind, _error, _traceback):
        self._timer.cancel()
        if kind is not None:
            self._process.kill()
        self._process.communicate()
        if kind is None and self._process.returncode != 0:
            raise SystemExit(f"{self._name} failed")

    def line(self):
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._name} failed with status {self._process.wait()}")
        return line

    def go_on(self):
        self._process.stdin.write("\n")
        self._process.stdin.flush()


def ask(peer, client, command, case, prefix):
    """Runs a command that is not measured; returns what it prints."""
    with LoadProgram(peer, client, command, [*case.load_options(), "--prefix", prefix]) as program:
        return program.line() if command == "depth" else None


def await_depth(peer, case, prefix, messages):
    """Fails unless the queues hold exactly `messages`: what was confirmed, or what was not consumed."""
    deadline = time.monotonic() + 10
    while (depth := int(ask(peer, peer.plain_client, "depth", case, prefix))) != messages:
        if time.monotonic() > deadline:
            raise SystemExit(f"{peer.name}, {case.name}: {depth} messages are queued, not {messages}")
        time.sleep(0.1)


def await_quiet(peer):
    """Returns the broker's CPU time once it has done what it put off, after some seconds anyway."""
    deadline = time.monotonic() + _QUIET_TIMEOUT_S
    used = peer.cpu_s()
    while True:
        time.sleep(_QUIET_S)
        before, used = used, peer.cpu_s()
        # A clock tick is what an idle broker may need.
        if used - before <= 0.011 or time.monotonic() > deadline:
            return used


def measured(peer, client, command, case, prefix, *arguments):
    """Runs a load; returns its figures with those of the broker and the machine."""
    peer.check_running()
    arguments = [*case.load_options(), "--prefix", prefix, *arguments]
    with LoadProgram(peer, client, command, arguments) as program:
        program.line()
        cpu_before, machine_before = peer.cpu_s(), Machine()
        program.go_on()
        figures = json.loads(program.line())
        cpu_at_end, machine = peer.cpu_s(), Machine()
        messages = figures["messages"]
        own_cpu_s = cpu_at_end - cpu_before + figures["client_cpu_us"] * messages / 1e6
        figures |= machine.since(machine_before, own_cpu_s)
        # What the broker still does later for these messages is their cost too.
        figures["broker_cpu_us"] = (await_quiet(peer) - cpu_before) * 1e6 / messages
        program.go_on()
    peer.check_running()
    return figures


def fdatasyncs_us(folder, appends=200):
    """Times of fdatasyncs, each after 300 bytes were appended to a file in `folder`."""
    path = pathlib.Path(folder) / "fdatasync"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        times_us = []
        for _ in range(appends):
            os.write(file, b"x" * 300)
            start = time.perf_counter_ns()
            os.fdatasync(file)
            times_us.append((time.perf_counter_ns() - start) / 1e3)
        return times_us
    finally:
        os.close(file)
        path.unlink()


class Loads:
    """Measures brokers with the options of one run of the program."""

    def __init__(self, seconds, count, latency_seconds, measures):
        self._seconds = seconds
        self._count = count
        self._latency_seconds = latency_seconds
        self._measures = measures
        self._queues_made = 0
        self.rate = None  # of the open loop; messages a second

    def visit(self, peer, client, case):
        """All measures that the case asks for: a list of pairs of measure and figures."""
        wanted = [measure for measure in case.measures if measure in self._measures]
        found = []
        # The base case drains --count messages, the others what publishing has left; so does our own
        # client on other brokers, for which filling the queue takes too long.
        fills = case is BASE and (client == peer.plain_client or peer.name == "sluice")
        drains_rest = "drain" in wanted and not fills
        if "publish" in wanted or drains_rest:
            found += self._publish(peer, client, case, drains_rest)
        if "drain" in wanted and fills:
            found.append(("drain", self._fill_and_drain(peer, client)))
        if "end-to-end" in wanted:
            found.append(("end-to-end", self.end_to_end(peer, client, case, self._seconds)))
        if "latency" in wanted:
            found.append(("latency", self._latency(peer, client, case)))
        return [(measure, figures) for measure, figures in found if measure in wanted]

    def end_to_end(self, peer, client, case, seconds):
        prefix = self._new_queues()
        figures = measured(peer, client, "both", case, prefix, "--seconds", seconds,
                           "--count", count_max(case))
        self._delete(peer, case, prefix, messages=0)
        return figures

    def _publish(self, peer, client, case, drain):
        prefix = self._new_queues()
        folder = peer.server.data_dir.parent
        syncs_us = fdatasyncs_us(folder) if case.window == 1 else []
        published = measured(peer, client, "publish", case, prefix, "--seconds", self._seconds,
                             "--count", count_max(case))
        if case.window == 1:
            published["fdatasync_us"] = statistics.median(syncs_us + fdatasyncs_us(folder))
        await_depth(peer, case, prefix, published["messages"])
        found = [("publish", published)]
        if drain:
            found.append(("drain", measured(peer, client, "drain", case, prefix, "--count",
                                            count_max(case), "--expect", published["messages"])))
        self._delete(peer, case, prefix, messages=0 if drain else published["messages"])
        return found

    def _fill_and_drain(self, peer, client):
        prefix = self._new_queues()
        measured(peer, peer.quickest_client, "publish", BASE, prefix, "--count", self._count)
        await_depth(peer, BASE, prefix, self._count)
        figures = measured(peer, client, "drain", BASE, prefix, "--count", self._count)
        self._delete(peer, BASE, prefix, messages=0)
        return figures

    def _latency(self, peer, client, case):
        prefix = self._new_queues()
        count = int(self.rate * (self._latency_seconds + _LATENCY_WARM_UP_S))
        figures = measured(peer, client, "both", case, prefix, "--rate", self.rate, "--count", count)
        self._delete(peer, case, prefix, messages=0)
        return figures

    def _new_queues(self):
        self._queues_made += 1
        return f"bench-{self._queues_made}"

    def _delete(self, peer, case, prefix, messages):
        await_depth(peer, case, prefix, messages)
        ask(peer, peer.plain_client, "delete", case, prefix)
        # Deleting is no part of the next measure.
        await_quiet(peer)


def count_max(case):
    return min(_COUNT_MAX, _BYTES_MAX // case.size)
