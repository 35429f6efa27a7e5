"""Writes the team's answers to files: one Markdown document per role."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from headrace_contracts.content import text_of

from headrace_devstack.demo.outcomes import JobOutcome, RunEvidence
from headrace_devstack.errors import CorrectTheSetting


def write_answers(folder: Path, outcomes: Sequence[JobOutcome], evidence: RunEvidence) -> None:
    """Write the answers, by kind of work and in the order of its subjects; repeats once.

    The files are private to the user, since they include sensitive content. Raises CorrectTheSetting if the folder
    cannot be written.
    """
    ends = {end.task_id: end for end in evidence.completions}
    sections: dict[str, dict[str, str]] = defaultdict(dict)
    for outcome in outcomes:
        end = ends.get(outcome.task_ids[-1]) if outcome.task_ids else None
        if end is None or end.answer is None or not outcome.answered or outcome.job.twin_of is not None:
            continue
        simulated = ", simulated" if end.simulated else ""
        asked = outcome.job.prompt.partition("\n")[0]
        sections[outcome.job.kind][f"{outcome.job.subject}: {asked}"] = (
            f"*{end.provider}/{end.model}{simulated}*\n\n{_said(outcome) or text_of(end.answer)}\n"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for kind, answers in sections.items():
            file = folder / f"{kind.replace(' ', '-')}.md"
            file.touch(mode=0o600)
            text = "\n".join(f"## {title}\n\n{answers[title]}" for title in sorted(answers))
            file.write_text(f"# {kind.capitalize()}\n\n{text}", encoding="utf-8")
    except OSError as error:
        raise CorrectTheSetting(
            f"{folder} cannot be written: {error.strerror}.", "choose another folder with --answers."
        ) from error


def _said(outcome: JobOutcome) -> str:
    """A report in words; empty if there is none."""
    if outcome.report is None:
        return ""
    findings = [f"- **{one.severity}** {one.file}, {one.place}: {one.title}" for one in outcome.report.findings]
    return "\n".join([outcome.report.summary, "", *(findings or ["No findings."])])
