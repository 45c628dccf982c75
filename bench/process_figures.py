"""What the kernel says of a process, from /proc."""

import os
import pathlib


def cpu_seconds(pid):
    """User and system time so far, of all threads."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_kib(pid, what="VmRSS"):
    """Resident memory (VmRSS), or its peak (VmHWM)."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1])
    raise SystemExit(f"no {what} of process {pid}")
