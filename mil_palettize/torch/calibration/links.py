"""Connections between a walk and the workers of an executor, which call back and answer until they are let go.

Whoever knows the key that travels with a task is believed: the same trust that an executor asks for. Nothing is
listened to any more once the workers are there.
"""

from __future__ import annotations

import os
import pickle
import socket
import struct
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, answer_challenge, deliver_challenge
from typing import Any

_FIRST, _NEXT = 60.0, 3.0  # seconds that the first worker is waited for, and each further one
_HANDSHAKE = 5  # seconds
_POLL = 0.05
_LOOPBACK = "127.0.0.1"


class LostError(Exception):
    """A worker that does not answer, or answered with an error."""


@dataclass(frozen=True)
class Invitation:
    """Where a worker calls back. ``hosts``: names of the machine, to be tried in order; ``number``: one of its own, as
    there are executors that carry out equal tasks once."""

    hosts: tuple[str, ...]
    machine: str
    port: int
    key: bytes
    number: int = 0

    def accept(self) -> Connection | None:
        """Call back; None where nobody waits any more."""
        hosts = (_LOOPBACK,) if self.machine == socket.gethostname() else self.hosts
        for host in hosts:
            with suppress(OSError, EOFError, AuthenticationError):
                return Client((host, self.port), family="AF_INET", authkey=self.key)
        return None


class Link:
    """To one worker. A request is answered before the next one is made."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.lost = False

    def ask(self, *request: Any) -> None:
        """Raises nothing: who is lost does not answer."""
        try:
            self._connection.send_bytes(pickle.dumps(request, pickle.HIGHEST_PROTOCOL))
        except OSError:
            self.lost = True

    def answer(self) -> Any:
        """Of the last request. Raises LostError."""
        if self.lost:
            raise LostError("the worker is gone")
        try:
            done, found = pickle.loads(self._connection.recv_bytes())
        except (OSError, EOFError, pickle.UnpicklingError, AttributeError, ImportError) as error:
            self.lost = True
            raise LostError(f"the worker is gone ({type(error).__name__})") from error
        if not done:
            self.close()
            raise LostError(found)
        return found

    def close(self) -> None:
        self.lost = True
        self._connection.close()


def serve(connection: Connection, carry_out: Callable[..., Any]) -> None:
    """The worker's side: answer every request until the other side hangs up. An error is answered, and ends it."""
    with connection, suppress(OSError, EOFError):
        while True:
            request = pickle.loads(connection.recv_bytes())
            try:
                found = True, carry_out(*request)
            except Exception as error:
                found = False, f"{type(error).__name__}: {error}"
            connection.send_bytes(pickle.dumps(found, pickle.HIGHEST_PROTOCOL))
            if not found[0]:
                return


def links_to(executor: Executor, count: int, task: Callable[[Invitation], object]) -> tuple[list[Link], str]:
    """Up to ``count`` workers that carry out ``task``, which accepts the invitation; as many as come within some
    seconds, and why the others did not, "" where nothing is known. What has not begun is taken back."""
    local = isinstance(executor, ThreadPoolExecutor | ProcessPoolExecutor)
    futures: list[Future[object]] = []
    links: list[Link] = []
    with socket.create_server((_LOOPBACK if local else "", 0)) as server:
        server.settimeout(_POLL)
        names = (socket.gethostname(), socket.getfqdn()) if not local else ()
        invitation = Invitation(names, socket.gethostname(), server.getsockname()[1], os.urandom(32))
        try:
            why = _submitted(executor, task, [replace(invitation, number=i) for i in range(count)], futures)
            begun = time.monotonic()
            deadline = begun + _FIRST
            while len(links) < len(futures) and time.monotonic() < deadline and not all(f.done() for f in futures):
                link = _called_back(server, invitation.key)
                if link is not None:
                    links.append(link)
                    deadline = time.monotonic() + max(_NEXT, time.monotonic() - begun)  # all may have to import
        finally:
            for future in futures:
                with suppress(Exception):  # of an executor that is broken
                    future.cancel()
    failed = [f for f in futures if f.done() and not f.cancelled() and f.exception() is not None]
    return links, why or (repr(failed[0].exception()) if failed else "")


def _submitted(
    executor: Executor, task: Callable[[Invitation], object], invitations: Sequence[Invitation], futures: list[Any]
) -> str:
    """Add a future for each of ``invitations``, and say why there is none for the others."""
    for invitation in invitations:
        try:
            futures.append(executor.submit(task, invitation))
        except Exception as error:
            return repr(error)
    return ""


def _called_back(server: socket.socket, key: bytes) -> Link | None:
    """Whoever calls and knows the key; None if nobody does for a moment."""
    try:
        called, _ = server.accept()
    except TimeoutError:
        return None
    called.setblocking(True)
    called.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _HANDSHAKE, 0))
    connection = Connection(os.dup(called.fileno()))
    try:
        deliver_challenge(connection, key)
        answer_challenge(connection, key)
        called.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 0))
    except (OSError, EOFError, AuthenticationError):
        connection.close()
        return None
    finally:
        called.close()
    return Link(connection)
