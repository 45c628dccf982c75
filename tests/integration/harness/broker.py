"""Starts the broker under test: sluiced as built, or a private RabbitMQ that referees the tests.

TEST_BROKER=rabbitmq runs every file that is about AMQP alone against RabbitMQ, so that what the
tests expect is what an established broker does. SLUICED names the sluiced to test.
"""

import atexit
import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from .process import ServerProcess, alive, command_of, descendants_of, end_with_parent
from .wait import await_until

SOURCE_ROOT = pathlib.Path(__file__).resolve().parents[3]
READY_LINE = re.compile(
    r"^sluiced ready: amqp (\S+):(\d+), admin (\S+):(\d+), data (.+)$")


def testing_rabbitmq():
    return os.environ.get("TEST_BROKER", "sluiced") == "rabbitmq"


def build_dir():
    """The build folder: MESON_BUILD_ROOT, which `meson test` sets through our meson.build."""
    return pathlib.Path(os.environ.get("MESON_BUILD_ROOT", SOURCE_ROOT / "build"))


def start_broker():
    """Starts the broker that TEST_BROKER names, on ports and in a folder of its own."""
    broker = RabbitMq() if testing_rabbitmq() else Sluiced()
    broker.start()
    return broker


# Brokers whose folder is still there; ended with the test process, however that ends.
_live = set()


def discard_all():
    for broker in list(_live):
        broker.discard()


def _end_on_sigterm(_number, _frame):
    # A test runner's timeout. unittest would take an exception for one test's failure and go on.
    discard_all()
    os._exit(128 + signal.SIGTERM)


atexit.register(discard_all)
signal.signal(signal.SIGTERM, _end_on_sigterm)


class Broker:
    """A broker process on a data folder that outlives it, until `discard`."""

    host = "127.0.0.1"
    port = 0

    def __init__(self):
        self._folder = pathlib.Path(tempfile.mkdtemp(prefix="sluice-test-"))
        _live.add(self)
        self._process = None
        self._earlier_output = []

    @property
    def pid(self):
        return self._process.pid

    @property
    def data_dir(self):
        return self._folder / "data"

    def running(self):
        return self._process is not None and self._process.running()

    def output(self):
        """Everything that was printed, over restarts."""
        now = self._process.output() if self._process else ""
        return "".join(self._earlier_output) + now

    def discard(self):
        """Ends what still runs and removes the data folder."""
        _live.discard(self)
        if self.running():
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def restart_after_kill(self):
        self.kill()
        self.start()

    def settle(self):
        """Returns when queues and exchanges that were declared so far survive SIGKILL.

        That is at once where declare-ok means durable, which is what Sluice promises.
        """

    def _launch(self, command, env=None):
        if self._process is not None:
            self._earlier_output.append(self._process.output())
        self._process = ServerProcess(command, env=env, cwd=self._folder)

    def kill(self):
        raise NotImplementedError

    def start(self):
        raise NotImplementedError


class Sluiced(Broker):
    """sluiced and, as its child, sluice-executor. Keeps its ports over a restart only by chance."""

    def __init__(self, arguments=()):
        super().__init__()
        self._arguments = list(arguments)
        self.admin_host = self.host
        self.admin_port = 0

    @staticmethod
    def binary():
        return os.environ.get("SLUICED", str(build_dir() / "broker" / "sluiced"))

    @property
    def admin_url(self):
        return f"http://{self.admin_host}:{self.admin_port}"

    def start(self):
        binary = self.binary()
        if not os.access(binary, os.X_OK):
            raise AssertionError(f"{binary} is missing: build it, or name another with SLUICED")
        self._launch([os.path.abspath(binary), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
                      "--data-dir", str(self.data_dir), *self._arguments])
        line = self._process.await_line(READY_LINE.match, timeout_s=60.0)
        match = READY_LINE.match(line.rstrip("\n"))
        self.host, self.port = match[1], int(match[2])
        self.admin_host, self.admin_port = match[3], int(match[4])
        assert pathlib.Path(match[5]).resolve() == self.data_dir.resolve(), line

    def kill(self):
        """SIGKILL to the broker alone; its executor has to notice by itself and end."""
        children = descendants_of(self.pid)
        self._process.kill()
        await_until(lambda: not any(alive(pid) for pid in children), 10.0,
                    lambda: "the killed broker's children to end: "
                            + ", ".join(f"{command_of(p)} ({p})" for p in children if alive(p)))

    def stop(self):
        """SIGTERM, which has to end it with status 0 and leave no child behind."""
        children = descendants_of(self.pid)
        status = self._process.stop()
        if status != 0:
            raise AssertionError(f"sluiced ended with status {status} after SIGTERM:\n"
                                 + self.output()[-8000:])
        await_until(lambda: not any(alive(pid) for pid in children), 10.0,
                    "the stopped broker's children to end")

    def signal(self, number):
        self._process.signal(number)

    def executor_pids(self):
        """The processes named sluice-executor under this broker."""
        # comm holds 15 characters.
        return [pid for pid in descendants_of(self.pid)
                if command_of(pid).startswith("sluice-executor"[:15]) and alive(pid)]


class RabbitMq(Broker):
    """Debian's RabbitMQ as a private process: own node name, ports, folders and epmd."""

    def __init__(self, settings=()):
        super().__init__()
        self._settings = list(settings)
        self._epmd = None
        self._server_pid = 0
        self._name = f"sluicetest{os.getpid()}x{id(self) & 0xffff}@localhost"
        self._epmd_port = free_port()
        self.port = free_port()
        self._dist_port = free_port()

    def start(self):
        home = self._folder / "home"
        home.mkdir(exist_ok=True)
        (self._folder / "enabled_plugins").write_text("[].\n")
        (self._folder / "rabbitmq.conf").write_text(
            "\n".join(["log.console = true", "log.console.level = info", "log.file = false",
                       *self._settings]) + "\n")
        env = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": self.host,
            "RABBITMQ_NODENAME": self._name,
            "RABBITMQ_NODE_IP_ADDRESS": self.host,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(self.data_dir),
            "RABBITMQ_LOG_BASE": str(self._folder / "log"),
            "RABBITMQ_PID_FILE": str(self._folder / "rabbitmq.pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "enabled_plugins"),
            "RABBITMQ_CONFIG_FILE": str(self._folder / "rabbitmq"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self._folder / "advanced"),
            "RABBITMQ_CONF_ENV_FILE": str(self._folder / "no-such-file"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self._folder / "generated"),
        }
        if self._epmd is None:
            self._epmd = subprocess.Popen(
                [shutil.which("epmd") or "/usr/bin/epmd", "-port", str(self._epmd_port),
                 "-address", self.host], env=env, cwd=self._folder, stdin=subprocess.DEVNULL,
                # Without it a starting server makes one of its own; so Ctrl-C must not reach it.
                start_new_session=True, preexec_fn=end_with_parent)
        self._launch(["/usr/lib/rabbitmq/bin/rabbitmq-server"], env=env)
        self._process.await_line(lambda line: "Server startup complete" in line, timeout_s=90.0)
        self._server_pid = int((self._folder / "rabbitmq.pid").read_text())

    def settle(self):
        # Its metadata store writes its log out every 3 s at the latest; no event tells of it.
        time.sleep(3.5)

    def kill(self):
        # The script and the server are one process group; while it starts nobody knows the server's pid.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        if self._server_pid:
            await_until(lambda: not alive(self._server_pid), 10.0, "RabbitMQ to be gone")
        self._process.kill()

    def stop(self):
        if self._server_pid and alive(self._server_pid):
            os.kill(self._server_pid, signal.SIGTERM)
            await_until(lambda: not alive(self._server_pid), 30.0, "RabbitMQ to stop")
        self._process.stop()

    def discard(self):
        super().discard()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()

    @property
    def pid(self):
        return self._server_pid


def free_port():
    """A port that was free a moment ago, for a server that can not choose one by itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
