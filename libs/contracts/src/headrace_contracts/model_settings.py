"""How models are loaded and asked on our own nodes: the values of num_ctx, keep_alive, think and top_k, wherever they
are written, and what a node says of them.

Of several that say something, the first counts: the caller, the role, the model (both in the routing policy), the node.
What a node can take is its own: nothing goes beyond its max_num_ctx.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

SHORTEST_CONTEXT: Final = 256
"""Of what an operator sets; a caller may have less."""
LONGEST_CONTEXT: Final = 16 * 1024 * 1024
MOST_TOP_K: Final = 100_000
MOST_PARALLEL: Final = 1_024
THINKING: Final = ("off", "on", "low", "medium", "high")
OF_A_NODE: Final = ("num_ctx", "max_num_ctx", "keep_alive", "think", "top_k")
"""What a node's entry may say of all its models; `slots.<model>` says how many calls of one model it runs at once."""
SLOTS_OF: Final = "slots."
_DURATION: Final = re.compile(r"-?[0-9]{1,9}|-?([0-9]{1,9}(\.[0-9]{1,9})?(ns|us|µs|ms|s|m|h))+")
"""As Go's time.ParseDuration, or whole seconds."""
_LONGEST_NAME: Final = 200
_MOST_MODELS: Final = 100


class ModelSettingInvalid(ValueError):
    """Correct the value; the message names it and what may stand there."""


@dataclass(frozen=True, slots=True)
class NodeDefaults:
    """What a node says of its models. None leaves it to Ollama.

    Attributes:
        num_ctx: Length of the context that models are loaded with, in tokens, where nobody says otherwise.
        max_num_ctx: The longest that it has memory for.
        keep_alive: How long a model stays in memory after a call (`duration`).
        think: One of THINKING.
        top_k: As of a request.
        parallel: Most calls of a model at once, by its name.
    """

    num_ctx: int | None = None
    max_num_ctx: int | None = None
    keep_alive: str | None = None
    think: str | None = None
    top_k: int | None = None
    parallel: Mapping[str, int] = field(default_factory=dict)


NO_DEFAULTS: Final = NodeDefaults()


def node_defaults(texts: Mapping[str, str]) -> NodeDefaults:
    """What the settings in a node's entry say. Raises ModelSettingInvalid, also for one that there is not."""
    parallel: dict[str, int] = {}
    for name, text in texts.items():
        if name.startswith(SLOTS_OF) and name != SLOTS_OF and len(name) <= _LONGEST_NAME:
            parallel[name.removeprefix(SLOTS_OF)] = _number(name, text, 1, MOST_PARALLEL)
        elif name not in OF_A_NODE:
            known = ", ".join((*OF_A_NODE, "slots.<model>"))
            raise ModelSettingInvalid(f"{name[:_LONGEST_NAME]!r} is no setting of a node; there are {known}")
    if len(parallel) > _MOST_MODELS:
        raise ModelSettingInvalid(f"slots of {len(parallel)} models are more than the {_MOST_MODELS} that may be named")
    num_ctx = context_length("num_ctx", texts["num_ctx"]) if "num_ctx" in texts else None
    most = context_length("max_num_ctx", texts["max_num_ctx"]) if "max_num_ctx" in texts else None
    if num_ctx is not None and most is not None and num_ctx > most:
        raise ModelSettingInvalid(f"num_ctx {num_ctx} is above max_num_ctx {most}")
    return NodeDefaults(
        num_ctx=num_ctx,
        max_num_ctx=most,
        keep_alive=duration("keep_alive", texts["keep_alive"]) if "keep_alive" in texts else None,
        think=thinking("think", texts["think"]) if "think" in texts else None,
        top_k=_number("top_k", texts["top_k"], 1, MOST_TOP_K) if "top_k" in texts else None,
        parallel=parallel,
    )


def is_of_a_node(name: str) -> bool:
    """Whether a word of a node's entry is one of these settings, and not a label."""
    return name in OF_A_NODE or name.startswith(SLOTS_OF)


def context_length(name: str, value: object, least: int = SHORTEST_CONTEXT) -> int:
    """A length of the context, in tokens. Raises ModelSettingInvalid."""
    return _number(name, value, least, LONGEST_CONTEXT)


def top_k(name: str, value: object) -> int:
    """Raises ModelSettingInvalid."""
    return _number(name, value, 1, MOST_TOP_K)


def duration(name: str, value: object) -> str:
    """How long a model stays in memory, in Ollama's notation. Raises ModelSettingInvalid."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or _DURATION.fullmatch(text) is None:
        said = f"not {value!r:.40}"
        raise ModelSettingInvalid(f"{name} must be a duration such as 30m or 1h30m, or a number of seconds, {said}")
    return text


def thinking(name: str, value: object) -> str:
    """One of THINKING; true and false stand for on and off. Raises ModelSettingInvalid."""
    text = {True: "on", False: "off"}[value] if isinstance(value, bool) else value
    text = {"true": "on", "false": "off"}.get(text, text) if isinstance(text, str) else text
    if not isinstance(text, str) or text not in THINKING:
        raise ModelSettingInvalid(f"{name} must be one of {', '.join(THINKING)}, not {value!r:.40}")
    return text


def for_ollama(keep_alive: str | None) -> str | int | None:
    """A duration as Ollama takes it: a number for seconds, which it refuses in quotes."""
    if keep_alive is None:
        return None
    return int(keep_alive) if keep_alive.lstrip("-").isdecimal() else keep_alive


def _number(name: str, value: object, least: int, most: int) -> int:
    number = (
        int(value) if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 12 else value
    )
    if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= most:
        raise ModelSettingInvalid(f"{name} must be a whole number from {least} to {most}, not {value!r:.40}")
    return number
