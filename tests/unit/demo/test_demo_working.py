"""How agents do their jobs with a model: the simulator's, asked without a network."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from headrace import (
    AnswerChoice,
    Failure,
    Message,
    Prompt,
    RefusalText,
    Task,
    TaskOptions,
    Text,
    ToolCall,
    Unavailable,
)
from headrace.asking import Asking
from headrace.message_documents import documents_of
from headrace.pieces import OnPiece
from headrace.tools import tools_of
from headrace_contracts.ids import new_id
from headrace_devstack.demo.corpus import (
    Agent,
    Commit,
    Corpus,
    Job,
    JobPrivacy,
    SourceFile,
    Way,
    make_plan,
    marker_of,
)
from headrace_devstack.demo.outcomes import JobOutcome
from headrace_devstack.demo.repository import Repository
from headrace_devstack.demo.working import Workplace, do_job
from headrace_models.conversation import ToolSelection
from headrace_models.simulator.catalog import GROQ
from headrace_models.simulator.exchange import Prompt as ModelPrompt
from headrace_models.simulator.exchange import compose, messages_of, offered_tools

AGENT = Agent("agent-1", "acme", Way.HTTP, (), ())


def _corpus() -> Corpus:
    code = [SourceFile(f"src/m{n}.py", f"def double{n}() -> int:\n    return {n}\n" * 9, False) for n in range(30)]
    secret = [SourceFile(f"src/auth/s{n}.py", f"def unlock{n}() -> int:\n    return {n}\n" * 9, True) for n in range(6)]
    return Corpus("/x", (*code, *secret), tuple(Commit(f"{n:07x}", f"Change {n}") for n in range(20)))


CORPUS = _corpus()
JOBS = make_plan(CORPUS, tasks=120, agents=12, tenants=("a", "b"), run="r").jobs
REPOSITORY = Repository(CORPUS, "r")


@dataclass
class SimulatedModel(Asking):
    """The simulator's model; `rounds` has what it was asked. With `able` false, none can call tools."""

    able: bool = True
    rounds: list[tuple[list[dict[str, Any]], TaskOptions]] = field(default_factory=list)

    async def ended(
        self, prompt: Prompt, options: TaskOptions, *, timeout: float | None = None,
        idempotency_key: str | None = None, on_piece: OnPiece | None = None,
    ) -> Task:  # fmt: skip
        documents = documents_of(prompt)
        self.rounds.append((documents, options))
        tools = [tool.document() for tool in tools_of(options.get("tools") or ())]
        if tools and not self.able:
            return Task(id=new_id(), status="failed", failure=Failure(code="incapable", message="no tools"))
        form = options.get("response_format")
        choice = options.get("tool_choice")
        answer = compose(
            ModelPrompt(
                model=GROQ["openai/gpt-oss-120b"],
                messages=messages_of(documents),
                max_tokens=options.get("max_tokens"),
                stop=(),
                schema=form["json_schema"]["schema"] if form else None,
                tools=offered_tools(tools),
                tool_choice=ToolSelection("none") if choice == "none" else None,
            ),
            None,
        )
        calls = tuple(ToolCall(call.call_id, call.name, call.arguments) for call in answer.calls)
        parts = (RefusalText(answer.text),) if answer.finish == "refusal" else calls or (Text(answer.text),)
        return Task(
            id=new_id(), status="refused" if answer.finish == "refusal" else "succeeded", answer=answer.text,
            finish_reason=answer.finish,
            choices=(AnswerChoice(message=Message("assistant", parts), finish_reason=answer.finish),),
        )  # fmt: skip


async def _done(job: Job, model: Asking | None = None, floor: JobPrivacy = JobPrivacy.PUBLIC) -> JobOutcome:
    return await do_job(Workplace(model or SimulatedModel(), REPOSITORY, floor), job, AGENT)


def _jobs(*, with_tools: bool, structured: bool) -> list[Job]:
    return [job for job in JOBS if (job.with_tools, job.structured) == (with_tools, structured)]


@pytest.mark.parametrize("structured", [False, True])
async def test_a_simulated_model_calls_the_tools_that_prompts_name(structured: bool) -> None:
    jobs = _jobs(with_tools=True, structured=structured)
    assert len(jobs) >= 5
    for job in jobs:
        model = SimulatedModel()
        outcome = await _done(job, model)
        assert (outcome.answered, outcome.problem, outcome.without_tools) == (True, "", False)
        assert len(outcome.rounds) == 2 + structured
        named = [name for name in ("read_file", "search_repository") if name in job.prompt]
        assert [(call.name, call.failed) for call in outcome.calls] == [(name, False) for name in named]
        # The file's text comes by its tool, and only so.
        text = next(file.text for file in CORPUS.files if file.path == job.subject)
        assert text not in str(job.prompt)
        assert any(text in str(message["content"]) for message in model.rounds[-1][0] if message["role"] == "tool")
        assert len({options["session"] for _, options in model.rounds}) == 1


@pytest.mark.parametrize("with_tools", [False, True])
async def test_reviews_and_audits_give_findings(with_tools: bool) -> None:
    jobs = _jobs(with_tools=with_tools, structured=True)
    assert jobs
    for job in jobs:
        outcome = await _done(job)
        assert outcome.report is not None
        assert [finding.file for finding in outcome.report.findings] == [job.subject] * 2


async def test_other_jobs_are_one_task() -> None:
    jobs = _jobs(with_tools=False, structured=False)
    assert {job.kind for job in jobs} == {"documentation", "test ideas", "changelog"}
    for job in jobs:
        model = SimulatedModel()
        outcome = await _done(job, model)
        ((_, options),) = model.rounds
        assert (len(outcome.rounds), outcome.report, options.get("tools"), options.get("session")) == (
            1,
            None,
            None,
            None,
        )


async def test_every_round_of_a_sensitive_job_is_sensitive_and_carries_the_marker() -> None:
    jobs = [job for job in JOBS if job.with_tools and job.marker is not None]
    assert len(jobs) >= 5
    for job in jobs:
        model = SimulatedModel()
        await _done(job, model)
        assert len(model.rounds) >= 2
        for messages, options in model.rounds:
            assert options["privacy"] == "sensitive"
            assert marker_of("r", job.subject) in str(messages)


@pytest.mark.parametrize("floor", list(JobPrivacy))
async def test_every_round_has_the_level_that_the_tenant_demands(floor: JobPrivacy) -> None:
    for job in [job for job in JOBS if job.with_tools][:12]:
        model = SimulatedModel()
        await _done(job, model, floor)
        assert {options["privacy"] for _, options in model.rounds} == {job.level(floor).value}


@pytest.mark.parametrize("structured", [False, True])
async def test_where_no_model_calls_tools_the_text_is_in_the_prompt(structured: bool) -> None:
    for job in _jobs(with_tools=True, structured=structured):
        model = SimulatedModel(able=False)
        outcome = await _done(job, model)
        assert (outcome.answered, outcome.without_tools, outcome.calls) == (True, True, ())
        assert [one.answered for one in outcome.rounds] == [False, True]
        assert next(file.text for file in CORPUS.files if file.path == job.subject) in model.rounds[1][0][0]["content"]
        assert (outcome.report is not None) is structured


class FixedAnswer(SimulatedModel):
    """A model that answers everything with the same text, or not at all."""

    def __init__(self, task: Task | Exception) -> None:
        super().__init__()
        self._task = task

    async def ended(self, prompt: Prompt, options: TaskOptions, **_: Any) -> Task:
        if isinstance(self._task, Exception):
            raise self._task
        return self._task


def _task(text: str, part: Text | RefusalText | ToolCall, status: str = "succeeded") -> Task:
    return Task(id="t", status=status, answer=text, choices=(AnswerChoice(message=Message("assistant", (part,))),))


FORM = '{"summary": "s", "findings": [{"severity": "%s", "file": "a.py", "place": "3", "title": "t"}]}'


@pytest.mark.parametrize("text", ["Looks good.", "[]", "{}", FORM % "grave", '{"summary": "s", "findings": [{}]}'])
async def test_an_answer_of_another_form_is_counted_as_invalid(text: str) -> None:
    job = _jobs(with_tools=False, structured=True)[0]
    outcome = await _done(job, FixedAnswer(_task(text, Text(text))))
    assert (outcome.answered, outcome.report, bool(outcome.invalid)) == (False, None, True)
    valid = await _done(job, FixedAnswer(_task(FORM % "low", Text(FORM % "low"))))
    assert (valid.answered, valid.invalid) == (True, "")


async def test_a_model_that_calls_no_tool_or_declines_has_answered() -> None:
    looped, structured = _jobs(with_tools=True, structured=False)[0], _jobs(with_tools=False, structured=True)[0]
    outcome = await _done(looped, FixedAnswer(_task("It doubles.", Text("It doubles."))))
    assert (outcome.answered, outcome.calls, len(outcome.rounds)) == (True, (), 1)
    declined = await _done(structured, FixedAnswer(_task("No.", RefusalText("No."), "refused")))
    assert (declined.answered, declined.declined, declined.invalid) == (True, True, "")


async def test_what_goes_wrong_is_part_of_the_outcome() -> None:
    looped = _jobs(with_tools=True, structured=True)[0]
    failed = Task(id="t", status="failed", failure=Failure(code="timeout", message="too slow"))
    wrong = {
        "failed: timeout too slow": FixedAnswer(failed),
        "Unavailable: nobody there": FixedAnswer(Unavailable("nobody there")),
    }
    for job in (looped, _jobs(with_tools=False, structured=False)[0]):
        for problem, model in wrong.items():
            outcome = await _done(job, model)
            assert not outcome.answered
            assert outcome.problem.startswith(problem)


class Insatiable(SimulatedModel):
    """A model that calls tools as long as it may."""

    async def ended(self, prompt: Prompt, options: TaskOptions, **given: Any) -> Task:
        if options.get("tools") and options.get("tool_choice") != "none":
            self.rounds.append((documents_of(prompt), options))
            call = ToolCall(f"c{len(self.rounds)}", "read_file", '{"path": "nowhere.py"}')
            return replace(_task("", call), id=new_id())
        return await super().ended(prompt, options, **given)


@pytest.mark.parametrize("structured", [False, True])
async def test_a_model_that_does_not_stop_calling_is_told_to_answer(structured: bool) -> None:
    for job in _jobs(with_tools=True, structured=structured)[:3]:
        model = Insatiable()
        outcome = await _done(job, model)
        assert (outcome.answered, outcome.problem, len(outcome.rounds)) == (True, "", 7)
        assert [call.failed for call in outcome.calls] == [True] * 6
        assert (outcome.report is not None) is structured
        roles = [message["role"] for message in model.rounds[-1][0]]
        assert roles == ["user", *["assistant", "tool"] * 6, "user"]
