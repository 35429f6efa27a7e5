"""Settings of ``headrace up``: environment variables ``HEADRACE_*``, overridden by command line options."""

import os
from pathlib import Path
from typing import Final, Literal

from headrace_contracts.limits import DEFAULT_REQUEST_BYTES, MOST_REQUEST_BYTES
from headrace_contracts.sites import site_names
from headrace_runtime.invalid_fields import message_of
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from headrace_devstack.errors import CorrectTheSetting

NUMBERS_OF_BROKERS: Final = (1, 3)
"""Two would stop with either of them: a majority of two is both."""


def default_cache_folder() -> Path:
    """The user's cache folder for Headrace, according to the XDG base directory specification."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "headrace"


class StackSettings(BaseSettings):
    """Settings of the embedded stack; it always listens on loopback."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_", env_ignore_empty=True, frozen=True, extra="ignore")

    data: Path = Field(
        default=Path(".headrace"), description="folder for the data of all parts, relative to the working directory"
    )
    cache: Path = Field(
        default_factory=default_cache_folder, description="folder for downloads, shared by all data folders"
    )
    port_base: int | None = Field(
        default=None,
        ge=0,
        le=65_000,
        description="first of 40 ports; 0 picks a free block; unset means the data folder's last one, at first 19080",
    )
    brokers: int | None = Field(
        default=None,
        description="Kafka brokers: 1, or 3 with three replicas of everything; unset means as many as the data folder "
        "has, at first 1",
    )
    topic_prefix: str = Field(
        default="headrace.", pattern=r"^[A-Za-z0-9._-]*$", description="prefix of all topic names"
    )
    sites: str = Field(
        default="",
        description="sites of further local workers, comma-separated: their topics are created, and the router is told "
        "(docs/operations.md)",
    )
    secure: bool = Field(
        default=False,
        description="require logins of Kafka's users and of those who write to the registry, with the permissions of "
        "the generated ACLs",
    )
    body_limit_bytes: int = Field(
        default=DEFAULT_REQUEST_BYTES,
        ge=1024,
        le=MOST_REQUEST_BYTES,
        description="largest request, in bytes; topics and producers take records that it leads to",
    )
    maven_repository: str | None = Field(
        default=None, description="URL of a mirror to download from instead of the public repository"
    )
    backing_only: bool = Field(
        default=False, description="start Kafka, registry and Postgres, but none of the services"
    )
    processes: Literal["each", "one"] = Field(
        default="each",
        description="a process for each service, or one for all of them, which saves memory and time",
    )
    simulator_speed: str = Field(
        default="realistic",
        pattern=r"^(instant|realistic|[0-9]*\.?[0-9]+)$",
        description="how fast simulated models answer: instant, realistic, or a factor such as 10",
    )
    simulate: bool = Field(default=False, description="simulate all model providers even if real ones are available")

    @field_validator("sites")
    @classmethod
    def _are_sites(cls, value: str) -> str:
        return ",".join(site_names(name.strip() for name in value.split(",") if name.strip()))

    @property
    def site_names(self) -> tuple[str, ...]:
        """The sites, one by one."""
        return tuple(self.sites.split(",")) if self.sites else ()

    @field_validator("brokers")
    @classmethod
    def _has_a_majority(cls, value: int | None) -> int | None:
        if value is not None and value not in NUMBERS_OF_BROKERS:
            raise ValueError("must be 1 or 3")
        return value


def load_settings(**options: object) -> StackSettings:
    """Read the environment, overridden by the given options (those that are not None).

    Raises:
        CorrectTheSetting: a value is out of range or of the wrong type.
    """
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return StackSettings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(step) for step in first["loc"])
        raise CorrectTheSetting(
            f"The setting HEADRACE_{name.upper()} (option --{name.replace('_', '-')}) is invalid: {message_of(first)}.",
            "correct or remove it; `headrace up --help` lists all settings.",
        ) from error
