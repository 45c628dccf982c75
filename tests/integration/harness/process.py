"""One server process whose output is kept."""

import ctypes
import os
import signal
import subprocess
import threading

from .wait import await_until


_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def end_with_parent():
    """Runs in a new child: has it killed should the test process be killed before it cleans up."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class ServerProcess:
    """Runs a server, keeps what it prints, and lets a test wait for a line of it.

    Two threads drain the pipes for as long as the process lives, so it never blocks on them.
    """

    def __init__(self, command, env=None, cwd=None):
        self._lines = []
        self._log = []
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True,
            preexec_fn=end_with_parent)
        self._readers = [
            threading.Thread(target=self._drain, args=(self._process.stdout, self._lines), daemon=True),
            threading.Thread(target=self._drain, args=(self._process.stderr, self._log), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self):
        return self._process.pid

    def running(self):
        return self._process.poll() is None

    def exit_status(self):
        return self._process.poll()

    def await_line(self, matches, timeout_s):
        """Returns the first line on stdout for which `matches` answers something true."""
        def ended_or_found():
            for line in self._lines:
                if matches(line):
                    return line
            if not self.running() and not self._readers[0].is_alive():
                raise AssertionError(
                    f"the server ended with status {self._process.returncode} before it was ready:\n"
                    + self.output())
            return None
        try:
            return await_until(ended_or_found, timeout_s, "the server to be ready")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output()}") from None

    def stdout_lines(self):
        return list(self._lines)

    def log_lines(self):
        return list(self._log)

    def output(self):
        return "".join(self._lines + self._log)

    def signal(self, number):
        os.kill(self._process.pid, number)

    def kill(self):
        """SIGKILL, as a power cut would come: nothing is said before."""
        if self.running():
            self._process.kill()
        self._process.wait()

    def stop(self, timeout_s=30.0):
        """SIGTERM; returns the exit status, or kills the process and fails when it does not end."""
        if self.running():
            self.signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"the server did not end within {timeout_s:g} s of SIGTERM") from None

    def _drain(self, pipe, lines):
        for line in pipe:
            with self._changed:
                lines.append(line)
                self._changed.notify_all()
        pipe.close()


def children_of(pid):
    """Process ids of the children of `pid`, from /proc."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(entry))
    return sorted(found)


def descendants_of(pid):
    found = []
    for child in children_of(pid):
        found.append(child)
        found.extend(descendants_of(child))
    return found


def command_of(pid):
    """The name of a process's program, empty when it is gone."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


def alive(pid):
    """Whether `pid` runs; a zombie that waits for its parent does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False
