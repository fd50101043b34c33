"""The command as a process of its own."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from contextlib import suppress
from pathlib import Path

from command_line import COMMAND, IN, OUT, Run, environment
from packages import differences


def test_bar_and_table_at_a_terminal(run: Run, tmp_path: Path) -> None:
    """What a person sees: a bar of weights and bytes, then the table, and nothing of what coremltools prints."""
    reader, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, "palettize", IN, OUT, "--nbits", "4"],
        cwd=tmp_path,
        env=environment(),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    shown = b""
    with suppress(OSError):  # what Linux says when the other end is closed
        while some := os.read(reader, 1 << 16):
            shown += some
    os.close(reader)
    assert process.wait() == 0
    bar, _, table = shown.decode().partition(f"{IN} → {OUT}")
    assert re.search(r"0/5 weights +0%\|.*\| 0\.00B/35\.4kB", bar)
    assert "\n" not in bar  # it is wiped, and nothing was printed before it
    assert not set(bar.rpartition("\r")[0].rpartition("\r")[2].strip())
    assert "5 constants palettized" in table
    assert all(len(line) <= 80 for line in table.splitlines())


def test_closed_streams(run: Run, tmp_path: Path) -> None:
    """Files of the package must not get the numbers of streams that others write to."""
    command = 'exec "$@" <&- >&- 2>&-'
    arguments = ["palettize", IN, OUT, "--nbits", "4"]
    process = subprocess.run(["sh", "-c", command, "sh", *COMMAND, *arguments], cwd=tmp_path, env=environment())
    assert process.returncode == 0
    assert run("palettize", IN, "new.mlpackage", "--nbits", "4", "--quiet")[0] == 0
    assert differences(tmp_path / OUT, tmp_path / "new.mlpackage") == []
