"""A run that is killed at a system call: its parent sees every one before it is made (``ptrace``, Linux).

Numbers of system calls are those of the kernel's tables; where another machine or a sandbox does not allow that,
:func:`can_trace` is False, and kills happen at Python's own operations on files.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

_TRACE_ME, _SYSCALL, _SET_OPTIONS, _SYSCALL_INFO = 0, 24, 0x4200, 0x420E
_OPTIONS = 0x1 | 0x8 | 0x100000  # system calls told apart from signals, threads followed, killed with the tracer
_ENTRY = 1
_WALL = 0x40000000
_CLONE_FILE = 0x40049409  # ioctl FICLONE
_ANY = -1
# Number -> name, and which argument holds the flags of one that opens a file.
_CALLS = {
    "x86_64": {
        1: "write", 18: "pwrite64", 20: "writev", 296: "pwritev", 328: "pwritev2", 40: "sendfile",
        326: "copy_file_range", 76: "truncate", 77: "ftruncate", 285: "fallocate",
        82: "rename", 264: "renameat", 316: "renameat2", 83: "mkdir",
        258: "mkdirat", 84: "rmdir", 86: "link", 265: "linkat", 88: "symlink", 266: "symlinkat", 87: "unlink",
        263: "unlinkat", 90: "chmod", 91: "fchmod", 268: "fchmodat", 452: "fchmodat2", 74: "fsync", 75: "fdatasync",
        277: "sync_file_range", 280: "utimensat", 2: "open", 85: "creat", 257: "openat", 16: "ioctl",
    },
    "aarch64": {
        64: "write", 68: "pwrite64", 66: "writev", 70: "pwritev", 287: "pwritev2", 71: "sendfile",
        285: "copy_file_range", 45: "truncate", 46: "ftruncate", 47: "fallocate",
        38: "renameat", 276: "renameat2", 34: "mkdirat", 37: "linkat",
        36: "symlinkat", 35: "unlinkat", 52: "fchmod", 53: "fchmodat", 452: "fchmodat2", 82: "fsync", 83: "fdatasync",
        84: "sync_file_range", 88: "utimensat", 56: "openat", 29: "ioctl",
    },
}  # fmt: skip
_FLAGS = {"open": 1, "openat": 2}


class _Info(ctypes.Structure):
    """``struct ptrace_syscall_info`` of a system call that is about to be made."""

    _fields_ = (
        ("op", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 3),
        ("arch", ctypes.c_uint32),
        ("instruction", ctypes.c_uint64),
        ("stack", ctypes.c_uint64),
        ("number", ctypes.c_uint64),
        ("arguments", ctypes.c_uint64 * 6),
    )


@dataclass(frozen=True)
class Traced:
    """How a run ended, as ``os.waitstatus_to_exitcode``, and the system calls it made by which a disk changes."""

    status: int
    calls: tuple[str, ...]


@cache
def can_trace() -> bool:
    """Whether system calls can be seen here."""
    if sys.platform != "linux" or platform.machine() not in _CALLS:
        return False
    try:
        return "mkdir" in traced(lambda: os.mkdir("/proc/nowhere"), _ANY).calls[0]
    except (OSError, IndexError):
        return False


def traced(run: Callable[[], object], fatal: int) -> Traced:
    """``run`` in a child, which is killed in place of change number ``fatal`` (-1: never). Exit code 1 of one that
    fails. Raises OSError where tracing is refused."""
    child = os.fork()
    if child == 0:
        try:
            _ptrace(_TRACE_ME, 0, 0, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            run()
            os._exit(0)
        finally:
            os._exit(1)
    if not os.WIFSTOPPED(os.waitpid(child, 0)[1]):
        raise OSError("the child cannot be traced")
    _ptrace(_SET_OPTIONS, child, 0, _OPTIONS)
    _ptrace(_SYSCALL, child, 0, 0)
    return _followed(child, fatal)


def _followed(child: int, fatal: int) -> Traced:
    """Until the child has ended; its threads are followed as well."""
    calls: list[str] = []
    while True:
        thread, status = os.waitpid(-1, _WALL)
        if not os.WIFSTOPPED(status):
            if thread == child:
                return Traced(os.waitstatus_to_exitcode(status), tuple(calls))
            continue
        stopped_by = os.WSTOPSIG(status)
        if stopped_by == signal.SIGTRAP | 0x80:
            change = _change(thread)
            if change and len(calls) == fatal:
                os.kill(child, signal.SIGKILL)
                continue
            calls += [change] if change else []
        told = 0 if stopped_by in (signal.SIGTRAP | 0x80, signal.SIGTRAP, signal.SIGSTOP) else stopped_by
        _ptrace(_SYSCALL, thread, 0, told, gone=True)


def _change(thread: int) -> str:
    """The name of the system call that a thread is about to make, "" where no disk changes by it."""
    info = _Info()
    _ptrace(_SYSCALL_INFO, thread, ctypes.sizeof(info), ctypes.addressof(info), gone=True)
    name = _CALLS[platform.machine()].get(info.number, "") if info.op == _ENTRY else ""
    if name in _FLAGS:
        return name if info.arguments[_FLAGS[name]] & (os.O_CREAT | os.O_TRUNC) else ""
    if name == "ioctl":
        return name if info.arguments[1] == _CLONE_FILE else ""
    return "" if name == "write" and info.arguments[0] <= 2 else name


def _ptrace(request: int, thread: int, address: int, data: int, *, gone: bool = False) -> None:
    """``gone``: a thread that has ended meanwhile is no error."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    libc.ptrace.restype = ctypes.c_long
    if libc.ptrace(request, thread, address, data) == -1 and not gone:
        raise OSError(ctypes.get_errno(), "ptrace")
