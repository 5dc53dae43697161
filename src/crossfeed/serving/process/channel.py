"""How the process in charge and its workers talk: each may ask the other, in JSON over a pipe."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["Channel", "ChannelClosed"]

Facts = dict[str, Any]  # Any: JSON
"""What a question or its answer holds; names are those of the one who understands them."""


class ChannelClosed(Exception):
    """The other side has gone, or did not answer in time."""


class Channel:
    """One end of a pipe; questions are answered in threads of their own, several at a time."""

    def __init__(
        self,
        pipe: Connection,
        answer: Callable[[str, Facts], Facts],
        *,
        closed: Callable[[], None] = lambda: None,
    ) -> None:
        """Make ready; nothing is heard before `start`.

        Args:
            pipe: this end.
            answer: answers a question of the other side.
            closed: is called once the other side has gone.
        """
        self._pipe, self._answer, self._closed = pipe, answer, closed
        self._numbers = itertools.count()
        self._gate = threading.Lock()
        self._waiting: dict[int, _Reply] = {}
        self._reader = threading.Thread(target=self._listen, name="channel", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._reader.start()

    def ask(self, what: str, *, seconds: float, **facts: object) -> Facts:
        """Ask the other side; return its answer.

        Raises:
            ChannelClosed: it has gone, or did not answer in so many seconds.
        """
        number, reply = next(self._numbers), _Reply()
        self._waiting[number] = reply
        try:
            self._send({"ask": number, "what": what, **facts})
            if not reply.there.wait(seconds) or reply.facts is None:
                raise ChannelClosed(f"'{what}' was not answered")
            return reply.facts
        finally:
            self._waiting.pop(number, None)

    def tell(self, what: str, **facts: object) -> None:
        """Tell the other side something that it need not answer; if it has gone, nobody minds."""
        with contextlib.suppress(ChannelClosed):
            self._send({"what": what, **facts})

    def _send(self, message: Facts) -> None:
        try:
            with self._gate:
                self._pipe.send_bytes(json.dumps(message).encode())
        except OSError as error:
            raise ChannelClosed("the other side has gone") from error

    def _listen(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                self._hear(json.loads(self._pipe.recv_bytes()))
        for reply in list(self._waiting.values()):
            reply.there.set()
        self._closed()

    def _hear(self, message: Facts) -> None:
        if "reply" in message:
            reply = self._waiting.get(message.pop("reply"))
            if reply is not None:
                reply.facts = message
                reply.there.set()
            return
        threading.Thread(target=self._reply, args=(message,), daemon=True).start()

    def _reply(self, message: Facts) -> None:
        number = message.pop("ask", None)
        facts = self._answer(message.pop("what"), message)
        if number is not None:
            with contextlib.suppress(ChannelClosed):
                self._send({"reply": number, **facts})


class _Reply:
    """What somebody waits for."""

    def __init__(self) -> None:
        self.there = threading.Event()
        self.facts: Facts | None = None
