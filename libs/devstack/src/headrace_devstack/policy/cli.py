"""The commands of `headrace policy`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final, TypeVar

import typer
from headrace.cli.output import ERR, OUT, JsonOption, moment, print_json, table
from headrace.cli.running import FAILED, USAGE, addresses, fail, operator_name, run
from headrace.connecting import Cluster
from headrace.nodes import now_ms
from headrace.times import utc
from headrace_contracts.events import PolicyPublished
from headrace_contracts.limits import LONGEST_TEXT, is_tenant
from headrace_contracts.users import OPERATOR
from headrace_router.adapters.policy_file import (
    PolicyInvalid,
    parse_policy,
    parse_tenant_policy,
    policy_text,
    read_tenant_policy,
)
from headrace_router.decide.policy import Policy
from headrace_router.decide.revisions import Revisions, scope_of
from headrace_router.decide.tenant_policy import narrowed

from headrace_devstack.policy.differences import Difference, differences
from headrace_devstack.policy.publishing import (
    NoSuchRevision,
    own_file,
    policy_in_force,
    publish_revision,
    read_revisions,
    revision_of,
)

app = typer.Typer(
    no_args_is_help=True,
    help="Routing policies: check, compare, publish and take them back. Routers follow without a restart.",
)

_T = TypeVar("_T")

_FILE_POLICY: Final = "file"

File = Annotated[Path, typer.Argument(help="A policy as YAML.", dir_okay=False)]
Tenant = Annotated[
    str | None,
    typer.Option(
        help="What this tenant narrows of the installation's policy, instead of that policy.", show_default=False
    ),
]
Reason = Annotated[str, typer.Option(help="Why, for those who look at the history.")]


@app.command()
def check(file: File, tenant: Tenant = None) -> None:
    """Say what is wrong with a policy, line by line; nothing else happens. With --tenant it is checked against the
    installation's policy that counts now."""
    text, source = _read(file)
    _scope(tenant)
    if tenant is None:
        policy = _valid(lambda: parse_policy(text, source))
        OUT.print(f"valid, version {policy.version}", highlight=False)
        return
    installation = run(_installation())
    said = _valid(lambda: parse_tenant_policy(text, source, installation))
    OUT.print(f"valid, version {narrowed(installation, said)[0].version}", highlight=False)


@app.command()
def show(
    tenant: Tenant = None,
    revision: Annotated[int | None, typer.Option(help="An earlier one.", show_default=False)] = None,
    effective: Annotated[
        bool, typer.Option("--effective", help="All values, defaults included, as JSON; for a tenant, what is left.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """The policy that counts now, as it was published."""
    revisions = run(_revisions())
    scope = _scope(tenant)
    published = revisions.newest(scope) if revision is None else _valid(lambda: revision_of(revisions, scope, revision))
    if effective:
        policy = _valid(lambda: policy_in_force(revisions))
        if tenant is not None and published is not None and published.text:
            text = published.text
            policy = narrowed(policy, _valid(lambda: read_tenant_policy(text, scope)))[0]
        elif tenant is None and published is not None and published.text:
            policy = _valid(lambda: parse_policy(published.text, f"revision {published.revision}"))
        print_json({"version": policy.version, **policy.model_dump(mode="json")})
        return
    if json_output:
        print_json(published)
        return
    if published is None or not published.text:
        ERR.print(_NOTHING_PUBLISHED if tenant is None else f"nothing is published for {tenant}", style="dim")
        if tenant is None:
            print(policy_text(own_file())[0], end="")
        return
    ERR.print(_title(published), style="dim", markup=False)
    print(published.text, end="" if published.text.endswith("\n") else "\n")


@app.command()
def history(tenant: Tenant = None, json_output: JsonOption = False) -> None:
    """The published revisions, the newest first."""
    found = run(_revisions()).newest_first(_scope(tenant))
    if json_output:
        print_json([{**asdict(each), "text": None} for each in found])
        return
    rows = table("revision", "version", "published", "by", "reason", right=["revision"])
    for each in found:
        said = each.reason or ("" if each.restores is None else f"as revision {each.restores}")
        rows.add_row(
            str(each.revision), each.version or "(the routers' own file)", moment(utc(each.published_at)),
            each.published_by, said,
        )  # fmt: skip
    OUT.print(rows)


@app.command()
def diff(
    new: Annotated[str, typer.Argument(help="A file, or the number of a revision.")],
    old: Annotated[
        str, typer.Argument(help="What it is compared with: a file, a revision, or `now`.", show_default=False)
    ] = "now",
    tenant: Tenant = None,
    json_output: JsonOption = False,
) -> None:
    """Which values differ between two policies. Exit code 1 if any do."""
    revisions = run(_revisions())
    before = _valid(lambda: _named(old, revisions, tenant))
    after = _valid(lambda: _named(new, revisions, tenant))
    found = differences(before, after)
    if json_output:
        print_json(list(found))
    elif not found:
        ERR.print("the policies are equal", style="dim")
    else:
        _print(found)
    if found:
        raise typer.Exit(FAILED)


@app.command()
def publish(file: File, tenant: Tenant = None, reason: Reason = "", json_output: JsonOption = False) -> None:
    """Make a policy count at all routers, now. It is checked first; nothing is published if anything is wrong.

    \b
    Examples:
      headrace policy diff policy.yaml
      headrace policy publish policy.yaml --reason "phi3 for reviews"
      headrace policy publish acme.yaml --tenant acme
    """
    text, source = _read(file)
    _fitting(reason)
    scope = _scope(tenant)
    if tenant is None:
        version = _valid(lambda: parse_policy(text, source)).version
    else:
        installation = run(_installation())
        said = _valid(lambda: parse_tenant_policy(text, source, installation))
        version = narrowed(installation, said)[0].version
    _tell(run(_publish(scope, text, version, reason)), json_output)


@app.command()
def rollback(
    to: Annotated[
        str | None,
        typer.Option(
            help=f"Revision to return to, or `{_FILE_POLICY}` for the routers' own file. By default the one before.",
            show_default=False,
        ),
    ] = None,
    tenant: Tenant = None,
    reason: Reason = "",
    json_output: JsonOption = False,
) -> None:
    """Make an earlier revision count again, as a new one."""
    _fitting(reason)
    revisions, scope = run(_revisions()), _scope(tenant)
    if to == _FILE_POLICY:
        _tell(run(_publish(scope, "", "", reason)), json_output)
        return
    if to is None:
        earlier = list(revisions.newest_first(scope))[1:]
        if not earlier:
            raise fail(f"{scope} has no earlier revision; `--to {_FILE_POLICY}` returns to the routers' own file")
        back = earlier[0]
    elif to.isdigit():
        back = _valid(lambda: revision_of(revisions, scope, int(to)))
    else:
        raise fail(f"{to!r} is neither a revision nor `{_FILE_POLICY}`", USAGE)
    if back.text and tenant is None:
        # A release since may read it otherwise, or not at all.
        _valid(lambda: parse_policy(back.text, f"revision {back.revision}"))
    elif back.text:
        installation = _valid(lambda: policy_in_force(revisions))
        _valid(lambda: parse_tenant_policy(back.text, f"revision {back.revision}", installation))
    _tell(run(_publish(scope, back.text, back.version, reason, back.revision)), json_output)


_NOTHING_PUBLISHED: Final = (
    "nothing is published: the routers' own file counts, HEADRACE_POLICY_FILE or the shipped one"
)


def _read(file: Path) -> tuple[str, str]:
    return _valid(lambda: policy_text(file))


def _valid(parse: Callable[[], _T]) -> _T:
    try:
        return parse()
    except (PolicyInvalid, NoSuchRevision) as error:
        raise fail(str(error)) from None


def _scope(tenant: str | None) -> str:
    if tenant is not None and not is_tenant(tenant):
        raise fail(f"{tenant!r} cannot be a tenant", USAGE)
    return scope_of(tenant)


def _fitting(reason: str) -> None:
    if len(reason) > LONGEST_TEXT:
        raise fail(f"the reason has more than {LONGEST_TEXT} characters", USAGE)


def _named(name: str, revisions: Revisions, tenant: str | None) -> Policy:
    policy = policy_in_force(revisions)
    scope = _scope(tenant)
    if name == "now":
        published = revisions.newest(scope)
    elif name.isdigit():
        published = _valid(lambda: revision_of(revisions, scope, int(name)))
    else:
        text, source = policy_text(Path(name))
        return parse_policy(text, source) if tenant is None else narrowed(policy, read_tenant_policy(text, source))[0]
    if published is None or not published.text:
        return policy if tenant is not None else parse_policy(*policy_text(own_file()))
    source = f"revision {published.revision}"
    if tenant is None:
        return parse_policy(published.text, source)
    return narrowed(policy, read_tenant_policy(published.text, source))[0]


async def _revisions() -> Revisions:
    async with Cluster.at(addresses(), user=OPERATOR) as cluster:
        return await read_revisions(cluster)


async def _installation() -> Policy:
    revisions = await _revisions()
    return _valid(lambda: policy_in_force(revisions))


async def _publish(scope: str, text: str, version: str, reason: str, restores: int | None = None) -> PolicyPublished:
    async with Cluster.at(addresses(), user=OPERATOR) as cluster:
        return await publish_revision(
            cluster, scope, text=text, version=version, reason=reason, who=operator_name(), now_ms=now_ms(),
            restores=restores,
        )  # fmt: skip


def _tell(published: PolicyPublished, json_output: bool) -> None:
    if json_output:
        print_json({**asdict(published), "text": None})
    else:
        ERR.print(f"published: {_title(published)}", style="dim", markup=False)


def _title(published: PolicyPublished) -> str:
    by = f", by {published.published_by} at {moment(utc(published.published_at))}"
    what = f"version {published.version}" if published.version else "the routers' own file"
    return f"revision {published.revision} of {published.scope}, {what}{by}"


def _print(found: tuple[Difference, ...]) -> None:
    rows = table("value", "old", "new")
    for each in found:
        rows.add_row(each.path, each.before or "", each.after or "")
    OUT.print(rows)
