"""How one simulated Ollama server is set, and what is wrong with it: all of it can be changed while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Final

GIBIBYTE: Final = 2**30


class NodeSettingInvalid(ValueError):
    """A setting of a simulated node that there is not, or with a value that it cannot have."""


@dataclass(slots=True, kw_only=True)
class NodeSettings:
    """As the environment of a real server, its hardware, and its troubles.

    Attributes:
        num_parallel: `OLLAMA_NUM_PARALLEL`: calls of one loaded model at once.
        max_queue: `OLLAMA_MAX_QUEUE`: calls that may wait for a model to be loaded. Those of a loaded one all may.
        max_loaded_models: `OLLAMA_MAX_LOADED_MODELS`; 0 for as many as fit.
        context_length: `OLLAMA_CONTEXT_LENGTH`, in tokens.
        keep_alive: `OLLAMA_KEEP_ALIVE` in seconds; negative for ever.
        token: Calls must carry it as a bearer token; empty for none.
        memory_gb: Memory for models, in GiB; 0 for no limit.
        load_gb_per_second: Speed of loading a model; 0 for at once.
        unload_seconds: Time to unload one.
        disk_gb: Disk for models, in GiB; 0 for no limit.
        pull_gb_per_second: Speed of pulling a model; 0 for at once.
        speed: How many times as fast as the catalogue says it writes.
        tokens_per_second: Of all its models; 0 for what the catalogue says, times `speed`.
        prompt_tokens_per_second: Speed of reading prompts; 0 for at once.
        hangs: Inference stands still; all else answers.
        deadlocks: The scheduler waits for ever for a model in use to make room, and begins nothing any more.
        load_fails: Models whose runner dies while they are loaded; `*` for all.
        removed: Models removed with `ollama rm`.
    """

    num_parallel: int = 1
    max_queue: int = 512
    max_loaded_models: int = 0
    context_length: int = 4_096
    keep_alive: float = 300.0
    token: str = ""
    memory_gb: float = 0.0
    load_gb_per_second: float = 0.0
    unload_seconds: float = 0.0
    disk_gb: float = 0.0
    pull_gb_per_second: float = 0.0
    speed: float = 1.0
    tokens_per_second: float = 0.0
    prompt_tokens_per_second: float = 0.0
    hangs: bool = False
    deadlocks: bool = False
    load_fails: frozenset[str] = field(default_factory=frozenset)
    removed: frozenset[str] = field(default_factory=frozenset)

    def change(self, changes: Mapping[str, Any]) -> None:
        """Set some, by name; lists of models as lists, or as text with `+` between them. Raises NodeSettingInvalid."""
        read = {name: _value(name, value) for name, value in changes.items()}
        for name, value in read.items():
            setattr(self, name, value)

    def loading_fails(self, model: str) -> bool:
        return model in self.load_fails or "*" in self.load_fails


_DEFAULTS: Final[Mapping[str, Any]] = {
    one.name: one.default if one.default is not MISSING else frozenset() for one in fields(NodeSettings)
}

SETTING_NAMES: Final = tuple(_DEFAULTS)


def _value(name: str, value: Any) -> Any:
    if name not in _DEFAULTS:
        raise NodeSettingInvalid(f"a node has no setting {name!r}; there are {', '.join(_DEFAULTS)}")
    like = _DEFAULTS[name]
    try:
        if isinstance(like, frozenset):
            return frozenset(value.split("+") if isinstance(value, str) else map(str, value)) - {""}
        if isinstance(like, bool):
            if (said := str(value).lower()) not in ("true", "false", "1", "0"):
                raise ValueError
            return said in ("true", "1")
        number = type(like)(value)
    except (TypeError, ValueError) as error:
        raise NodeSettingInvalid(f"{value!r} is no value of a node's {name}") from error
    if isinstance(number, int | float) and (
        number != number or (name == "num_parallel" and number < 1) or (name != "keep_alive" and number < 0)
    ):
        raise NodeSettingInvalid(f"{value!r} is no value of a node's {name}")
    return number


def parse_node_settings(text: str) -> tuple[str, dict[str, str]]:
    """`name:setting=value,...` as a node's name and changes. Raises NodeSettingInvalid."""
    name, _, rest = text.partition(":")
    changes = dict(part.partition("=")[::2] for part in rest.split(",") if part)
    NodeSettings().change(changes)
    return name, changes
