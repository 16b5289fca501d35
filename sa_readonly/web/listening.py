"""Listening to the client of a request that is held under ASGI: it may go away."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..hold.queue import Queue
    from ..hold.ticket import Ticket

__all__ = ["Listening"]

_LISTENED = 1 << 20
"""How many bytes of a held request's body are kept. Of a longer one, it is not noticed any more
that the client goes away, as it is not read on."""

Message = MutableMapping[str, Any]


class Listening:
    """Listens to one client, and keeps what it sends for the application.

    :param receive: the server's.
    """

    def __init__(
        self, receive: Callable[[], Awaitable[Message]], ticket: Ticket, queue: Queue
    ) -> None:
        self._receive = receive
        self._ticket = ticket
        self._queue = queue
        self._kept: deque[Message] = deque()
        self.start: Callable[[Callable[[], Coroutine[Any, Any, None]]], object] = self._start
        """Starts a task: that of a nursery, under trio."""
        self._task: asyncio.Task[None] | None = None
        self._passed_on = False

    def begin(self) -> None:
        """Listen from now on: the ticket is given up if the client goes away."""
        self.start(self._listen)

    def _start(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._task = asyncio.ensure_future(function())
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _listen(self) -> None:
        size = 0
        while size < _LISTENED and not self._passed_on:
            message = await self._receive()
            self._kept.append(message)
            if message["type"] == "http.disconnect":
                self._queue.give_up(self._ticket)
                return
            size += len(message.get("body", b""))

    async def receive(self) -> Message:
        """Return the next message to the application: what was sent meanwhile comes first."""
        self._passed_on = True
        if not self._kept and self._task is not None and not self._task.done():
            await asyncio.shield(self._task)  # the one message that it waits for
        return self._kept.popleft() if self._kept else await self._receive()

    def end(self) -> None:
        """Listen no more."""
        if self._task is not None:
            self._task.cancel()
