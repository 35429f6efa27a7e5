"""A TCP proxy on loopback in front of a server, which can be closed and opened to simulate an outage."""

import contextlib
import socket
import threading
from typing import Self

_HOST = "127.0.0.1"
_BYTES = 65_536


class Gate:
    """Forwards TCP connections to a server while open; when closed, it refuses and breaks them. Closed at first."""

    def __init__(self, target_port: int) -> None:
        self._target = (_HOST, target_port)
        # Bound as long as the gate is in use: while it is shut, nobody else must be given the port.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._reserved.bind((_HOST, 0))
        self.port = int(self._reserved.getsockname()[1])
        self._listener: socket.socket | None = None
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()

    def open(self) -> None:
        """Listen and forward."""
        listener = socket.create_server((_HOST, self.port), backlog=64, reuse_port=True)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def shut(self) -> None:
        """Refuse new connections and break existing ones."""
        if self._listener is not None:
            # A blocked accept() does not return when its socket is closed.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        with self._lock:
            connections, self._connections = self._connections, set()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shut()
        self._reserved.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                here, _ = listener.accept()
                there = socket.create_connection(self._target)
            except OSError:
                return
            with self._lock:
                self._connections.update((here, there))
            for source, target in ((here, there), (there, here)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_BYTES):
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
