"""A TCP proxy on this machine whose connections can be broken for a while."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class BreakingProxy:
    """Passes bytes on to a port; while it is broken, every connection is reset, open and new ones alike."""

    def __init__(self, to: int) -> None:
        self.to = to
        self.broken = False
        self.refused = 0
        self._open: set[socket.socket] = set()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])

    def accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            if self.broken:
                self.refused += 1
                _reset(client)
                continue
            server = socket.create_connection(("127.0.0.1", self.to))
            self._open |= {client, server}
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(65536):
                target.sendall(content)
        for end in (source, target):
            self._open.discard(end)
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def break_for(self, seconds: float) -> None:
        """Reset all open and new connections for `seconds` seconds."""
        self.broken = True
        for end in list(self._open):
            _reset(end)
        time.sleep(seconds)
        self.broken = False

    def close(self) -> None:
        self._listening.close()
        for end in list(self._open):
            _reset(end)


def _reset(end: socket.socket) -> None:
    """End a connection as a failing network does: with RST, not gracefully."""
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@contextmanager
def proxy_to(port: int) -> Iterator[BreakingProxy]:
    """A proxy to a port of this machine."""
    proxy = BreakingProxy(port)
    threading.Thread(target=proxy.accept, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.close()
