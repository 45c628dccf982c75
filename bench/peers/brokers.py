"""The brokers that are compared: how each server is started, and what drives it.

Every server runs on loopback, on ports that the kernel picks, in a temporary folder, with the
durability that it has by default.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "integration"))
# pylint: disable=wrong-import-position
from harness import RabbitMq, Sluiced, await_until, build_dir
from harness.broker import Broker
from harness.process import alive, descendants_of, end_with_parent


class NatsServer(Broker):
    """Debian's nats-server with JetStream in the data folder."""

    def start(self):
        binary = shutil.which("nats-server", path=os.environ.get("PATH", "") + ":/usr/sbin")
        if binary is None:
            raise SystemExit("nats-server is missing: run tools/setup --bench")
        self._launch([binary, "-a", self.host, "-p", "-1", "-js", "-sd", str(self.data_dir),
                      "--ports_file_dir", str(self._folder)])
        ports = self._folder / f"nats-server_{self.pid}.ports"

        def ready():
            if not self.running():
                raise AssertionError(f"nats-server has ended:\n{self.output()}")
            return "Server is ready" in self.output() and ports.exists() and ports.read_text()
        self.port = int(json.loads(await_until(ready, 30.0, "nats-server"))["nats"][0].rsplit(":")[-1])

    def kill(self):
        self._process.kill()

    def stop(self):
        self._process.stop()


class Peer:
    """One broker as it is compared. Two of them may share a server."""

    name = ""
    server_class = Broker
    # Of the load programs (bench/peers/meson.build) the one that a user would have written, and then
    # perhaps our own.
    clients = ("librabbitmq", "own")
    load_options = ()

    def __init__(self, server):
        self.server = server

    @property
    def plain_client(self):
        return self.clients[0]

    @property
    def quickest_client(self):
        return self.clients[-1]

    def cpu_s(self):
        """User and system time so far of all the broker's processes."""
        ticks = 0
        for pid in [self.server.pid, *descendants_of(self.server.pid)]:
            try:
                stat = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
            except OSError:
                continue
            fields = stat.rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def check_running(self):
        if not alive(self.server.pid):
            raise SystemExit(f"{self.name} has ended:\n{self.server.output()[-4000:]}")

    def version(self):
        raise NotImplementedError


class Sluice(Peer):
    """sluiced as it comes: fsync before each confirm."""

    name = "sluice"
    server_class = Sluiced

    def version(self):
        return output_of(self.server.binary(), "--version")


class TwoShards(Sluiced):
    def __init__(self):
        super().__init__(["--shards", "2"])


class SluiceTwoShards(Sluice):
    """The same on two threads; measured only where it is asked for."""

    name = "sluice-2-shards"
    server_class = TwoShards


class RabbitMqClassic(Peer):
    name = "rabbitmq-classic"
    server_class = RabbitMq
    load_options = ("--queue-type", "classic")

    def version(self):
        found = re.search(r"Starting RabbitMQ (\S+)", self.server.output())
        return found[1] if found else "unknown"


class RabbitMqQuorum(RabbitMqClassic):
    """A quorum queue of one replica."""

    name = "rabbitmq-quorum"
    load_options = ("--queue-type", "quorum")


class JetStream(Peer):
    """Streams in files that are synced every two minutes: nats-server's default."""

    name = "jetstream"
    server_class = NatsServer
    clients = ("nats",)

    def version(self):
        return output_of("/usr/sbin/nats-server", "--version").removeprefix("nats-server: ")


PEERS = {peer.name: peer for peer in (Sluice, SluiceTwoShards, RabbitMqClassic, RabbitMqQuorum,
                                      JetStream)}
DEFAULT_PEERS = [name for name in PEERS if name != SluiceTwoShards.name]


def output_of(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def load_program(client):
    program = build_dir() / "bench" / "peers" / f"load_{client}"
    if not program.exists():
        raise SystemExit(f"{program} is missing: run tools/setup --bench, then "
                         f"meson setup --reconfigure {build_dir()} and "
                         f"ninja -C {build_dir()} bench/peers/load_{client}")
    return program


class Brokers:
    """The named brokers, running; leaving the context ends them, however that comes about."""

    def __init__(self, names):
        self._servers = {}
        self._names = names
        self.peers = []

    def __enter__(self):
        try:
            for name in self._names:
                peer = PEERS[name]
                for client in peer.clients:
                    load_program(client)
                if peer.server_class not in self._servers:
                    server = self._servers[peer.server_class] = peer.server_class()
                    server.start()
                self.peers.append(peer(self._servers[peer.server_class]))
        except BaseException:
            self._discard()
            raise
        return self.peers

    def __exit__(self, kind, _error, _traceback):
        try:
            if kind is None:
                for server in self._servers.values():
                    server.stop()
        finally:
            self._discard()

    def _discard(self):
        for server in self._servers.values():
            server.discard()
