"""The routing policy: the models of each role, and the limits of all tasks. Values only, no files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from headrace_contracts import model_settings
from headrace_contracts.cargo import MOST_QUERIES
from headrace_contracts.events import Lane, Mode, ModelSettings, Place, Privacy, PrivacyLevel
from headrace_contracts.narrowing import Strategy
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from headrace_router.decide.detectors import Detector

UNKNOWN_QUALITY = 0.5
"""Of a model of which the policy does not say how good its answers are."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Capability = Literal[
    "tools", "vision", "audio", "files", "json_schema", "embeddings", "reasoning", "logprobs", "choices", "urls"
]
"""See `headrace_models.capabilities`."""


class PerLane(_Part):
    """A duration for each lane, in milliseconds."""

    interactive: int = Field(gt=0)
    batch: int = Field(gt=0)

    def of(self, lane: Lane) -> int:
        return self.interactive if lane is Lane.INTERACTIVE else self.batch


class Defaults(_Part):
    """What applies if neither the task, nor its role, nor the preferences specify it.

    Attributes:
        role: Role of a task that names neither role nor model.
        lane: Priority lane.
        mode: Where to run.
        privacy_level: How far content may travel.
    """

    role: str
    lane: Lane = Lane.BATCH
    mode: Mode = Mode.HYBRID
    privacy_level: PrivacyLevel = PrivacyLevel.STANDARD


class Deadlines(_Part):
    """How long a task may take, in milliseconds from its submission.

    Attributes:
        default: For a task without a deadline of its own. Longer than two attempts: see `Attempts`.
        longest: Cap on deadlines. Keep it well below the retention of the journal, which holds the live tasks.
    """

    default: PerLane
    longest: int = Field(default=5 * 86_400_000, gt=0, le=6 * 86_400_000)


class Attempts(_Part):
    """Limits of one attempt.

    Attributes:
        timeout: Milliseconds from dispatch until the attempt is abandoned, including its wait in the queue. Two of them
            must fit before the lane's default deadline: a provider that says nothing is then given up while another
            can still answer. With `retry.attempts` 1 there is no second attempt, and so no such rule.
        max_output_tokens: Longest answer of a cloud model if the task names none; bounds what an attempt costs.
    """

    timeout: PerLane
    max_output_tokens: int = Field(default=4096, gt=0)


class Retry(_Part):
    """When the same model is retried, and when the next candidate is tried.

    Attributes:
        attempts: Most attempts of a task.
        attempts_per_model: Most attempts at one model of one provider.
        base: Milliseconds before the second attempt at a model; doubles with each further one.
        cap: Longest such wait, in milliseconds.
        patience: A provider that asks for a longer wait than this, in milliseconds, is skipped for the next candidate.
    """

    attempts: int = Field(default=6, gt=0)
    attempts_per_model: int = Field(default=2, gt=0)
    base: int = Field(default=250, gt=0)
    cap: int = Field(default=10_000, gt=0)
    patience: int = Field(default=5_000, ge=0)


class CacheLimits(_Part):
    """The answer cache of each partition, and the answers that are stored beyond it.

    Attributes:
        ttl: How long an answer is valid in a partition's memory, in milliseconds; 0 for no cache.
        entries: Most answers held there.
        bytes: Most bytes of answers held there.
        stored_ttl: How long a stored answer is valid, in milliseconds; 0 to store none. Only answers that may leave
            their partition are stored, and only where the router has a database.
    """

    ttl: int = Field(default=600_000, ge=0)
    entries: int = Field(default=10_000, gt=0)
    bytes: int = Field(default=32 * 1024 * 1024, gt=0)
    stored_ttl: int = Field(default=30 * 86_400_000, ge=0, le=90 * 86_400_000)


class ProvidedModel(_Part):
    """What is known of one model of a provider.

    Attributes:
        capabilities: All that it can do beyond text, where its provider's API has a place for more than this model can.
        quality: How good its answers are, from 0 to 1, in the operator's judgement or a benchmark's.
    """

    capabilities: tuple[Capability, ...] | None = None
    quality: float | None = Field(default=None, ge=0, le=1)


class DataHandling(_Part):
    """What a provider does with what it is sent, as its contract says.

    Attributes:
        collects: Whether it may use it for itself, such as for training.
        retention_days: How long it keeps it; 0 for not at all.
        region: Where it processes it.
    """

    collects: bool
    retention_days: int = Field(ge=0)
    region: str | None = None


class DataRules(_Part):
    """What providers must fulfil to be sent content of tasks. Our own nodes always do; a cloud provider of which the
    policy does not say what it does fulfils none.

    Attributes:
        deny_collection: None that use it for themselves.
        zero_retention: None that keep it.
        regions: None that process it elsewhere; empty for anywhere.
    """

    deny_collection: bool = False
    zero_retention: bool = False
    regions: frozenset[str] | None = None

    def and_also(self, other: DataRules) -> DataRules:
        """What fulfils both."""
        regions = self.regions if other.regions is None else other.regions
        if self.regions is not None and other.regions is not None:
            regions = self.regions & other.regions
        return DataRules(
            deny_collection=self.deny_collection or other.deny_collection,
            zero_retention=self.zero_retention or other.zero_retention,
            regions=regions,
        )

    def broken_by(self, handling: DataHandling | None) -> str | None:
        """Which of them a provider does not fulfil, in words; None if it fulfils all."""
        if handling is None:
            asked = self.deny_collection or self.zero_retention or self.regions is not None
            return "the policy does not say what it does with what it is sent" if asked else None
        if self.deny_collection and handling.collects:
            return "it may use what it is sent for itself"
        if self.zero_retention and handling.retention_days:
            return f"it keeps what it is sent for {handling.retention_days} days"
        if self.regions is not None and handling.region not in self.regions:
            return f"it processes content in {handling.region or 'an unknown region'}"
        return None


class ProviderPolicy(_Part):
    """A provider of models.

    Attributes:
        place: Whether its nodes are local or in the cloud.
        models: Its models that differ from what it tells of them.
        data: What it does with what it is sent.
    """

    place: Place
    models: dict[str, ProvidedModel] = {}
    data: DataHandling | None = None


class _OnOurNodes(_Part):
    """How models are loaded and asked on nodes of ours (`headrace_contracts.model_settings`). What a role says goes
    before what its model says; None leaves it to the next.

    Attributes:
        num_ctx: Length of the context that a model is loaded with, in tokens.
        keep_alive: How long it stays in memory after a call: a duration such as 30m, or seconds; negative for ever.
        think: Whether it thinks first: off, on, low, medium or high.
        top_k: Sample from this many most likely tokens.
    """

    num_ctx: Annotated[int, BeforeValidator(lambda value: model_settings.context_length("it", value))] | None = None
    keep_alive: Annotated[str, BeforeValidator(lambda value: model_settings.duration("it", value))] | None = None
    think: Annotated[str, BeforeValidator(lambda value: model_settings.thinking("it", value))] | None = None
    top_k: Annotated[int, BeforeValidator(lambda value: model_settings.top_k("it", value))] | None = None


class ModelFacts(_OnOurNodes):
    """What is known of a local model, and how it is loaded and asked.

    Attributes:
        size_gb: Memory it takes, in 10⁹ bytes; None if that is not known.
        hardware: Labels that a node must have to count as offering it.
        quality: How good its answers are, from 0 to 1.
    """

    size_gb: float | None = Field(default=None, gt=0)
    hardware: dict[str, str] = {}
    quality: float | None = Field(default=None, ge=0, le=1)


def _provider_and_model(value: object) -> object:
    if isinstance(value, str):
        provider, slash, model = value.partition("/")
        if not slash or not provider or not model:
            raise ValueError("must be provider/model")
        return {"provider": provider, "model": model}
    return value


class ModelRef(_Part):
    """A model of a provider, written `provider/model`."""

    provider: str
    model: str


Ref = Annotated[ModelRef, BeforeValidator(_provider_and_model)]


class ResearchPolicy(_Part):
    """Searches before a model answers.

    Attributes:
        sources: Search engines to try for each query, the best first.
        most_queries: Most searches of a task, which run side by side.
        attempt_timeout: Milliseconds from the dispatch of a search until it is given up.
        within: Milliseconds from the first search until the task goes on with what has been found.
        most_bytes: Most bytes of what is found that are kept in the journal, and shown to the model.
        without_sources: What becomes of a task for which nothing is found: it fails, or a model answers and is told to
            say that its answer rests on no sources.
    """

    sources: tuple[Ref, ...] = Field(min_length=1)
    most_queries: int = Field(default=3, gt=0, le=MOST_QUERIES)
    attempt_timeout: int = Field(default=10_000, ge=100)
    within: int = Field(default=30_000, ge=100)
    most_bytes: int = Field(default=24_576, ge=4_096, le=262_144)
    without_sources: Literal["fail", "answer"] = "fail"

    @cached_property
    def as_role(self) -> RolePolicy:
        """The sources as the models of a role: they are chosen by the same rules."""
        return RolePolicy(models=self.sources, ladder=(), strategy="listed")


class MemberPolicy(_Part):
    """A member of an ensemble.

    Attributes:
        part: What it is for: a first answer, a check of it by other means, or the technical side.
        models: Models to try, the best first.
        system_prompt: What it is told first, in place of the role's.
    """

    part: Literal["primary", "validation", "technical"]
    models: tuple[Ref, ...] = Field(min_length=1)
    system_prompt: str | None = Field(default=None, min_length=1)


class EnsemblePolicy(_Part):
    """Several models that answer together.

    Attributes:
        use: For all tasks of the role that do not forbid it, or only for those that ask for it.
        members: Who is asked, side by side. Equal ones are asked at different nodes.
        combine: What chooses the answer: a vote, a judge, or what makes the best of several (`decide.agreement`).
        judge: Models that choose the answer, the best first.
        quorum: So many members must have answered, or the task fails.
        within: Milliseconds from the first attempt until the task goes on without members that have not answered.
        judge_within: Milliseconds for the judge; without a word of it until then the vote counts.
        goal: The coherence of the answers that is wanted, from 0 to 1; it is reported whether they had it.
    """

    use: Literal["always", "on_request"] = "on_request"
    members: tuple[MemberPolicy, ...] = Field(min_length=2, max_length=7)
    combine: Literal["vote", "judge", "best_of"] = "vote"
    judge: tuple[Ref, ...] = ()
    quorum: int = Field(default=2, ge=1)
    within: int = Field(default=6_500, ge=100)
    judge_within: int = Field(default=2_500, ge=100)
    goal: float = Field(default=0.85, ge=0, le=1)

    @model_validator(mode="after")
    def _can_be_had(self) -> Self:
        if self.quorum > len(self.members):
            raise ValueError(f"quorum: {self.quorum} cannot be reached by {len(self.members)} members")
        if (self.combine == "judge") != bool(self.judge):
            raise ValueError("judge: models are to be given with combine: judge, and with nothing else")
        if not any(member.part == "primary" for member in self.members):
            raise ValueError("members: one must be primary")
        return self


class ValidatorPolicy(_Part):
    """Models that rate the answers of others.

    Attributes:
        models: Models to try, the best first.
        at_least: The least rating of an answer that is good enough, from 0 to 1.
        system_prompt: What they are told first, before the form of their reply.
    """

    models: tuple[Ref, ...] = Field(min_length=1)
    at_least: float = Field(default=0.7, ge=0, le=1)
    system_prompt: str | None = Field(default=None, min_length=1)


class CascadePolicy(_Part):
    """Models that are asked one after another, the smallest first, until an answer passes all tests of confidence that
    can be made of it. One of which no test can be made has not passed.

    Attributes:
        use: For all tasks of the role that do not forbid it, or only for those that ask for it.
        rungs: The ladder, from the smallest model up. The answer of the last one is not tested.
        fits_schema: The answer fits the JSON Schema of the task, where it has one.
        logprob: Least mean probability of its tokens (geometric), from 0 to 1, where the model gives probabilities.
        self_rating: Least rating by the model itself, which is asked once more.
        validator: Models that rate the answer.
        rating_within: Milliseconds for a rating; without one until then the answer has not passed.
        time_to_escalate: With fewer milliseconds left before the deadline no further rung is asked.
    """

    use: Literal["always", "on_request"] = "on_request"
    rungs: tuple[Ref, ...] = Field(min_length=2, max_length=8)
    fits_schema: bool = True
    logprob: float | None = Field(default=None, ge=0, le=1)
    self_rating: float | None = Field(default=None, ge=0, le=1)
    validator: ValidatorPolicy | None = None
    rating_within: int = Field(default=10_000, ge=100)
    time_to_escalate: int = Field(default=2_000, ge=0)

    @model_validator(mode="after")
    def _can_pass(self) -> Self:
        if len(set(self.rungs)) < len(self.rungs):
            raise ValueError("rungs: each model has one rung")
        if not self.fits_schema and self.logprob is None and self.self_rating is None and self.validator is None:
            raise ValueError("rungs: without a test of confidence every answer would be the last rung's")
        return self


class RolePolicy(_OnOurNodes):
    """A kind of work. How models are loaded and asked for it concerns nodes of ours only.

    Attributes:
        models: Models to try, the best first. Those of the cloud ladder follow.
        system_prompt: Put before the conversation.
        privacy: Lowest level of its tasks.
        always_local: Tasks of this role never leave local nodes, whatever they or the preferences say.
        lane: Lane of tasks that do not name one.
        ladder: Cloud models in the order to try them, instead of the policy's; empty for none.
        strategy: How the models and the ladder are put in order, instead of the policy's.
        research: Searches before the model answers; none by default.
        cascade: Models that are asked one after another until an answer is good enough; none by default.
        ensemble: Models that answer together; none by default.
    """

    models: tuple[Ref, ...] = Field(min_length=1)
    system_prompt: str | None = None
    privacy: Privacy | None = None
    always_local: bool = False
    lane: Lane | None = None
    ladder: tuple[Ref, ...] | None = None
    strategy: Strategy | None = None
    research: ResearchPolicy | None = None
    cascade: CascadePolicy | None = None
    ensemble: EnsemblePolicy | None = None

    @model_validator(mode="after")
    def _one_way_to_answer(self) -> Self:
        if self.cascade is not None and self.ensemble is not None and self.cascade.use == self.ensemble.use == "always":
            raise ValueError("ensemble: only one of cascade and ensemble can be for all tasks of a role")
        return self

    def without(self, gone: frozenset[ModelRef]) -> Self:
        """The role whose cascade and ensemble ask none of these models; without one of which too little is left."""

        def left(refs: tuple[ModelRef, ...]) -> tuple[ModelRef, ...]:
            return tuple(ref for ref in refs if ref not in gone)

        cascade, ensemble = self.cascade, self.ensemble
        if cascade is not None:
            rater = cascade.validator
            rated = rater is None or bool(left(rater.models))
            if rater is not None:
                rater = rater.model_copy(update={"models": left(rater.models)})
            enough = len(left(cascade.rungs)) > 1 and rated
            update = {"rungs": left(cascade.rungs), "validator": rater}
            cascade = cascade.model_copy(update=update) if enough else None
        if ensemble is not None:
            members = [one.model_copy(update={"models": left(one.models)}) for one in ensemble.members]
            members = [one for one in members if one.models]
            judge = left(ensemble.judge)
            enough = len(members) >= max(2, ensemble.quorum) and any(one.part == "primary" for one in members)
            combine = ensemble.combine if judge or ensemble.combine != "judge" else "vote"
            update_of = {"members": tuple(members), "judge": judge, "combine": combine}
            ensemble = ensemble.model_copy(update=update_of) if enough else None
        return self.model_copy(update={"cascade": cascade, "ensemble": ensemble})

    @property
    def panel_models(self) -> Sequence[tuple[str, tuple[ModelRef, ...]]]:
        """The models of its cascade and its ensemble, each list by its path in the policy."""
        found: list[tuple[str, tuple[ModelRef, ...]]] = []
        if self.cascade is not None:
            found.append(("cascade.rungs", self.cascade.rungs))
            if self.cascade.validator is not None:
                found.append(("cascade.validator.models", self.cascade.validator.models))
        if self.ensemble is not None:
            members = enumerate(self.ensemble.members)
            found += [(f"ensemble.members.{place}.models", member.models) for place, member in members]
            found.append(("ensemble.judge", self.ensemble.judge))
        return found


class Policy(_Part):
    """All routing rules.

    Attributes:
        strategy: How the candidates of a task are put in order.
        throughput: Tokens per second that the strategy `throughput-at-least` asks for.
        data: What providers must fulfil.
        detectors: Detectors of personal data and secrets that look at each task, and the level that each raises it to;
            none by default.
    """

    defaults: Defaults
    deadlines: Deadlines
    attempts: Attempts
    retry: Retry = Retry()
    cache: CacheLimits = CacheLimits()
    providers: dict[str, ProviderPolicy] = Field(min_length=1)
    models: dict[str, ModelFacts] = {}
    strategy: Strategy = "listed"
    throughput: float = Field(default=30.0, gt=0)
    data: DataRules = DataRules()
    detectors: dict[Detector, Privacy] = {}
    ladder: tuple[Ref, ...] = ()
    roles: dict[str, RolePolicy] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        problems = []
        if self.defaults.role not in self.roles:
            problems.append(f"defaults.role: there is no role {self.defaults.role!r}")
        lists = {"ladder": self.ladder}
        for name, role in self.roles.items():
            lists[f"roles.{name}.models"] = role.models
            lists[f"roles.{name}.ladder"] = role.ladder or ()
            lists[f"roles.{name}.research.sources"] = role.research.sources if role.research is not None else ()
            lists |= {f"roles.{name}.{path}": refs for path, refs in role.panel_models}
        for path, refs in lists.items():
            for index, ref in enumerate(refs):
                provider = self.providers.get(ref.provider)
                if provider is None:
                    problems.append(f"{path}.{index}: there is no provider {ref.provider!r}")
                elif path.endswith("ladder") and provider.place is not Place.CLOUD:
                    problems.append(f"{path}.{index}: {ref.provider!r} is not a cloud provider")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @model_validator(mode="after")
    def _a_fallback_is_in_time(self) -> Self:
        if self.retry.attempts == 1:
            return self
        problems = []
        for lane in Lane:
            timeout = self.attempts.timeout.of(lane)
            deadline = min(self.deadlines.default.of(lane), self.deadlines.longest)
            if 2 * timeout >= deadline:
                problems.append(
                    f"attempts.timeout.{lane}: after an attempt of {timeout} ms the deadline of {deadline} ms "
                    f"(deadlines.default.{lane}, at most deadlines.longest) leaves no time for a whole second one; "
                    f"set attempts.timeout.{lane} below {-(-deadline // 2)}, or that deadline above {2 * timeout}"
                )
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @cached_property
    def version(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 of all values: equal policies have equal versions."""
        return hashlib.sha256(_canonical(self.model_dump(mode="json")).encode()).hexdigest()[:12]

    def incapable(self, provider: str, model: str, demanded: frozenset[str]) -> frozenset[str]:
        """What a model cannot do of what is demanded, as far as the policy says so."""
        known = self.providers.get(provider)
        stated = None if known is None else known.models.get(model)
        if stated is None or stated.capabilities is None:
            return frozenset()
        return demanded.difference(stated.capabilities)

    def quality(self, provider: str, model: str) -> float:
        """How good a model's answers are, from 0 to 1; in the middle if the policy does not say."""
        known = self.providers.get(provider)
        stated = None if known is None else known.models.get(model)
        if stated is not None and stated.quality is not None:
            return stated.quality
        facts = self.models.get(model) if known is not None and known.place is Place.LOCAL else None
        return UNKNOWN_QUALITY if facts is None or facts.quality is None else facts.quality

    def handling(self, provider: str) -> DataHandling | None:
        """What a provider does with what it is sent; None if the policy does not say."""
        known = self.providers.get(provider)
        return None if known is None else known.data

    def settings(self, role: RolePolicy | None, model: str) -> ModelSettings | None:
        """How a node of ours is to load and ask a model for a role; None as the node is set."""
        said = [one for one in (role, self.models.get(model)) if one is not None]
        found = ModelSettings(
            num_ctx=next((one.num_ctx for one in said if one.num_ctx is not None), None),
            keep_alive=next((one.keep_alive for one in said if one.keep_alive is not None), None),
            think=next((one.think for one in said if one.think is not None), None),
            top_k=next((one.top_k for one in said if one.top_k is not None), None),
        )
        return None if found == ModelSettings() else found

    def place(self, provider: str) -> Place:
        """Whether a provider is local or in the cloud. One that is not in the policy counts as cloud."""
        known = self.providers.get(provider)
        return Place.CLOUD if known is None else known.place


def _canonical(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{key!r}:{_canonical(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_canonical(item) for item in value) + "]"
    return repr(value)
