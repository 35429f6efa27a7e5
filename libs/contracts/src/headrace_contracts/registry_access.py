"""How to log in to a schema registry: name and password, a bearer token, a client certificate.

The same variables apply to services, the SDK and its command line, so that errors can name them.
"""

from __future__ import annotations

import base64
import re
import ssl
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import urlsplit

from headrace_contracts.errors import RegistryAccessInvalid

USERNAME: Final = "HEADRACE_REGISTRY_USERNAME"
PASSWORD: Final = "HEADRACE_REGISTRY_PASSWORD"
TOKEN: Final = "HEADRACE_REGISTRY_TOKEN"
CA_FILE: Final = "HEADRACE_REGISTRY_CA_FILE"
CLIENT_CERTIFICATE_FILE: Final = "HEADRACE_REGISTRY_CLIENT_CERTIFICATE_FILE"
CLIENT_KEY_FILE: Final = "HEADRACE_REGISTRY_CLIENT_KEY_FILE"

_CONCEALED: Final = "[redacted]"
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f]")
_TOKEN_CHARACTERS: Final = re.compile(r"[\x21-\x7e]+")


@cache
def _public() -> ssl.SSLContext:
    """Trusts the public certificates. Made once, since loading them takes longer than the rest of a client."""
    return ssl.create_default_context()


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryAccess:
    """What a client shows to the registry. Its representation contains no secret.

    Attributes:
        username: For HTTP basic authentication, with `password`.
        token: Bearer token, instead of these.
        ca_file: CA certificates (PEM) to trust instead of the public ones.
        client_certificate_file: Certificate (PEM) of this client, with its chain, for mutual TLS.
        client_key_file: Its private key, unless it is in the same file.
    """

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    client_certificate_file: Path | None = None
    client_key_file: Path | None = None

    def check(self, url: str) -> None:
        """Raises RegistryAccessInvalid, which names a variable, if this cannot work with a registry at this address."""
        parts = urlsplit(url)
        if parts.username is not None or parts.password is not None:
            raise RegistryAccessInvalid(
                f"HEADRACE_REGISTRY_URL: contains a login, which would appear in logs: use {USERNAME} and {PASSWORD}"
            )
        if (self.username is None) != (self.password is None):
            given, other = (USERNAME, PASSWORD) if self.password is None else (PASSWORD, USERNAME)
            raise RegistryAccessInvalid(f"{given}: needs {other} as well")
        if self.token is not None and self.username is not None:
            raise RegistryAccessInvalid(f"{TOKEN}: is set together with {USERNAME}; keep one of them")
        if self.username is not None and ":" in self.username:
            raise RegistryAccessInvalid(f"{USERNAME}: HTTP basic authentication permits no colon in it")
        for variable, text in ((USERNAME, self.username), (PASSWORD, self.password)):
            if text is not None and _CONTROLS.search(text):
                raise RegistryAccessInvalid(f"{variable}: contains a control character (a line break at its end?)")
        if self.token is not None and not _TOKEN_CHARACTERS.fullmatch(self.token):
            raise RegistryAccessInvalid(f"{TOKEN}: contains a blank, line break or other character that no token has")
        if self.client_key_file is not None and self.client_certificate_file is None:
            raise RegistryAccessInvalid(f"{CLIENT_KEY_FILE}: needs {CLIENT_CERTIFICATE_FILE} as well")
        if self.client_certificate_file is not None and parts.scheme != "https":
            raise RegistryAccessInvalid(f"{CLIENT_CERTIFICATE_FILE}: needs a registry at an https:// address")
        self.tls()

    def headers(self) -> dict[str, str]:
        """Headers that every request carries."""
        if self.token is not None:
            return {"Authorization": f"Bearer {self.token}"}
        return {} if self.username is None else {"Authorization": f"Basic {self._basic()}"}

    def tls(self) -> ssl.SSLContext:
        """What connections use. Raises RegistryAccessInvalid for a file that cannot be used."""
        if self.ca_file is None and self.client_certificate_file is None:
            return _public()
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:
            raise RegistryAccessInvalid(f"{CA_FILE}: {self.ca_file}: {_reason(error)}") from error
        if self.client_certificate_file is not None:
            try:
                # Without a function here, OpenSSL would ask the terminal for the key's password.
                context.load_cert_chain(self.client_certificate_file, self.client_key_file, _no_password)
            except OSError as error:
                place = f"{self.client_certificate_file}, {self.client_key_file or 'no key file'}"
                raise RegistryAccessInvalid(f"{CLIENT_CERTIFICATE_FILE}: {place}: {_reason(error)}") from error
        return context

    def remedy(self, status: int) -> str:
        """What to do about a refusal with 401 or 403."""
        if status != 401:
            return "it has no right to do this: grant it, or log in as somebody else"
        if self.token is not None:
            return f"it does not accept {TOKEN}, or the token has expired: renew it"
        if self.username is not None:
            return f"it does not accept {USERNAME} with {PASSWORD}: correct them"
        return f"it requires a login: set {USERNAME} and {PASSWORD}, or {TOKEN}"

    def tls_remedy(self, error: Exception, *, disconnected: bool) -> str:
        """What to do about a connection over TLS that failed; empty if that is not known.

        Args:
            disconnected: Whether the registry ended it. With TLS 1.3 that is all that a client hears of a certificate
                that is missing or not accepted.
        """
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return f"; set {CA_FILE} if its certificate is signed by an authority of your own"
        if not disconnected and "ALERT" not in str(error):
            return ""
        if self.client_certificate_file is None:
            return f"; perhaps it requires a client certificate: set {CLIENT_CERTIFICATE_FILE}"
        return f"; perhaps it does not accept {CLIENT_CERTIFICATE_FILE}"

    def conceal(self, text: str) -> str:
        """The text without secrets, which an answer might repeat."""
        secrets = [self.password, self.token, self._basic() if self.username is not None else None]
        for secret in secrets:
            if secret:
                text = text.replace(secret, _CONCEALED)
        return text

    def _basic(self) -> str:
        return base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


ANONYMOUS: Final = RegistryAccess()


def _no_password() -> NoReturn:
    raise RegistryAccessInvalid(f"{CLIENT_KEY_FILE}: the private key is encrypted; mount one that is not")


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"not certificates in PEM format, or not with their key ({error.reason or 'SSLError'})"
    return error.strerror or type(error).__name__
