"""Turns files and commits into the jobs of a team. Pure: the same corpus, options and seed give the same jobs."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from itertools import chain, islice, zip_longest
from typing import Final

SENSITIVE_PATTERNS: Final = (
    "*secret*", "*auth*", "*keys*", "*access*", "*password*", "*credential*", "*.pem", ".env*",
)  # fmt: skip
"""Name patterns of files and folders whose content must not leave local nodes, unless the user sets others."""

CODE_SUFFIXES: Final = (
    ".py", ".js", ".ts", ".tsx", ".go", ".rs", ".java", ".kt", ".c", ".h", ".cc", ".cpp", ".cs", ".rb", ".php",
    ".swift", ".sh", ".sql",
)  # fmt: skip
TEXT_SUFFIXES: Final = (
    *CODE_SUFFIXES,
    ".md",
    ".rst",
    ".txt",
    ".toml",
    ".yaml",
    ".yml",
    ".ini",
    ".cfg",
    ".avsc",
    ".env",
)

_PART_CHARACTERS: Final = 4_000
_COMMITS_A_JOB: Final = 12
_TWINS_SHARE: Final = 0.15
_LONGEST_ANSWER: Final = 160


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of the folder; `path` is relative to it, with slashes."""

    path: str
    text: str
    sensitive: bool

    @property
    def is_code(self) -> bool:
        return self.path.endswith(CODE_SUFFIXES)


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit of the folder's history."""

    id: str
    subject: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """The material to work on."""

    folder: str
    files: tuple[SourceFile, ...]
    commits: tuple[Commit, ...] = ()


class JobPrivacy(StrEnum):
    """How far a job's text may travel."""

    SENSITIVE = "sensitive"
    INTERNAL = "internal"
    PUBLIC = "public"


class Way(StrEnum):
    """The API that an agent uses."""

    HTTP = "HTTP"
    OPENAI = "OpenAI API"
    KAFKA = "Kafka"


@dataclass(frozen=True, slots=True)
class Job:
    """One task to be submitted.

    Attributes:
        number: Identifies the job; twins have numbers of their own.
        marker: Text that only this file's prompts contain, for sensitive files.
        twin_of: The job that this one repeats word for word.
        teaches: Name of the skill that the agent publishes after it.
    """

    number: int
    role: str
    kind: str
    subject: str
    prompt: str
    privacy: JobPrivacy
    priority: str
    marker: str | None = None
    twin_of: int | None = None
    teaches: str | None = None
    max_tokens: int = _LONGEST_ANSWER


@dataclass(frozen=True, slots=True)
class Agent:
    """A member of the team, and its jobs in their order."""

    name: str
    tenant: str
    way: Way
    interests: tuple[str, ...]
    jobs: tuple[Job, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The jobs of each agent."""

    agents: tuple[Agent, ...]

    @property
    def jobs(self) -> tuple[Job, ...]:
        return tuple(job for agent in self.agents for job in agent.jobs)

    @property
    def tenants(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(agent.tenant for agent in self.agents))

    def listeners(self, tenant: str, interest: str) -> tuple[Agent, ...]:
        """The agents that receive a skill of this domain."""
        return tuple(agent for agent in self.agents if agent.tenant == tenant and interest in agent.interests)


@dataclass(frozen=True, slots=True)
class _Role:
    role: str
    kind: str
    share: float
    priority: str
    angles: tuple[str, ...]


_ROLES: Final = (
    _Role("documentation", "documentation", 0.30, "batch", (
        "Document this module for the people who will use it.",
        "Write the paragraph of a README that introduces this module.",
        "Explain this module to a programmer who joins the team today.",
    )),
    _Role("code_reviewer", "review", 0.25, "interactive", (
        "Review this code. Look for defects first.",
        "Review how this code handles errors.",
        "Review the names and the structure of this code.",
    )),
    _Role("testing", "test ideas", 0.20, "batch", (
        "List test ideas for this code, edges first.",
        "List the properties of this code that a test over random input could hold.",
        "List the failures of its environment that this code should be tested against.",
    )),
    _Role("security_reviewer", "security audit", 0.15, "interactive", (
        "Audit this confidential file for security.",
        "Audit what this confidential file does with what it is given from outside.",
        "Audit what this confidential file might tell in logs and errors.",
    )),
    _Role("changelog_writer", "changelog", 0.10, "batch", (
        "Write a changelog for users from this git history.",
        "Write release notes for operators from this git history.",
    )),
)  # fmt: skip

DOMAINS: Final = tuple(role.kind.replace(" ", "-") for role in _ROLES)
"""The domains that agents can follow."""


def is_sensitive(path: str, patterns: Sequence[str]) -> bool:
    """Whether the name of a file or of a parent folder, or the whole path, matches a pattern, ignoring case."""
    names = (*path.lower().split("/"), path.lower())
    return any(fnmatchcase(name, pattern.lower()) for name in names for pattern in patterns)


def marker_of(run: str, path: str) -> str:
    """A text that is in no file: a provider that has it was sent this file's prompt in this run."""
    return "hr-confidential-" + hashlib.sha256(f"{run}\0{path}".encode()).hexdigest()[:24]


def make_plan(corpus: Corpus, *, tasks: int, agents: int, tenants: Sequence[str], run: str, seed: int = 1) -> Plan:
    """Jobs for a team on this corpus: at most `tasks`, fewer if the folder does not have enough material.

    Raises ValueError for a corpus without any job, and for less than one task, agent or tenant.
    """
    if min(tasks, agents, len(tenants)) < 1:
        raise ValueError("a demo needs at least one task, one agent and one tenant")
    chance = random.Random(seed)
    twins = int(tasks * _TWINS_SHARE)
    unique = _unique_jobs(corpus, tasks - twins, run, chance)
    if not unique:
        raise ValueError(f"{corpus.folder} has no text files and no git history to work on")
    team = min(agents, len(unique))
    hands: list[list[Job]] = [list(unique[index::team]) for index in range(team)]
    tenant_of = [tenants[index % len(tenants)] for index in range(team)]
    _give_twins(hands, tenant_of, min(twins, len(unique)), len(unique), chance)
    return Plan(
        tuple(
            Agent(
                name=f"agent-{index + 1:03}",
                tenant=tenant_of[index],
                way=_way_of(index),
                interests=_interests_of(index),
                jobs=_with_lessons(jobs, index),
            )
            for index, jobs in enumerate(hands)
        )
    )


def _way_of(index: int) -> Way:
    # In tens, independent of the tenants' rotation: half native HTTP, three OpenAI clients, two on Kafka.
    return (Way.HTTP, Way.KAFKA, Way.OPENAI, Way.HTTP, Way.OPENAI, Way.HTTP, Way.KAFKA, Way.HTTP, Way.OPENAI, Way.HTTP)[
        index // 3 % 10
    ]


def _interests_of(index: int) -> tuple[str, ...]:
    first = index % len(DOMAINS)
    return (DOMAINS[first], DOMAINS[(first + 1 + index // len(DOMAINS) % 3) % len(DOMAINS)])


def _with_lessons(jobs: list[Job], index: int) -> tuple[Job, ...]:
    # One agent in four has learned something from its first job that is useful to others.
    if index % 4 or not jobs or jobs[0].privacy is JobPrivacy.SENSITIVE:
        return tuple(jobs)
    first = jobs[0]
    return (replace(first, teaches=f"{first.kind.replace(' ', '-')}-lesson-{index + 1}"), *jobs[1:])


def _unique_jobs(corpus: Corpus, wanted: int, run: str, chance: random.Random) -> list[Job]:
    """Different jobs, each role by its share; if one role runs out, the others make up for it."""
    sources = {role.role: _ideas(role, corpus, run) for role in _ROLES}
    jobs: list[Job] = []
    for role in _ROLES:
        jobs += islice(sources[role.role], int(wanted * role.share))
    left = chain.from_iterable(zip_longest(*sources.values()))
    jobs += islice((job for job in left if job is not None), wanted - len(jobs))
    chance.shuffle(jobs)
    return [replace(job, number=number) for number, job in enumerate(jobs, start=1)]


def _ideas(role: _Role, corpus: Corpus, run: str) -> Iterator[Job]:
    for angle in role.angles:
        if role.role == "changelog_writer":
            yield from _history_jobs(role, angle, corpus.commits)
            continue
        for file in corpus.files:
            if role.role == "security_reviewer" and not file.sensitive:
                continue
            if role.role in ("code_reviewer", "testing") and not file.is_code:
                continue
            yield from _file_jobs(role, angle, file, run)


def _file_jobs(role: _Role, angle: str, file: SourceFile, run: str) -> Iterator[Job]:
    parts = _parts(file.text)
    for index, part in enumerate(parts, start=1):
        which = f", part {index} of {len(parts)}" if len(parts) > 1 else ""
        marker = marker_of(run, file.path) if file.sensitive else None
        notice = f"Confidential, reference {marker}.\n" if marker else ""
        yield Job(
            number=0,
            role=role.role,
            kind=role.kind,
            subject=file.path + which,
            prompt=f"{angle}\n{notice}File: {file.path}{which}\n\n{part}",
            privacy=_privacy_of(file, index),
            priority=role.priority,
            marker=marker,
        )


def _privacy_of(file: SourceFile, part: int) -> JobPrivacy:
    if file.sensitive:
        return JobPrivacy.SENSITIVE
    # Files that are public anyway may go anywhere; of the others one in three.
    public = file.path.endswith((".md", ".rst", ".avsc")) or hashlib.sha256(file.path.encode()).digest()[0] % 3 == 0
    return JobPrivacy.PUBLIC if public else JobPrivacy.INTERNAL


def _history_jobs(role: _Role, angle: str, commits: Sequence[Commit]) -> Iterator[Job]:
    for begin in range(0, len(commits), _COMMITS_A_JOB):
        chunk = commits[begin : begin + _COMMITS_A_JOB]
        lines = "\n".join(f"{commit.id} {commit.subject}" for commit in chunk)
        yield Job(
            number=0,
            role=role.role,
            kind=role.kind,
            subject=f"{chunk[-1].id}..{chunk[0].id}",
            prompt=f"{angle}\n\n{lines}",
            privacy=JobPrivacy.PUBLIC,
            priority=role.priority,
        )


def _parts(text: str) -> list[str]:
    """The text in parts of whole lines, none much longer than a prompt should be."""
    parts: list[str] = []
    lines: list[str] = []
    size = 0
    for line in text.splitlines(keepends=True):
        if lines and size + len(line) > _PART_CHARACTERS:
            parts.append("".join(lines))
            lines, size = [], 0
        lines.append(line[:_PART_CHARACTERS])
        size += len(lines[-1])
    if lines:
        parts.append("".join(lines))
    return parts


def _give_twins(
    hands: list[list[Job]], tenant_of: Sequence[str], wanted: int, numbered: int, chance: random.Random
) -> None:
    """Give some agents exactly the job of a colleague: half at the same time, half long after it is done.

    Equal tasks of one tenant in flight share one answer; those that come later are served from the cache.
    """
    by_tenant: dict[str, list[int]] = {}
    for index, tenant in enumerate(tenant_of):
        by_tenant.setdefault(tenant, []).append(index)
    # Agents whose job is repeated keep it as their first, so that it is in flight when its twin comes.
    pairs = [pair for members in by_tenant.values() for pair in zip(members[::2], members[1::2], strict=False)]
    if not pairs:
        return
    chance.shuffle(pairs)
    first_jobs = {giver: hands[giver][0] for giver, _ in pairs}
    for place in range(wanted):
        giver, receiver = pairs[place % len(pairs)]
        twin = replace(first_jobs[giver], number=numbered + place + 1, twin_of=first_jobs[giver].number)
        if place < min(wanted // 2, len(pairs)):
            hands[receiver].insert(0, twin)
        else:
            hands[receiver].append(twin)
