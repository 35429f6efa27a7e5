"""What to trust and to show on connections with TLS to nodes, read again when the files change."""

from __future__ import annotations

import ssl
from pathlib import Path


class CertificatesUnusable(Exception):
    """A file cannot be read, or is not what it should be; the message names it."""


class NodeCertificates:
    """A TLS context for calls of nodes. Raises CertificatesUnusable.

    Args:
        ca: Authorities that are trusted; None for the system's.
        certificate, key: What is shown to a node that asks for it; None for nothing.
    """

    def __init__(self, ca: Path | None, certificate: Path | None, key: Path | None) -> None:
        self._ca = ca
        self._certificate = certificate
        self._key = key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        if ca is None:
            self.context.load_default_certs()
        self._seen = self._state()
        self._load()

    def reload(self) -> bool:
        """Read the files if they have changed, for the connections from now on; returns whether they had.

        An authority that is no longer in its file stays trusted until the process ends. Raises CertificatesUnusable;
        what was read before stays in use.
        """
        state = self._state()
        if state == self._seen:
            return False
        self._load()
        self._seen = state
        return True

    def _load(self) -> None:
        try:
            if self._ca is not None:
                self.context.load_verify_locations(self._ca)
            if self._certificate is not None:
                # An encrypted key would make OpenSSL ask on the terminal.
                self.context.load_cert_chain(self._certificate, self._key, password="")
        except (OSError, ValueError) as error:
            files = " or ".join(str(path) for path in (self._ca, self._certificate, self._key) if path is not None)
            reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
            raise CertificatesUnusable(f"{files} cannot be used: {reason}") from error

    def _state(self) -> tuple[tuple[int, int] | None, ...]:
        return tuple(_version_of(path) for path in (self._ca, self._certificate, self._key))


def _version_of(path: Path | None) -> tuple[int, int] | None:
    try:
        found = None if path is None else path.stat()
    except OSError:
        return None
    return None if found is None else (found.st_mtime_ns, found.st_ino)
