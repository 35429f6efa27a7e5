"""Translates librdkafka's security properties for Faust, which uses another Kafka client."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Final

from faust.auth import Credentials, SASLCredentials, SSLCredentials

_PREFIXES: Final = ("security.", "ssl.", "sasl.", "enable.ssl.", "https.")
_UNDERSTOOD: Final = frozenset(
    {
        "security.protocol",
        "sasl.mechanism",
        "sasl.mechanisms",
        "sasl.username",
        "sasl.password",
        "ssl.ca.location",
        "ssl.ca.pem",
        "ssl.certificate.location",
        "ssl.key.location",
        "ssl.key.password",
        "ssl.cipher.suites",
        "ssl.endpoint.identification.algorithm",
        "enable.ssl.certificate.verification",
    }
)
_MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


class NotForFaust(Exception):
    """Faust's Kafka client has no equivalent of the property: change it, or do without live windows."""


def credentials_of(properties: Mapping[str, str]) -> Credentials | None:
    """Faust's credentials from librdkafka properties; None for a plaintext connection without a login.

    Raises NotForFaust, which names the property.
    """
    foreign = sorted(name for name in properties if name.startswith(_PREFIXES) and name not in _UNDERSTOOD)
    if foreign:
        raise NotForFaust(f"{', '.join(foreign)}: Faust's Kafka client has no equivalent")
    protocol = properties.get("security.protocol", "plaintext").lower()
    match protocol:
        case "plaintext":
            return None
        case "ssl":
            return SSLCredentials(context=_context(properties))
        case "sasl_plaintext":
            return _login(properties, None)
        case "sasl_ssl":
            return _login(properties, _context(properties))
    raise NotForFaust(f"security.protocol: {protocol!r} is not one of plaintext, ssl, sasl_plaintext, sasl_ssl")


def _login(properties: Mapping[str, str], context: ssl.SSLContext | None) -> Credentials:
    mechanism = (properties.get("sasl.mechanism") or properties.get("sasl.mechanisms") or "GSSAPI").upper()
    if mechanism not in _MECHANISMS:
        raise NotForFaust(f"sasl.mechanism: {mechanism} is not supported here, only {', '.join(_MECHANISMS)}")
    missing = [name for name in ("sasl.username", "sasl.password") if name not in properties]
    if missing:
        raise NotForFaust(f"{', '.join(missing)}: required for {mechanism} but not set")
    return SASLCredentials(
        username=properties["sasl.username"],
        password=properties["sasl.password"],
        ssl_context=context,
        mechanism=mechanism,
    )


def _context(properties: Mapping[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(
            cafile=properties.get("ssl.ca.location"), cadata=properties.get("ssl.ca.pem")
        )
        if properties.get("ssl.endpoint.identification.algorithm", "https").lower() == "none":
            context.check_hostname = False
        if properties.get("enable.ssl.certificate.verification", "true").lower() == "false":
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if "ssl.cipher.suites" in properties:
            context.set_ciphers(properties["ssl.cipher.suites"])
        if "ssl.certificate.location" in properties:
            context.load_cert_chain(
                properties["ssl.certificate.location"],
                properties.get("ssl.key.location"),
                properties.get("ssl.key.password"),
            )
    except (OSError, ValueError) as error:
        # ssl.SSLError is an OSError.
        raise NotForFaust(f"ssl.*: unusable: {error}") from error
    return context
