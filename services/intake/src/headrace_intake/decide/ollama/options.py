"""The parameters of Ollama's API: which are carried, which ask for nothing, and which cannot be honoured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from headrace_contracts.content import plain
from headrace_contracts.events import Content, ResponseFormat, ResponseFormatKind
from headrace_contracts.limits import HIGHEST_TEMPERATURE, MOST_OUTPUT_TOKENS, MOST_STOPS
from headrace_contracts.model_settings import LONGEST_CONTEXT
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from headrace_intake.decide.messages import unsupported
from headrace_intake.decide.model_options import expect_schema
from headrace_intake.decide.options import StopText, SubmitOptions
from headrace_intake.decide.refusals import bad_request

PROVIDER: Final = "ollama"

OF_THE_NODE: Final = frozenset({
    "numa", "num_batch", "num_gpu", "main_gpu", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mmap",
    "use_mlock", "embedding_only", "num_thread",
})  # fmt: skip
"""How a node loads a model: that is decided where the node is."""
_NUM_CTX: Final = "num_ctx"
"""The length of the context: an Ollama node gets it, within what it has memory for; to others it means nothing."""
FOR_OLLAMA_ALONE: Final[Mapping[str, tuple[Any, ...]]] = {
    "num_keep": (0, 4), "tfs_z": (1,), "typical_p": (1,), "repeat_last_n": (64,), "repeat_penalty": (1, 1.1),
    "min_p": (0,), "mirostat": (0,), "mirostat_tau": (5,), "mirostat_eta": (0.1,), "penalize_newline": (True, False),
}  # fmt: skip
"""Sampling that no other provider has, with the values that ask for nothing: an Ollama node gets it, and for other
providers only these are taken."""
TAKEN: Final = frozenset({"keep_alive", "truncate", "shift"})
"""Fields that ask for nothing here. How long a model stays loaded is a matter of the policy and the nodes; and no
prompt is ever cut off: one that does not fit is refused."""

Think = bool | Literal["low", "medium", "high"]


def _limit(value: object) -> object:
    """Ollama's words for no limit: -1 and -2."""
    return None if value in (-1, -2) else value


def _unless(*neutral: int) -> BeforeValidator:
    return BeforeValidator(lambda value: None if value in neutral else value)


class SamplingIn(BaseModel):
    """Those of Ollama's `options` that are carried to any provider."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    num_predict: Annotated[Annotated[int, Field(ge=1, le=MOST_OUTPUT_TOKENS)] | None, BeforeValidator(_limit)] = None
    temperature: Annotated[float, Field(ge=0, le=HIGHEST_TEMPERATURE)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[Annotated[int, Field(ge=1, le=100_000)] | None, _unless(0, -1)] = None
    seed: Annotated[Annotated[int, Field(ge=-(2**63), lt=2**63)] | None, _unless(-1)] = None
    stop: StopText | Annotated[list[StopText], Field(max_length=MOST_STOPS)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None


class _OfOllamaIn(BaseModel):
    """That which only Ollama nodes get and which is read here, since they would refuse another value late."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    num_ctx: Annotated[int, Field(ge=1, le=LONGEST_CONTEXT)] | None = None


class _Named(BaseModel):
    # So that errors name the field as it stands in the body.
    options: SamplingIn


class _NamedOfOllama(BaseModel):
    options: _OfOllamaIn


@dataclass(frozen=True, slots=True)
class OllamaSampling:
    """What `options` ask: fields of `SubmitOptions`, those of the event's options, and what only Ollama nodes get."""

    submit: Mapping[str, Any] = field(default_factory=dict)
    asked: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


def sampling_of(options: Mapping[str, Any], *, by_ollama: bool) -> OllamaSampling:
    """Read `options`. Raises Refusal for one that cannot be honoured, and ValidationError for a wrong value.

    Args:
        by_ollama: Whether the task names an Ollama model.
    """
    extra: dict[str, Any] = {}
    for name, value in options.items():
        if name in OF_THE_NODE or name in SamplingIn.model_fields or value is None:
            continue
        if name == _NUM_CTX:
            if by_ollama:
                extra[name] = value
            continue
        if name not in FOR_OLLAMA_ALONE:
            raise unsupported(f"options.{name}", "there is no such option")
        if by_ollama:
            extra[name] = value
        elif value not in FOR_OLLAMA_ALONE[name]:
            raise unsupported(f"options.{name}", "only models of Ollama nodes have it; name one")
    found = _Named.model_validate({"options": dict(options)}).options
    if _NUM_CTX in extra:
        _NamedOfOllama.model_validate({"options": extra})
    submit = {
        "max_tokens": found.num_predict, "temperature": found.temperature, "top_p": found.top_p, "seed": found.seed,
        "stop": found.stop or None,
    }  # fmt: skip
    asked = {
        "top_k": found.top_k,
        "presence_penalty": found.presence_penalty or None,
        "frequency_penalty": found.frequency_penalty or None,
    }
    return OllamaSampling(
        {name: value for name, value in submit.items() if value is not None},
        {name: value for name, value in asked.items() if value is not None},
        extra,
    )


def format_of(form: str | Mapping[str, Any] | None) -> tuple[bool, ResponseFormat | None]:
    """Whether the answer must be JSON, and its schema. Raises Refusal."""
    if not form:
        return isinstance(form, Mapping), None
    if isinstance(form, str):
        return True, None
    expect_schema(dict(form), "format")
    schema = plain(json.dumps(form, ensure_ascii=False))
    # As strict as can be had everywhere: strict schemas of other providers must be written in a certain way.
    return True, ResponseFormat(kind=ResponseFormatKind.JSON_SCHEMA, name="answer", schema=schema)


def think_of(think: Think | None) -> dict[str, Any]:
    """Fields of the event's options for `think`."""
    if think is None:
        return {}
    if think is False:
        return {"reasoning_tokens": 0}
    return {"reasoning_effort": "medium" if think is True else think}


def extra_of(further: Mapping[str, Any]) -> dict[str, Content]:
    """Further parameters of an Ollama node."""
    return {} if not further else {"options": plain(json.dumps(further))}


def own_options(document: Mapping[str, Any], sampling: OllamaSampling, *, stream: bool) -> SubmitOptions:
    """Headrace's own fields of a body, with the sampling. Raises ValidationError."""
    own = {name: document[name] for name in OWN_FIELDS & document.keys()}
    return SubmitOptions.model_validate({**own, **sampling.submit, "stream": stream})


OWN_FIELDS: Final = SubmitOptions.model_fields.keys() - {
    "max_tokens", "temperature", "top_p", "stop", "seed", "stream",
}  # fmt: skip
"""Headrace's own fields, which may stand in the bodies of this API too."""


def known_fields(document: Mapping[str, Any], known: frozenset[str], refused: Mapping[str, str]) -> dict[str, Any]:
    """The body without what is null or asks for nothing.

    Raises Refusal, naming the field, for one that is not known or, with the reason in `refused`, cannot be honoured.
    """
    kept: dict[str, Any] = {}
    for name, value in document.items():
        if value is None or name in TAKEN:
            continue
        if name in refused:
            if value not in ("", False, [], {}):
                raise unsupported(name, refused[name])
        elif name in known or name in OWN_FIELDS:
            kept[name] = value
        else:
            raise unsupported(name, "this parameter is not supported here")
    if not isinstance(kept.get("options", {}), Mapping):
        raise bad_request("options: must be an object.", "options")
    return kept
