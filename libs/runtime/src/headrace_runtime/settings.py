"""Settings of a service: read from the environment and validated before anything connects; `--help` describes them.

A service declares what it needs by combining the classes here and adding fields with `setting`::

    class IntakeSettings(ServiceSettings, ApiSettings, DatabaseSettings):
        service_name = "intake"
        wait_seconds: float = setting(30.0, unit="s", reason="Longest wait for an answer.", gt=0)

Each field is one variable: `HEADRACE_` and the field's name in capitals, or the name given as `variable`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeVar
from urllib.parse import urlsplit

from headrace_contracts.limits import DEFAULT_REQUEST_BYTES, MOST_REQUEST_BYTES, record_bytes
from headrace_contracts.registry_access import RegistryAccess
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    JsonValue,
    PrivateAttr,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from headrace_runtime import kafka_properties
from headrace_runtime.api_limits import ConnectionLimits, RequestLimits
from headrace_runtime.cors import ANY_ORIGIN
from headrace_runtime.invalid_fields import message_of
from headrace_runtime.memory import MIB, MemoryBudget, available_bytes

PREFIX: Final = "HEADRACE_"
REQUIRED: Final = ...
"""Used as default: the variable has none, and the service does not start without it."""

_environment: ContextVar[Mapping[str, str] | None] = ContextVar("environment", default=None)
"""What `load` reads instead of the environment of the process."""
_UNIT = "unit"
_SHOWN_DEFAULT = "shown_default"


class SettingsInvalid(Exception):
    """The environment does not hold a valid set of values; correct the named variables and start again.

    `problems` never contains values of secrets.
    """

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def setting(
    default: Any = REQUIRED,
    *,
    unit: str,
    reason: str,
    variable: str | None = None,
    default_factory: Callable[[], Any] | None = None,
    shown_default: str | None = None,
    **constraints: Any,
) -> Any:
    """Declare one variable.

    `unit` is the unit of its number or the kind of its text ("s", "bytes", "URL", "name"), `reason` says what it is
    for. `variable` overrides the derived name, for variables of other tools (`GROQ_API_KEY`). `shown_default` is what
    `--help` prints for a computed default. `constraints` are those of `pydantic.Field`.
    """
    if not unit or not reason:
        raise TypeError("a setting needs a unit and a reason: they are what --help shows")
    extra: dict[str, JsonValue] = {_UNIT: unit}
    if shown_default is not None:
        extra[_SHOWN_DEFAULT] = shown_default
    if variable is not None:
        constraints["validation_alias"] = variable
    if default_factory is not None:
        return Field(default_factory=default_factory, description=reason, json_schema_extra=extra, **constraints)
    return Field(default, description=reason, json_schema_extra=extra, **constraints)


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


CommaList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""Several texts in one variable, separated by commas."""


def _http_url(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("must start with http:// or https://")
    return value.rstrip("/")


HttpUrlText = Annotated[str, AfterValidator(_http_url)]
"""An http or https address as plain text, without a trailing slash."""


def _origins(entries: tuple[str, ...]) -> tuple[str, ...]:
    for entry in entries:
        parts = urlsplit(entry)
        bare = f"{parts.scheme}://{parts.netloc}"
        if entry != ANY_ORIGIN and (parts.scheme not in ("http", "https") or not parts.hostname or entry != bare):
            raise ValueError("must be origins such as https://console.example.com (no path, no slash), or *")
    return entries


Origins = Annotated[CommaList, AfterValidator(_origins)]
"""Origins of web pages: scheme, host and port, or `*` for all."""


class Settings(BaseSettings):
    """Base of all settings: frozen values from `HEADRACE_*` variables; empty variables count as absent."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        validate_by_name=True,
        validate_by_alias=True,
        hide_input_in_errors=True,
    )
    service_name: ClassVar[str] = "headrace"
    _given: Mapping[str, str] | None = PrivateAttr(default=None)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        for name, field in cls.model_fields.items():
            if not field.description or unit_of(field) is None:
                raise TypeError(f"{cls.__name__}.{name} must be declared with setting(): it needs a unit and a reason")

    @classmethod
    def load(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read the environment of this process, or only `environment`, for a service that shares its process.

        Raises SettingsInvalid, which names each variable that is missing or invalid.
        """
        token = _environment.set(environment)
        try:
            loaded = cls()
        except ValidationError as error:
            raise SettingsInvalid(tuple(_problem(cls, detail) for detail in error.errors())) from None
        finally:
            _environment.reset(token)
        loaded._given = environment
        return loaded

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables that these settings were read from, for those whose names are in settings."""
        return os.environ if self._given is None else self._given

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        given = _environment.get()
        if given is not None and isinstance(env_settings, EnvSettingsSource):
            env_settings.env_vars = {name.lower(): value for name, value in given.items() if value != ""}
        return init_settings, env_settings


SettingsT = TypeVar("SettingsT", bound=Settings)


def unit_of(field: FieldInfo) -> str | None:
    extra = field.json_schema_extra
    unit = extra.get(_UNIT) if isinstance(extra, dict) else None
    return unit if isinstance(unit, str) else None


def shown_default_of(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    shown = extra.get(_SHOWN_DEFAULT) if isinstance(extra, dict) else None
    if isinstance(shown, str):
        return shown
    if field.is_required():
        return "(required)"
    value = field.default
    match value:
        case None:
            return "(not set)"
        case SecretStr():
            return "(secret)"
        case bool():
            return str(value).lower()
        case tuple():
            return ",".join(str(part) for part in value) or "(empty)"
        case "":
            return "(empty)"
        case _:
            return str(value)


def variable_of(name: str, field: FieldInfo) -> str:
    """The environment variable that sets the field."""
    return field.validation_alias if isinstance(field.validation_alias, str) else PREFIX + name.upper()


def _problem(cls: type[Settings], detail: ErrorDetails) -> str:
    location = tuple(str(part) for part in detail["loc"])
    head = location[0] if location else ""
    variables = {name: variable_of(name, field) for name, field in cls.model_fields.items()}
    variable = head if head in variables.values() else variables.get(head.lower(), cls.__name__)
    inner = f" (at {'.'.join(location[1:])})" if len(location) > 1 else ""
    if detail["type"] == "missing":
        return f"{variable}: is required and not set"
    message = message_of(detail)
    if not location and message.startswith(PREFIX):
        return message  # about several variables, and names them
    return f"{variable}{inner}: {message[:1].lower()}{message[1:]}"


class _KafkaPropertiesSource(PydanticBaseSettingsSource):
    """Collects `HEADRACE_KAFKA_*` and the properties file into the field that holds them."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        given = _environment.get()
        try:
            return {"kafka_properties": kafka_properties.collect(os.environ if given is None else given)}
        except kafka_properties.KafkaPropertiesInvalid as error:
            raise SettingsInvalid(error.problems) from None


class MemorySettings(Settings):
    """For a service whose buffers have limits in bytes."""

    memory_limit_bytes: int = setting(
        unit="bytes",
        reason="Memory that this process may take: what its buffers hold follows from it. Set it where several "
        "services share one container or machine.",
        default_factory=available_bytes,
        shown_default="<the container's limit, or the machine's memory>",
        ge=64 * MIB,
    )

    @property
    def memory(self) -> MemoryBudget:
        """What the buffers of this process may hold."""
        return MemoryBudget(self.memory_limit_bytes)


class ServiceSettings(MemorySettings):
    """Settings of every service: Kafka and registry, identity, observability and shutdown."""

    bootstrap_servers: str = setting(
        "127.0.0.1:9092", unit="host:port, ...", reason="Kafka brokers to contact first.", min_length=1
    )
    registry_url: HttpUrlText = setting(
        "http://127.0.0.1:8081/apis/ccompat/v7",
        unit="URL",
        reason="Schema registry with the Confluent API; it has the schemas of all topics.",
    )
    registry_ca_file: Path | None = setting(
        None,
        unit="path",
        reason="CA certificates (PEM) for the registry's certificate; by default the public ones.",
    )
    registry_username: str | None = setting(
        None, unit="name", reason="User of the registry (HTTP basic authentication), with its password."
    )
    registry_password: SecretStr | None = setting(None, unit="secret", reason="Password of this user.")
    registry_token: SecretStr | None = setting(
        None, unit="secret", reason="Bearer token for the registry, instead of a user."
    )
    registry_client_certificate_file: Path | None = setting(
        None, unit="path", reason="Certificate (PEM) that this process shows to the registry, for mutual TLS."
    )
    registry_client_key_file: Path | None = setting(
        None, unit="path", reason="Private key (PEM) of this certificate, unless it is in the same file."
    )
    topic_prefix: str = setting(
        "headrace.",
        unit="text",
        reason="Prefix of all topics and consumer groups, so that several installations can share one Kafka.",
        pattern=r"^[A-Za-z0-9._-]*$",
    )
    instance_id: str = setting(
        unit="name",
        reason="Distinguishes processes of the same service in logs, traces and Kafka client ids; "
        "make it stable (pod name) if replies must reach the same process after a restart.",
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}",
        shown_default="<host>-<pid>",
        pattern=r"^[A-Za-z0-9._-]{1,128}$",
    )
    static_member: bool = setting(
        False,
        unit="true | false",
        reason="Static group membership: keep this instance's partitions while it restarts, instead of making the "
        "group wait for the old session's timeout; only with a stable HEADRACE_INSTANCE_ID.",
    )
    body_limit_bytes: int = setting(
        DEFAULT_REQUEST_BYTES,
        unit="bytes",
        reason="Largest request body; larger ones get 413. Give all services and the provisioning the same: producers "
        "and topics take records of twice this size and 2 MiB more.",
        ge=1024,
        le=MOST_REQUEST_BYTES,
    )
    ops_host: str = setting(
        "127.0.0.1", unit="address", reason="Listen address of /healthz, /readyz and /metrics; 0.0.0.0 in a container."
    )
    ops_port: int = setting(9100, unit="port", reason="Port of these; 0 chooses a free one.", ge=0, le=65535)
    log_format: Literal["json", "human"] = setting(
        "json", unit="json | human", reason="JSON lines for machines, or coloured lines for a terminal."
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info", unit="level", reason="Lowest severity that is logged; debug is costly under load."
    )
    drain_seconds: float = setting(
        25.0,
        unit="s",
        reason="Time to finish work in flight after SIGTERM; keep it below the orchestrator's grace period.",
        ge=0,
    )
    otlp_endpoint: HttpUrlText | None = setting(
        None,
        unit="URL",
        reason="OpenTelemetry collector (OTLP over HTTP); without it trace ids are propagated, but not exported.",
    )
    trace_sample_ratio: float = setting(
        1.0, unit="0 to 1", reason="Share of new traces exported to the collector.", ge=0, le=1
    )
    kafka_properties_file: Path | None = setting(
        None,
        unit="path",
        reason="Properties file (Java style) with librdkafka settings, so that secrets can be mounted as a file.",
    )
    kafka_properties: Annotated[dict[str, str], NoDecode] = setting(
        unit="librdkafka",
        reason="Any librdkafka property: HEADRACE_KAFKA_SECURITY_PROTOCOL sets security.protocol (each _ is a dot).",
        default_factory=dict,
        variable="HEADRACE_KAFKA_<PROPERTY>",
        shown_default="(none)",
        repr=False,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        sources = super().settings_customise_sources(
            settings_cls, init_settings, env_settings, dotenv_settings, file_secret_settings
        )
        return *sources, _KafkaPropertiesSource(settings_cls)

    @model_validator(mode="after")
    def _registry_can_be_used(self) -> Self:
        self.registry_access().check(self.registry_url)
        return self

    def registry_access(self) -> RegistryAccess:
        """How to log in to the registry."""
        return RegistryAccess(
            username=self.registry_username,
            password=_revealed(self.registry_password),
            token=_revealed(self.registry_token),
            ca_file=self.registry_ca_file,
            client_certificate_file=self.registry_client_certificate_file,
            client_key_file=self.registry_client_key_file,
        )

    @classmethod
    def release(cls) -> str:
        """Version of the service's package."""
        try:
            return version(f"headrace-{cls.service_name}")
        except PackageNotFoundError:
            return "0+unknown"

    def kafka_config(self) -> dict[str, str]:
        """Configuration of a Kafka client: the brokers, the client id and every property the operator has set."""
        return {
            "bootstrap.servers": self.bootstrap_servers,
            "client.id": f"{self.service_name}.{self.instance_id}",
            "message.max.bytes": str(record_bytes(self.body_limit_bytes)),
            **({"group.instance.id": self.instance_id} if self.static_member else {}),
            **self.kafka_properties,
        }


def _revealed(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


class SignedRecordSettings(Settings):
    """For a service that reads signed topics: access.keys or preferences; or replies, which have tokens."""

    unsigned_records: Literal["refuse", "accept"] = setting(
        "refuse",
        unit="refuse | accept",
        reason="API keys and preferences without a code under the key pepper, and replies to callers without a token. "
        "Release 0.1 wrote neither: accept them for one start of all services after the upgrade, in which intake signs "
        "keys and preferences.",
    )


class ApiSettings(SignedRecordSettings, MemorySettings):
    """For a service with an HTTP API for callers, who authenticate with API keys."""

    api_host: str = setting("127.0.0.1", unit="address", reason="Listen address of the API; 0.0.0.0 in a container.")
    api_port: int = setting(8080, unit="port", reason="Port of the API; 0 chooses a free one.", ge=0, le=65535)
    key_pepper: SecretStr = setting(
        unit="secret",
        reason="The installation's secret: API keys are stored as hashes under it, and their records and those of "
        "preferences are signed with it. It must be the same for all services.",
        min_length=16,
    )
    body_memory_bytes: int | None = setting(
        None,
        unit="bytes",
        reason="Most bytes of bodies of all open requests, of which a tenant's can hold half; more get 429 or 503.",
        shown_default="<a third of the memory limit, at most 268435456>",
        ge=1_048_576,
    )
    api_connections: int = setting(
        20_000,
        unit="connections",
        reason="Most open connections; new ones then wait. Fewer where the process may open fewer files.",
        ge=1,
    )
    api_starting_connections: int = setting(
        256,
        unit="connections",
        reason="Most connections of one address that have sent no whole request head yet; the oldest are closed.",
        ge=1,
    )
    api_requests_per_tenant: int = setting(
        12_000,
        unit="requests",
        reason="Most open requests and streams of a tenant in this process; more get 429.",
        ge=1,
    )
    requests_per_minute: int = setting(
        60_000,
        unit="requests/min",
        reason="Rate of a key that has no rate of its own, over all processes of the service.",
        ge=1,
    )
    tenant_requests_per_minute: int = setting(
        120_000,
        unit="requests/min",
        reason="Rate of all keys of a tenant together, over all processes of the service, unless HEADRACE_TENANTS_FILE "
        "says another one.",
        ge=1,
    )
    cors_origins: Origins = setting(
        (),
        unit="origins",
        reason="Web pages whose scripts may use the API from a browser: origins with commas between, or *; none by "
        "default.",
    )
    heartbeat_seconds: float = setting(
        15.0,
        unit="s",
        reason="Idle time after which an event stream sends a comment, so that proxies keep it open "
        "and disconnected callers are detected.",
        gt=0,
    )

    def connection_limits(self) -> ConnectionLimits:
        """Limits of the API's connections."""
        return ConnectionLimits(connections=self.api_connections, starting_per_address=self.api_starting_connections)

    def request_limits(self) -> RequestLimits:
        """Limits of what callers of the API may have open."""
        return RequestLimits(
            requests_per_tenant=self.api_requests_per_tenant,
            body_bytes=self.memory.request_bodies if self.body_memory_bytes is None else self.body_memory_bytes,
        )


def postgres_url(value: SecretStr) -> SecretStr:
    """The address, if it can be one of Postgres. Raises ValueError."""
    if not value.get_secret_value().startswith(("postgresql://", "postgres://")):
        raise ValueError("must look like postgresql://user:password@host:port/database")
    return value


class DatabaseSettings(Settings):
    """For a service with a schema in Postgres."""

    database_url: Annotated[SecretStr, AfterValidator(postgres_url)] = setting(
        unit="URL", reason="Postgres database, as postgresql://user:password@host:port/database."
    )
    database_pool_size: int = setting(
        8, unit="connections", reason="Maximum connections of this process; the server's limit is shared by all.", ge=1
    )
    database_timeout_seconds: float = setting(
        10.0, unit="s", reason="Timeout of one statement, after which it is retried.", gt=0
    )
