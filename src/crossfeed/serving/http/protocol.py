"""The HTTP of a connection: uvicorn's, with time limits for clients that send or read slowly."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

__all__ = ["LimitedProtocol"]

_HEAD_BYTES = 65_536
"""Of a request's line and headers; one read of the socket may come on top."""
_LEAST_BYTES = 16_384
"""Who reads less of an answer in the time that a request may take is hung up on."""


class LimitedProtocol(HttpToolsProtocol):
    """Hangs up on headers that do not come or do not end, and on clients that do not read.

    uvicorn and httptools wait for all of these. Between two requests of a connection uvicorn's own
    limit holds.
    """

    timeout_seconds: float
    """How long a request's line and headers may take to come, and how long nothing may be read."""
    _head_bytes = 0
    _wait: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._begin_wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._end_wait()
        self._stop_watching()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Watch whether the client goes on reading: the answers behind this one wait for it."""
        super().pause_writing()
        self._watch_reading()

    def resume_writing(self) -> None:
        """Watch no longer: the client has read most of it."""
        self._stop_watching()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Take what came, unless it is too much."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > _HEAD_BYTES:
            self._refuse(431)

    def on_message_begin(self) -> None:
        """Begin to count and wait again."""
        self._head_bytes = 0
        if self._wait is None:  # else it is the connection's first request
            self._begin_wait()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Wait no longer: from here on the limits of bodies and answers hold."""
        self._end_wait()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Begin to count again what may follow the body."""
        self._head_bytes = 0
        super().on_body(body)

    def _watch_reading(self) -> None:
        before = self.transport.get_write_buffer_size()

        def check() -> None:
            if before - self.transport.get_write_buffer_size() < _LEAST_BYTES:
                self.transport.abort()  # to close it would wait for the client once more
            else:
                self._watch_reading()

        self._unread = self.loop.call_later(self.timeout_seconds, check)

    def _stop_watching(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _begin_wait(self) -> None:
        self._wait = self.loop.call_later(self.timeout_seconds, self._late)

    def _end_wait(self) -> None:
        if self._wait is not None:
            self._wait.cancel()
            self._wait = None

    def _late(self) -> None:
        # uvicorn has no cycle before the first request, whatever its types say.
        if self.cycle and not self.cycle.response_complete:  # type: ignore[truthy-bool]
            self._begin_wait()  # reading may have been paused for the request before
        else:
            self._refuse(408)

    def _refuse(self, status: int) -> None:
        if not self.transport.is_closing():
            self.transport.write(STATUS_LINE[status] + b"connection: close\r\n\r\n")
            self.transport.close()
