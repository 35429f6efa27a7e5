"""Turns files and commits into the jobs of a team. Pure: the same corpus, options and seed give the same jobs."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from itertools import chain, islice, zip_longest
from typing import Final

from headrace_devstack.demo.roles import FORM_OF_FINDINGS, ROLES, TeamRole, asks_to_use_tools

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

MOST_READ: Final = 8_000
"""Characters of a file that a tool gives: its beginning."""
_PART_CHARACTERS: Final = 4_000
_ONE_SENSITIVE_IN: Final = 8
_COMMITS_A_JOB: Final = 12
_TWINS_SHARE: Final = 0.15
_LONGEST_ANSWER: Final = 160
_LONGEST_WITH_TOOLS: Final = 400
_LONGEST_REPORT: Final = 800
_NAMED_PLAINLY: Final = re.compile(r"[\w.-]*/[\w./-]+|[\w-]+\.[a-z]{1,5}")
"""Paths that a model can take from a sentence as they are."""


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
    """How far a job's text may travel, the strictest first."""

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
    """A piece of work: one task, or with tools one for each round of its agent with the model.

    Attributes:
        number: Identifies the job; twins have numbers of their own.
        prompt: What the model is asked; with tools, it names the file.
        whole_prompt: With tools, a prompt that contains the file, for models that cannot call any.
        with_tools: Whether the model may read files and search them.
        structured: Whether the answer is a list of findings, as JSON.
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
    with_tools: bool = False
    whole_prompt: str = ""
    structured: bool = False

    @property
    def max_tokens(self) -> int:
        """Most output tokens of each of its tasks."""
        return _LONGEST_REPORT if self.structured else _LONGEST_WITH_TOOLS if self.with_tools else _LONGEST_ANSWER

    def level(self, floor: JobPrivacy) -> JobPrivacy:
        """The level to ask for, of a tenant that demands a level of all its tasks."""
        order = list(JobPrivacy)
        return min(self.privacy, floor, key=order.index)


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


DOMAINS: Final = tuple(role.kind.replace(" ", "-") for role in ROLES)
"""The domains that agents can follow."""


def is_sensitive(path: str, patterns: Sequence[str]) -> bool:
    """Whether the name of a file or of a parent folder, or the whole path, matches a pattern, ignoring case."""
    names = (*path.lower().split("/"), path.lower())
    return any(fnmatchcase(name, pattern.lower()) for name in names for pattern in patterns)


def marker_of(run: str, path: str) -> str:
    """A text that is in no file: a provider that has it was sent this file's prompt in this run."""
    return "hr-confidential-" + hashlib.sha256(f"{run}\0{path}".encode()).hexdigest()[:24]


def make_plan(corpus: Corpus, *, tasks: int, agents: int, tenants: Sequence[str], run: str, seed: int = 1) -> Plan:
    """Jobs for a team on this corpus: `tasks` of them, or fewer if the folder does not have enough material.

    A job is one task, or with tools several. Raises ValueError for a corpus without any job, and for less than one
    task, agent or tenant.
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
    sources = {role.role: _ideas(role, corpus, run) for role in ROLES}
    jobs: list[Job] = []
    for role in ROLES:
        jobs += islice(sources[role.role], int(wanted * role.share))
    left = chain.from_iterable(zip_longest(*sources.values()))
    jobs += islice((job for job in left if job is not None), wanted - len(jobs))
    chance.shuffle(jobs)
    return [replace(job, number=number) for number, job in enumerate(jobs, start=1)]


def _ideas(role: TeamRole, corpus: Corpus, run: str) -> Iterator[Job]:
    for angle in role.angles:
        if role.role == "changelog_writer":
            yield from _history_jobs(role, angle, corpus.commits)
            continue
        files = [file for file in corpus.files if file.is_code or role.role not in ("code_reviewer", "testing")]
        secret = (job for file in files if file.sensitive for job in _file_jobs(role, angle, file, run))
        others = (job for file in files if not file.sensitive for job in _file_jobs(role, angle, file, run))
        if role.role != "security_reviewer":
            # Some sensitive files come early, however late their names do.
            for place, job in enumerate(others):
                if place % _ONE_SENSITIVE_IN == 0:
                    yield from islice(secret, 1)
                yield job
        yield from secret


def _file_jobs(role: TeamRole, angle: str, file: SourceFile, run: str) -> Iterator[Job]:
    with_tools = role.tools and bool(_NAMED_PLAINLY.fullmatch(file.path)) and _read_by_model(file, angle)
    parts = [file.text[:MOST_READ]] if with_tools else parts_of(file.text)
    for index, part in enumerate(parts, start=1):
        which = f", part {index} of {len(parts)}" if len(parts) > 1 else ""
        marker = marker_of(run, file.path) if file.sensitive else None
        head = f"{angle}\n{notice_of(marker)}File: {file.path}{which}\n"
        form = FORM_OF_FINDINGS if role.structured else ""
        whole = f"{head}{form}\n{part}"
        yield Job(
            number=0,
            role=role.role,
            kind=role.kind,
            subject=file.path + which,
            prompt=f"{head}{asks_to_use_tools(role, file.path, file.text)}" if with_tools else whole,
            privacy=privacy_of(file),
            priority=role.priority,
            marker=marker,
            with_tools=with_tools,
            whole_prompt=whole if with_tools else "",
            structured=role.structured,
        )


def _read_by_model(file: SourceFile, angle: str) -> bool:
    """Whether the model is to read a file itself: the sensitive ones, and every other of the rest."""
    return file.sensitive or hashlib.sha256(f"{angle}\0{file.path}".encode()).digest()[0] % 2 == 0


def notice_of(marker: str | None) -> str:
    """The line that stands above the text of a sensitive file."""
    return f"Confidential, reference {marker}.\n" if marker else ""


def privacy_of(file: SourceFile) -> JobPrivacy:
    """How far the text of a file may travel."""
    if file.sensitive:
        return JobPrivacy.SENSITIVE
    # Files that are public anyway may go anywhere; of the others one in three.
    public = file.path.endswith((".md", ".rst", ".avsc")) or hashlib.sha256(file.path.encode()).digest()[0] % 3 == 0
    return JobPrivacy.PUBLIC if public else JobPrivacy.INTERNAL


def _history_jobs(role: TeamRole, angle: str, commits: Sequence[Commit]) -> Iterator[Job]:
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


def parts_of(text: str) -> list[str]:
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

    Equal tasks of one tenant in flight share one answer; those that come later are served from the cache. Jobs with
    tools are not repeated: an answer that calls tools serves its own task alone.
    """
    by_tenant: dict[str, list[int]] = {}
    for index, tenant in enumerate(tenant_of):
        by_tenant.setdefault(tenant, []).append(index)
    # Agents whose job is repeated keep it as their first, so that it is in flight when its twin comes.
    pairs = [
        (giver, receiver)
        for members in by_tenant.values()
        for giver, receiver in zip(members[::2], members[1::2], strict=False)
        if _begins_with_one_task(hands[giver])
    ]
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


def _begins_with_one_task(jobs: list[Job]) -> bool:
    """Whether a job without tools is the first, or could be put there."""
    place = next((place for place, job in enumerate(jobs) if not job.with_tools), None)
    if place is not None:
        jobs.insert(0, jobs.pop(place))
    return place is not None
