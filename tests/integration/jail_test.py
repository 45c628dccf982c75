"""The executor's jail as a started broker makes it: read from /proc, and by what happens when an
executor ends in it."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import harness
from harness.broker import Sluiced
from harness.functions import BUSYBOX, PERSISTENT, FunctionTestCase
from harness.process import alive

JAIL_USER = "65530"
ORDINARY_USER = 12345
NAMESPACES = ("mnt", "net", "ipc", "uts", "cgroup")


def status_of(pid):
    """The lines of /proc/PID/status."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return {key: " ".join(value.split())
            for key, value in (line.split(":", 1) for line in text.splitlines())}


def links(pid):
    """What each open descriptor is, {number: text}."""
    found = {}
    for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            found[int(entry.name)] = os.readlink(entry)
        except FileNotFoundError:
            pass
    return found


def namespace(pid, name):
    return os.readlink(f"/proc/{pid}/ns/{name}")


def cgroups_of(pid):
    """{controllers: path} from /proc/PID/cgroup."""
    lines = pathlib.Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines()
    return {line.split(":", 2)[1]: line.split(":", 2)[2] for line in lines}


def cgroup_directories(name):
    """Where in the file system control groups of this name lie."""
    return [path for path in pathlib.Path("/sys/fs/cgroup").rglob(name) if path.is_dir()]


class JailTestCase(FunctionTestCase):
    def executor(self, broker=None):
        """The pid of the one executor, once it has said that it is there: it is in its jail then."""
        broker = broker or self.broker
        admin = harness.admin.Admin(broker.admin_url)
        harness.await_until(
            lambda: admin.get("overview")["executor"]["state"] in ("running", "unavailable"),
            20, "an executor to be up")
        pids = broker.executor_pids()
        self.assertEqual(len(pids), 1, pids)
        return pids[0]


class Jailed(JailTestCase):
    """Of a broker that root started; root runs these tests wherever /dev/kvm is root's."""

    def setUp(self):
        super().setUp()
        self.assertEqual(os.geteuid(), 0, "these tests have to be run by root")
        # A function that was called: with VMs, threads and timers, as the executor mostly is.
        self.assertEqual(self.admin.invoke(self.deploy("echo"), b"m")["output"], b"m")
        self.pid = self.executor()

    def test_it_is_nobody(self):
        status = status_of(self.pid)
        self.assertEqual(status["Uid"], " ".join([JAIL_USER] * 4))
        self.assertEqual(status["Gid"], " ".join([JAIL_USER] * 4))
        self.assertEqual(status["Groups"], "")
        for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            self.assertEqual(int(status[capabilities], 16), 0, capabilities)
        self.assertEqual(status["NoNewPrivs"], "1")

    def test_each_thread_is_under_the_filter(self):
        threads = list(pathlib.Path(f"/proc/{self.pid}/task").iterdir())
        self.assertGreater(len(threads), 1)
        for thread in threads:
            self.assertEqual(status_of(f"{self.pid}/task/{thread.name}")["Seccomp"], "2", thread)
            self.assertEqual(status_of(f"{self.pid}/task/{thread.name}")["NoNewPrivs"], "1", thread)

    def test_it_sees_no_file_and_no_network(self):
        for name in NAMESPACES:
            self.assertNotEqual(namespace(self.pid, name), namespace(self.broker.pid, name), name)
        self.assertEqual(os.listdir(f"/proc/{self.pid}/root/"), [])
        self.assertEqual(os.listdir(f"/proc/{self.pid}/cwd/"), [])
        mounts = pathlib.Path(f"/proc/{self.pid}/mountinfo").read_text(encoding="utf-8")
        self.assertRegex(mounts, r"\A\S+ \S+ \S+ / / ro,nosuid,nodev,noexec\S* - tmpfs .*\n\Z")
        devices = pathlib.Path(f"/proc/{self.pid}/net/dev").read_text(encoding="utf-8")
        self.assertEqual(re.findall(r"^\s*(\w+):", devices, re.M), ["lo"])
        routes = pathlib.Path(f"/proc/{self.pid}/net/fib_trie").read_text(encoding="utf-8")
        self.assertNotIn("LOCAL", routes)  # 127.0.0.1 is not there either

    def test_what_it_holds_is_known(self):
        held = links(self.pid)
        self.assertNotEqual(held[2], os.readlink(f"/proc/{self.broker.pid}/fd/2"))
        self.assertEqual(held.pop(0), "/dev/null")
        self.assertRegex(held[1], r"^pipe:")
        self.assertEqual(held.pop(1), held.pop(2))
        self.assertRegex(held.pop(3), r"^socket:")
        self.assertEqual(held.pop(4), "/dev/kvm")
        for number, text in held.items():
            self.assertRegex(text, r"^(anon_inode:\[?kvm-(vm|vcpu:0)\]?|/memfd:sluice-\w+ \(deleted\))$",
                             number)

    def test_its_environment_is_empty(self):
        self.assertEqual(pathlib.Path(f"/proc/{self.pid}/environ").read_bytes(), b"")

    def test_it_can_not_be_looked_into(self):
        # Not dumpable: what is under /proc is root's.
        self.assertEqual(os.stat(f"/proc/{self.pid}/mem").st_uid, 0)
        limits = pathlib.Path(f"/proc/{self.pid}/limits").read_text(encoding="utf-8")
        self.assertRegex(limits, r"Max core file size +0 +0 ")
        self.assertNotRegex(limits, r"Max (processes|file size) +unlimited")

    def test_its_control_group_limits_it_or_the_log_says_why_not(self):
        name = f"sluice-executor-{self.broker.pid}"
        own = [path for path in cgroups_of(self.pid).values() if path.endswith("/" + name)]
        if "have no limit by a control group" in self.broker.output():
            return
        self.assertTrue(own, cgroups_of(self.pid))
        limits = {}
        for directory in cgroup_directories(name):
            self.assertIn(str(self.pid), (directory / "cgroup.procs").read_text().split())
            for file in ("memory.limit_in_bytes", "memory.max", "pids.max"):
                if (directory / file).exists():
                    limits[file.split(".")[0]] = int((directory / file).read_text())
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        self.assertEqual(set(limits), {"memory", "pids"})
        self.assertLess(limits["memory"], machine)
        self.assertGreater(limits["memory"], machine // 2)
        self.assertEqual(limits["pids"], 10_000)

    def test_nothing_is_said_of_a_whole_jail(self):
        self.assertNotIn("the executor says", self.broker.output())


class Leaving(JailTestCase):
    own_broker = True

    def test_control_groups_go_with_the_broker(self):
        self.executor()
        name = f"sluice-executor-{self.broker.pid}"
        self.broker.stop()
        self.assertEqual(cgroup_directories(name), [])

    def test_a_killed_brokers_control_groups_go_at_the_next_start(self):
        self.executor()
        name = f"sluice-executor-{self.broker.pid}"
        self.broker.kill()
        self.broker.start()
        self.executor()
        self.assertEqual(cgroup_directories(name), [])

    def test_a_broker_that_is_killed_takes_the_executor_along(self):
        pid = self.executor()
        # In a call that would not end by itself for a minute.
        function = self.deploy("loop", timeout_ms=60000)
        thread = threading.Thread(target=self.invoke_quietly, args=(function,))
        thread.start()
        harness.await_until(lambda: self.admin.get("overview")["executor"]["calls"] > 0, 20, "the call")
        os.kill(self.broker.pid, signal.SIGKILL)
        harness.await_until(lambda: not alive(pid), 10, "the executor to end")
        thread.join(30)

    def invoke_quietly(self, function):
        try:
            self.admin.invoke(function, b"")
        except Exception:  # pylint: disable=broad-except
            pass  # The broker is killed meanwhile.

    def test_calls_of_an_executor_that_its_jail_ended_are_made_again_once(self):
        """SIGSYS, as the filter sends it: the messages' attempts are not used up by it."""
        function = self.deploy(BUSYBOX, args=["sha256sum"])
        slow = self.deploy("loop", timeout_ms=2000)
        queue, output, _ = self.subscribe(function, concurrency=4)
        slow_queue, _, slow_subscription = self.subscribe(slow, max_attempts=1, concurrency=2)
        channel = self.channel()
        channel.confirm_delivery()
        for _ in range(2):
            channel.basic_publish("", slow_queue, b"m", PERSISTENT)
        self.await_counter(slow_subscription, lambda s: s["in_flight"] >= 1, "a call in flight")
        before = self.executor()
        os.kill(before, signal.SIGSYS)
        for number in range(50):
            channel.basic_publish("", queue, b"%d" % number, PERSISTENT)
        self.assertEqual(len(self.collect(channel, output, 50)), 50)
        for _, properties, _ in self.dead_letters(channel, slow_queue, 2, timeout_s=60):
            self.assertEqual(properties.headers["x-sluice-outcome"], "timeout")
        self.assertEqual(self.admin.get("overview")["executor"]["restarts"], 1)
        self.assertIn("signal 31 (it tried what its jail forbids)", self.broker.output())
        self.assert_serving()


class Talkative(harness.BrokerTestCase):
    """What an executor that somebody else has taken over can do to the broker's log."""

    own_broker = True

    def make_broker(self):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="sluice-talkative-"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        program = folder / "executor"
        program.write_text("#!/bin/sh\n"
                           "printf '\\033[2Jfirst\\tline\\r\\377\\n' >&2\n"
                           "head -c 3000 /dev/zero | tr '\\0' x; echo\n"
                           "echo last words\n"
                           "exec yes flood\n")
        program.chmod(0o755)
        broker = Sluiced(["--executor", str(program)])
        broker.start()
        return broker

    def said(self):
        return re.findall(r"the executor says: (.*)", self.broker.output())

    def test_lines_are_cleaned_cut_and_slowed_down(self):
        said = harness.await_until(lambda: (lines := self.said())[60:] and lines, 10, "60 lines")
        self.assertEqual(said[:6], ["?[2Jfirst?line??", "x" * 1024, "x" * 1024, "x" * 952,
                                    "last words", "flood"])
        start = time.monotonic()
        first = len(self.said())
        self.assert_serving()
        harness.await_until(lambda: len(self.said()) >= first + 100, 10, "100 more")
        # 50 a second; the second that had begun counts.
        self.assertGreater(time.monotonic() - start, 0.9)
        self.assertLess(len(self.said()), 100 + 50 * (time.monotonic() - start) + 100)
        self.assert_serving()


class StartedByAUser(JailTestCase):
    """A broker of an ordinary user: less of a jail, and it says so."""

    own_broker = True

    def make_broker(self):
        broker = UsersSluiced()
        broker.start()
        return broker

    def test_what_is_missing_is_said_in_one_line(self):
        pid = self.executor()
        status = status_of(pid)
        self.assertEqual(status["Uid"], " ".join([str(ORDINARY_USER)] * 4))
        self.assertEqual((status["NoNewPrivs"], status["Seccomp"], int(status["CapEff"], 16)),
                         ("1", "2", 0))
        said = harness.await_until(
            lambda: re.findall(r"the executor says: (.*)", self.broker.output()), 10, "the line")
        self.assertEqual(len(said), 1, said)
        self.assertTrue(said[0].startswith("the jail is weaker than it can be: "), said)
        self.assertIn("no user of its own (not started by root)", said[0])
        if namespace(pid, "user") == namespace(self.broker.pid, "user"):
            self.assertIn("no namespaces and no empty root directory", said[0])
        else:
            self.assertEqual(os.listdir(f"/proc/{pid}/root/"), [])
            for name in NAMESPACES:
                self.assertNotEqual(namespace(pid, name), namespace(self.broker.pid, name), name)

    def test_missing_limits_are_said(self):
        self.executor()
        self.assertIn("have no limit by a control group", self.broker.output())


class UsersSluiced(Sluiced):
    """Runs as an ordinary user, from a copy that such a user can reach."""

    def __init__(self):
        super().__init__()
        self._programs = pathlib.Path(tempfile.mkdtemp(prefix="sluice-programs-"))
        self._programs.chmod(0o755)
        built = pathlib.Path(super().binary())
        for program in (built, built.parents[1] / "executor" / "sluice-executor"):
            shutil.copy(program, self._programs)
        os.chown(self._folder, ORDINARY_USER, ORDINARY_USER)

    def binary(self):
        return str(self._programs / "sluiced")

    def discard(self):
        super().discard()
        shutil.rmtree(self._programs, ignore_errors=True)

    def _launch(self, command, env=None):
        super()._launch(["setpriv", f"--reuid={ORDINARY_USER}", f"--regid={ORDINARY_USER}",
                         "--clear-groups", *command], env)


class CommandLine(JailTestCase):
    def executable(self):
        return str(harness.broker.build_dir() / "executor" / "sluice-executor")

    def run_executor(self, *arguments):
        ours, theirs = harness.wire.socket.socketpair()
        with ours, theirs:
            process = subprocess.Popen(
                [self.executable(), "--fd", str(theirs.fileno()), *arguments],
                pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True)
            theirs.close()
            ours.settimeout(20)
            ours.recv(4)  # the first word, or its end
            status = status_of(process.pid)
            ours.close()
            return process.communicate(timeout=20)[1], process.returncode, status

    def test_without_a_jail_it_says_so_loudly(self):
        said, ended, status = self.run_executor("--no-jail")
        self.assertIn("NO JAIL (--no-jail)", said)
        self.assertEqual((ended, status["Seccomp"]), (0, "0"))

    def test_another_user_can_be_asked_for(self):
        said, ended, status = self.run_executor("--user", "65000")
        self.assertEqual((said, ended), ("", 0))
        self.assertEqual(status["Uid"], " ".join(["65000"] * 4))

    def test_what_can_not_be_is_refused(self):
        for arguments in (["--user", "0"], ["--user", "65534"], ["--sandbox", "none"],
                          ["--memory-budget", "-1"], ["--workers", "257"]):
            done = subprocess.run([self.executable(), *arguments], capture_output=True, text=True,
                                  timeout=20, check=False)
            self.assertNotEqual(done.returncode, 0, arguments)
            self.assertIn(arguments[0], done.stdout + done.stderr)


if __name__ == "__main__":
    harness.main()
