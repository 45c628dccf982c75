"""A program that speaks the function protocol, at the other end of a socket pair."""

import os
import resource
import socket
import subprocess
import tempfile
import time

from frames import Answer

TIMEOUT_S = 60
# Without what would change what is tested.
CLEAN = {name: value for name, value in os.environ.items()
         if not name.startswith("SLUICE_") and name != "PYTHONUNBUFFERED"}


class Program:
    """Runs `command` with SLUICE_FD; its stdout and stderr go to files.

    With SOCK_SEQPACKET a frame arrives by one read or not at all, and the answer by one write.
    `memory_bytes` limits its address space.
    """

    def __init__(self, command, env=None, kind=socket.SOCK_STREAM, memory_bytes=None):
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, kind)
        self._socket.settimeout(TIMEOUT_S)
        self._stdout = tempfile.TemporaryFile()
        self._stderr = tempfile.TemporaryFile()
        self.descriptor = theirs.fileno()

        def limit():
            if memory_bytes is not None:
                resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))

        with theirs:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=self._stdout, stderr=self._stderr,
                pass_fds=[theirs.fileno()], preexec_fn=limit,
                env={**CLEAN, **(env or {}), "SLUICE_FD": str(theirs.fileno())})

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self._socket.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._stdout.close()
        self._stderr.close()

    def send(self, data):
        self._socket.sendall(data)

    def receive(self):
        size = int.from_bytes(self._exactly(4), "little")
        return Answer(self._exactly(size))

    def call(self, frame):
        self.send(frame)
        return self.receive()

    def packet_call(self, frame):
        """A call whose answer comes as one packet."""
        self._socket.send(frame)
        packet = self._socket.recv(1 << 20)
        if len(packet) != 4 + int.from_bytes(packet[:4], "little"):
            raise AssertionError(f"a packet of {len(packet)} bytes is no frame: {packet[:8].hex()}; "
                                 f"{self.stderr()!r}")
        return Answer(packet[4:])

    def await_read(self):
        """Until the program waits for its next frame: the only system call it can be in for long."""
        deadline = time.monotonic() + TIMEOUT_S
        path = f"/proc/{self.process.pid}/syscall"
        while time.monotonic() < deadline:
            with open(path, encoding="ascii") as file:
                number, *arguments = file.read().split()
            if number == "0" and int(arguments[0], 16) == self.descriptor:
                return
            time.sleep(0.001)
        raise AssertionError(f"the program does not read: {number} {arguments}; {self.stderr()!r}")

    def writable_pages(self):
        """Address -> content of each writable page."""
        pages = {}
        with open(f"/proc/{self.process.pid}/maps", encoding="ascii") as maps, \
                open(f"/proc/{self.process.pid}/mem", "rb", 0) as memory:
            for line in maps:
                span, permissions = line.split()[:2]
                if permissions[1] == "w":
                    start, end = (int(text, 16) for text in span.split("-"))
                    content = os.pread(memory.fileno(), end - start, start)
                    for at in range(0, len(content), 4096):
                        pages[start + at] = content[at:at + 4096]
        return pages

    def end_input(self):
        """No more comes; what the program still writes can be read."""
        self._socket.shutdown(socket.SHUT_WR)

    def rest(self):
        """What is left to read, once the program has closed its end."""
        found = b""
        while True:
            try:
                got = self._socket.recv(65536)
            except ConnectionResetError:  # it ended without reading all that was sent
                return found
            if not got:
                return found
            found += got

    def wait(self):
        return self.process.wait(TIMEOUT_S)

    def stdout(self):
        return self._read(self._stdout)

    def stderr(self):
        return self._read(self._stderr)

    def resident_bytes(self):
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def _exactly(self, size):
        found = bytearray()
        while len(found) < size:
            got = self._socket.recv(min(size - len(found), 1 << 20))
            if not got:
                raise AssertionError(f"the program ended with status {self.wait()} after {len(found)} "
                                     f"of {size} bytes: {self.stderr()!r}")
            found += got
        return bytes(found)

    @staticmethod
    def _read(file):
        # Its own offset: the program's writes share the other one.
        return os.pread(file.fileno(), 1 << 20, 0)


def run_locally(command, body, env=None):
    """Runs a program as a person in a shell does, without SLUICE_FD."""
    return subprocess.run(command, input=body, env={**CLEAN, **(env or {})}, timeout=TIMEOUT_S,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
