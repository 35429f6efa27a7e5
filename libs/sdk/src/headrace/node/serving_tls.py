"""TLS of the proxy: its certificate, and whose certificates callers must show; read again when the files change."""

from __future__ import annotations

import ssl
from pathlib import Path

from headrace.errors import Misconfigured


class ServingTls:
    """A TLS context for serving. Raises Misconfigured when a file cannot be used.

    Args:
        client_ca: Authorities of callers, who must then show a certificate (mutual TLS); None lets in everybody.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._files = tuple(path for path in (certificate, key, client_ca) if path is not None)
        self._certificate = certificate
        self._key = key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._seen = self._state()
        self._load()
        if client_ca is not None:
            try:
                self.context.load_verify_locations(client_ca)
            except (OSError, ValueError) as error:
                raise Misconfigured(f"{client_ca} cannot be used: {_reason(error)}") from error
            self.context.verify_mode = ssl.CERT_REQUIRED

    def reload(self) -> bool:
        """Use a renewed certificate for connections from now on; returns whether there was one. Raises Misconfigured:
        then the former one stays in use. Authorities of callers are read at the start only."""
        state = self._state()
        if state == self._seen:
            return False
        self._load()
        self._seen = state
        return True

    def _load(self) -> None:
        try:
            # An encrypted key would make OpenSSL ask on the terminal.
            self.context.load_cert_chain(self._certificate, self._key, password="")
        except (OSError, ValueError) as error:
            raise Misconfigured(f"{self._certificate} and {self._key} cannot be used: {_reason(error)}") from error

    def _state(self) -> tuple[tuple[int, int] | None, ...]:
        return tuple(_version_of(path) for path in self._files)


def _version_of(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
