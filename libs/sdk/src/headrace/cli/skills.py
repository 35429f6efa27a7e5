"""`headrace skills`."""

from __future__ import annotations

import json
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from headrace.cli.output import ERR, OUT, JsonOption, moment, plain_data, print_json, print_text, table
from headrace.cli.running import USAGE, fail, open_client, run
from headrace.skills import Skill, SkillNews, SkillVersion

app = typer.Typer(no_args_is_help=True, help="Publish, find, follow and revoke skills.")

NameArgument = Annotated[str, typer.Argument(help="Name of the skill.")]


@app.command("list")
def list_skills(
    interest: Annotated[
        list[str] | None, typer.Option("--interest", "-i", help="Only those of this domain; repeatable.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="Maximum number.", min=1)] = 50,
    json_output: JsonOption = False,
) -> None:
    """All live skills of the tenant."""
    _print_skills(run(_search("", interest, limit)), json_output)


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="Words to look for in names, titles and summaries.")],
    interest: Annotated[
        list[str] | None, typer.Option("--interest", "-i", help="Only those of this domain; repeatable.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="Maximum number.", min=1)] = 20,
    json_output: JsonOption = False,
) -> None:
    """Live skills that match, best first."""
    _print_skills(run(_search(query, interest, limit)), json_output)


async def _search(query: str, interests: list[str] | None, limit: int) -> tuple[Skill, ...]:
    async with open_client() as client:
        return await client.skills.search(query, interests=interests or (), limit=limit)


@app.command()
def show(name: NameArgument, json_output: JsonOption = False) -> None:
    """Show a skill; its body goes to stdout."""
    skill = run(_get(name))
    if json_output:
        print_json(skill)
        return
    if skill.body is not None:
        print_text(skill.body)
    about = f"{skill.name} version {skill.version} ({skill.status}), {', '.join(skill.interests)}, by {skill.author}"
    ERR.print(f"{about}, published {moment(skill.published_at)}", style="dim", markup=False)


async def _get(name: str) -> Skill:
    async with open_client() as client:
        return await client.skills.get(name)


@app.command()
def versions(name: NameArgument, json_output: JsonOption = False) -> None:
    """The latest versions of a skill, newest first."""
    history = run(_versions(name))
    if json_output:
        print_json(history)
        return
    rows = table("version", "status", "by", "published", "digest", right=["version"])
    for past in history:
        rows.add_row(str(past.version), past.status, past.author, moment(past.published_at), past.digest[:16])
    OUT.print(rows)


async def _versions(name: str) -> tuple[SkillVersion, ...]:
    async with open_client() as client:
        return await client.skills.versions(name)


@app.command()
def publish(
    name: Annotated[str, typer.Argument(help="Name: lower-case words joined by hyphens.")],
    file: Annotated[Path, typer.Argument(help="File with the skill; - for stdin.")],
    interest: Annotated[list[str], typer.Option("--interest", "-i", help="Domain whose agents get it; repeatable.")],
    title: Annotated[str, typer.Option(help="Title, one line.")] = "",
    summary: Annotated[str, typer.Option(help="What it is good for, for search.")] = "",
    author: Annotated[str, typer.Option(help="Agent that learned it.")] = "",
    json_output: JsonOption = False,
) -> None:
    """Publish a skill, or a new version of it. Publishing the same content again creates no new version.

    \b
    Example:
      headrace skills publish retry-with-jitter retry.md -i testing -i backend --title "Retry without stampedes"
    """
    try:
        body = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise fail(f"{file}: {reason}", USAGE) from None
    skill = run(_publish(name, body, interest, title, summary, author))
    if json_output:
        print_json(skill)
    else:
        OUT.print(f"{skill.name} version {skill.version}", markup=False)


async def _publish(name: str, body: str, interests: list[str], title: str, summary: str, author: str) -> Skill:
    async with open_client() as client:
        return await client.skills.publish(name, body, interests=interests, title=title, summary=summary, author=author)


@app.command()
def revoke(name: NameArgument, json_output: JsonOption = False) -> None:
    """Revoke a skill; agents that follow its domains are notified."""
    skill = run(_revoke(name))
    if json_output:
        print_json(skill)
    else:
        ERR.print(f"{skill.name} is revoked", style="dim", markup=False)


async def _revoke(name: str) -> Skill:
    async with open_client() as client:
        return await client.skills.revoke(name)


@app.command()
def feed(
    interest: Annotated[list[str], typer.Argument(help="Domains to follow.")],
    after: Annotated[str, typer.Option(help="Resume after the event with this id.")] = "",
    count: Annotated[int | None, typer.Option("-n", "--count", help="Stop after this many changes.", min=1)] = None,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON document per line.")] = False,
) -> None:
    """Follow changes of skills in these domains, until Ctrl-C."""
    run(_feed(interest, after, count, json_output))


async def _feed(interests: list[str], after: str, count: int | None, json_output: bool) -> None:
    left = count
    async with open_client() as client, aclosing(client.skills.feed(*interests, after=after)) as feed_:
        async for news in feed_:
            if json_output:
                print_text(json.dumps(plain_data(news), ensure_ascii=False))
            else:
                OUT.print(_news_line(news), soft_wrap=True)
            if left is not None:
                left -= 1
                if left == 0:
                    return


def _news_line(news: SkillNews) -> Text:
    skill = news.skill
    return Text.assemble(
        (moment(skill.published_at), "dim"), "  ", (news.change, "bold"), f"  {skill.name} version {skill.version}  ",
        skill.title, (f"  by {skill.author}" if skill.author else "", "dim"), (f"  {news.event_id}", "dim"),
    )  # fmt: skip


def _print_skills(skills: tuple[Skill, ...], json_output: bool) -> None:
    if json_output:
        print_json(skills)
        return
    rows = table("skill", "version", "domains", "title", "by", "published", right=["version"])
    for skill in skills:
        rows.add_row(
            skill.name, str(skill.version), ", ".join(skill.interests), skill.title, skill.author,
            moment(skill.published_at),
        )  # fmt: skip
    OUT.print(rows)
