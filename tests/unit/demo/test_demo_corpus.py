"""From files to jobs."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

import pytest
from headrace_devstack.demo.corpus import (
    DOMAINS,
    SENSITIVE_PATTERNS,
    Commit,
    Corpus,
    Job,
    JobPrivacy,
    Plan,
    SourceFile,
    Way,
    is_sensitive,
    make_plan,
    marker_of,
)
from headrace_devstack.demo.source import read_folder
from headrace_devstack.errors import CorrectTheSetting
from hypothesis import given
from hypothesis import strategies as st

TENANTS = ("a", "b", "c")


def _corpus(files: int = 60, sensitive: int = 8, commits: int = 50) -> Corpus:
    code = [SourceFile(f"src/m{n}.py", f"def f{n}() -> int:\n    return {n}\n" * 9, False) for n in range(files)]
    secret = [SourceFile(f"src/auth/s{n}.py", f"SECRET = {n}\n" * 20, True) for n in range(sensitive)]
    return Corpus("/x", (*code, *secret), tuple(Commit(f"{n:07x}", f"Change {n}") for n in range(commits)))


def _plan(tasks: int = 300, agents: int = 100, corpus: Corpus | None = None) -> Plan:
    return make_plan(corpus or _corpus(), tasks=tasks, agents=agents, tenants=TENANTS, run="r", seed=1)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("src/auth/login.py", True), ("lib/Authentication.py", True), (".env", True), ("deploy/.env.production", True),
        ("certs/server.pem", True), ("api_keys.py", True), ("docs/SECRETS.md", True), ("src/monkey.py", False),
        ("src/parser.py", False), ("README.md", False), ("access/Rules.avsc", True),
    ],
)  # fmt: skip
def test_what_is_sensitive(path: str, expected: bool) -> None:
    assert is_sensitive(path, SENSITIVE_PATTERNS) is expected


def test_whose_patterns_count() -> None:
    assert is_sensitive("src/auth/login.py", ("*internal*",)) is False
    assert is_sensitive("src/internal/x.py", ("*internal*",)) is True
    assert is_sensitive("src/a/b.py", ("src/a/*",)) is True


def test_a_plan_has_the_tasks_asked_for_in_all_roles_ways_and_levels() -> None:
    plan = _plan()
    assert len(plan.jobs) == 300
    assert len(plan.agents) == 100
    assert {job.role for job in plan.jobs} == {
        "documentation", "code_reviewer", "testing", "security_reviewer", "changelog_writer",
    }  # fmt: skip
    assert {agent.way for agent in plan.agents} == set(Way)
    assert {job.privacy for job in plan.jobs} == set(JobPrivacy)
    assert {job.priority for job in plan.jobs} == {"interactive", "batch"}
    assert {(agent.tenant, agent.way) for agent in plan.agents} == {(t, w) for t in TENANTS for w in Way}


def test_every_job_on_a_sensitive_file_is_sensitive_and_carries_its_marker_and_no_other_job_does() -> None:
    jobs = _plan().jobs
    markers = {marker_of("r", f"src/auth/s{n}.py") for n in range(8)}
    for job in jobs:
        is_secret = "src/auth/" in job.subject
        assert (job.privacy is JobPrivacy.SENSITIVE) is is_secret
        assert (job.marker is not None) is is_secret
        assert any(marker in job.prompt for marker in markers) is is_secret
        if job.marker is not None:
            assert job.marker in job.prompt
    assert sum(job.marker is not None for job in jobs) > 20


def test_markers_tell_files_and_runs_apart() -> None:
    assert len({marker_of(run, path) for run in "ab" for path in ("x", "y")}) == 4


def test_twins_repeat_a_colleagues_job_word_for_word() -> None:
    plan = _plan()
    by_number = {job.number: (job, agent) for agent in plan.agents for job in agent.jobs}
    assert len(by_number) == len(plan.jobs)
    twins = [(job, agent) for job, agent in by_number.values() if job.twin_of is not None]
    assert len(twins) == 45
    for twin, agent in twins:
        assert twin.twin_of is not None
        original, colleague = by_number[twin.twin_of]
        assert (twin.prompt, twin.role, twin.privacy) == (original.prompt, original.role, original.privacy)
        assert agent.tenant == colleague.tenant
        assert agent.name != colleague.name
    together = [twin for twin, agent in twins if agent.jobs[0].number == twin.number]
    assert len(together) >= 15
    assert all(by_number[t.twin_of or 0][1].jobs[0].number == t.twin_of for t in together)


def test_in_every_way_some_jobs_are_done_with_tools_and_none_of_them_is_repeated() -> None:
    plan = _plan()
    done = [(job, agent) for agent in plan.agents for job in agent.jobs]
    assert {agent.way for job, agent in done if job.with_tools} == set(Way)
    assert {job.kind for job, _ in done if job.with_tools} == {"documentation", "review", "test ideas"}
    assert {job.kind for job, _ in done if job.structured} == {"review", "security audit"}
    assert {job.privacy for job, _ in done if job.with_tools} == set(JobPrivacy)
    assert 60 <= sum(job.with_tools for job, _ in done) <= 180
    repeated = {job.twin_of for job, _ in done}
    assert not [job for job, _ in done if job.with_tools and (job.twin_of is not None or job.number in repeated)]


@pytest.mark.parametrize("path", ["a b.py", "it's.py", "src/größe@2x.py", "notes.tar.py"])
def test_a_file_whose_name_does_not_stand_in_a_sentence_is_put_into_the_prompt(path: str) -> None:
    jobs = _plan(corpus=Corpus("/x", (SourceFile(path, "x = 1\n" * 40, True),))).jobs
    assert not any(job.with_tools for job in jobs)


def test_jobs_with_tools_do_not_contain_the_file_and_have_a_prompt_that_does() -> None:
    for job in (job for job in _plan().jobs if job.with_tools):
        assert "read_file" in job.prompt
        assert "def f" not in job.prompt
        assert "SECRET" not in job.prompt
        assert "def f" in job.whole_prompt or "SECRET" in job.whole_prompt
        assert (job.marker is None) or (job.marker in job.prompt and job.marker in job.whole_prompt)


def test_jobs_that_are_no_twins_differ() -> None:
    prompts = Counter((job.role, job.prompt) for job in _plan().jobs if job.twin_of is None)
    assert set(prompts.values()) == {1}


def test_the_same_seed_deals_the_same_hands() -> None:
    corpus = _corpus()
    assert _plan(corpus=corpus) == _plan(corpus=corpus)
    assert _plan(corpus=corpus) != make_plan(corpus, tasks=300, agents=100, tenants=TENANTS, run="r", seed=2)


def test_some_agents_teach_and_everybody_follows_two_domains() -> None:
    plan = _plan()
    lessons = [(agent, job) for agent in plan.agents for job in agent.jobs if job.teaches]
    assert 15 <= len(lessons) <= 25
    assert len({job.teaches for _, job in lessons}) == len(lessons)
    assert all(job.privacy is not JobPrivacy.SENSITIVE for _, job in lessons)
    for agent in plan.agents:
        assert len(set(agent.interests)) == 2
        assert set(agent.interests) <= set(DOMAINS)
    for agent, job in lessons:
        assert plan.listeners(agent.tenant, job.kind.replace(" ", "-"))


def test_without_commits_the_others_make_up_for_the_changelog() -> None:
    jobs = _plan(corpus=_corpus(commits=0)).jobs
    assert len(jobs) == 300
    assert "changelog_writer" not in {job.role for job in jobs}


def test_a_small_folder_gives_as_many_jobs_as_it_can() -> None:
    corpus = Corpus("/x", (SourceFile("a.py", "x = 1\n" * 40, False),))
    jobs = _plan(corpus=corpus).jobs
    assert len({job.prompt for job in jobs}) == 9
    with pytest.raises(ValueError, match="no text files"):
        _plan(corpus=Corpus("/x", ()))


def test_a_large_file_is_worked_on_in_parts_that_hold_all_of_it() -> None:
    text = "".join(f"line {n}: {'x' * 60}\n" for n in range(400))
    corpus = Corpus("/x", (SourceFile("big.md", text, False),))
    jobs = [job for job in _plan(corpus=corpus).jobs if job.twin_of is None]
    assert {job.role for job in jobs} == {"documentation"}
    assert max(len(job.prompt) for job in jobs) < 5_000
    for n in range(400):
        assert any(f"line {n}: " in job.prompt for job in jobs)


@given(
    files=st.integers(1, 30), sensitive=st.integers(0, 5), commits=st.integers(0, 30), tasks=st.integers(1, 80),
    agents=st.integers(1, 40), seed=st.integers(0, 9),
)  # fmt: skip
def test_any_plan_is_consistent(files: int, sensitive: int, commits: int, tasks: int, agents: int, seed: int) -> None:
    plan = make_plan(
        _corpus(files, sensitive, commits), tasks=tasks, agents=agents, tenants=TENANTS, run="r", seed=seed
    )
    assert 1 <= len(plan.jobs) <= tasks
    assert len(plan.agents) <= agents
    assert all(agent.jobs for agent in plan.agents)
    assert len({job.number for job in plan.jobs}) == len(plan.jobs)


def test_a_folder_is_read_without_what_is_not_its_own(tmp_path: Path) -> None:
    body = "x = 1\n" * 60
    for name in ("src/main.py", ".git/config.py", "node_modules/dep.js", "src/.env.local", "notes.md", "api_keys.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(body)
    (tmp_path / "image.md").write_bytes(b"\xff\xfe" * 200)
    (tmp_path / "tiny.py").write_text("x")
    (tmp_path / "huge.py").write_text(body * 1000)
    corpus = read_folder(tmp_path, SENSITIVE_PATTERNS)
    assert {file.path: file.sensitive for file in corpus.files} == {
        "src/main.py": False, "src/.env.local": True, "notes.md": False, "api_keys.py": True,
    }  # fmt: skip
    assert corpus.commits == ()


def test_commits_come_from_the_history(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n" * 60)
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "Begin"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True, capture_output=True)
    (commit,) = read_folder(tmp_path, ()).commits
    assert commit.subject == "Begin"


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(CorrectTheSetting, match="is not a folder"):
        read_folder(tmp_path / "missing", ())


@pytest.mark.parametrize("floor", list(JobPrivacy))
@pytest.mark.parametrize("own", list(JobPrivacy))
def test_a_job_asks_for_the_stricter_of_its_own_level_and_its_tenants(own: JobPrivacy, floor: JobPrivacy) -> None:
    job = Job(1, "general", "k", "s", "p", own, "batch")
    strict = [JobPrivacy.PUBLIC, JobPrivacy.INTERNAL, JobPrivacy.SENSITIVE]
    assert job.level(floor) is strict[max(strict.index(own), strict.index(floor))]
