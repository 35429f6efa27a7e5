"""One tenant reaches for what is another's: over HTTP with a valid key, in every way that names or might hit it."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import quote

from headrace_testing.up import RunningStack

from headrace_attack.report import Outcome
from headrace_attack.victims import Caller, Tenant
from headrace_attack.wire import Wire, request

_CONNECTIONS: Final = 8
_REFILL_EVERY: Final = 1_500

Reach = Callable[[random.Random, Tenant, Tenant], tuple[str, bytes]]
"""Makes one attempt of an attacker (first) at a victim (second): which API it goes to, and the request."""


def _task_of(chance: random.Random, victim: Tenant) -> str:
    return chance.choice([*victim.ended, *victim.running, *victim.running])


def _spellings(chance: random.Random, name: str) -> str:
    """An id as it is, or as another that a careless comparison would take for it."""
    return chance.choice([
        name, name.upper(), quote(name, safe=""), name + "/1", name + "%00", " " + name, name + "%20", "./" + name,
        "".join(f"%{ord(letter):02x}" for letter in name), name.replace("-", ""), name + "?tenant=x", name + "%2f..",
    ]).replace(" ", "%20")  # fmt: skip


def _tenant_headers(chance: random.Random, victim: Tenant) -> tuple[tuple[str, str], ...]:
    """Headers and parameters by which other systems name a tenant."""
    names = ("X-Headrace-Tenant", "X-Tenant", "X-Tenant-Id", "X-Forwarded-User", "Ce-Tenant", "X-Original-User", "Host")
    return () if chance.random() < 0.5 else ((chance.choice(names), victim.name),)


def _post(attacker: Tenant, path: str, document: object, headers: tuple[tuple[str, str], ...] = ()) -> bytes:
    return request("POST", path, key=attacker.key, body=json.dumps(document).encode(), headers=headers)


def _read(chance: random.Random, attacker: Tenant, victim: Tenant) -> tuple[str, bytes]:
    path = f"/v1/tasks/{_spellings(chance, _task_of(chance, victim))}"
    return "intake", request("GET", path, key=attacker.key, headers=_tenant_headers(chance, victim))


def _list(chance: random.Random, attacker: Tenant, victim: Tenant) -> tuple[str, bytes]:
    filters = [
        f"user=user-{victim.known}", f"session=session-{victim.known}", "limit=200", f"kind={quote(victim.name)}",
        f"role=conversation_scribe&user=user-{victim.known}", f"tenant={victim.name}", "status=succeeded", "user=*",
        "user=%25", "user=' OR 1=1 --", f"session=session-{victim.known}&until=9999999999999",
    ]  # fmt: skip
    path = f"/v1/tasks?{chance.choice(filters).replace(' ', '%20')}"
    return "intake", request("GET", path, key=attacker.key, headers=_tenant_headers(chance, victim))


def _cursor(chance: random.Random, attacker: Tenant, victim: Tenant) -> tuple[str, bytes]:
    path = f"/v1/tasks?limit={chance.randrange(1, 200)}&cursor={quote(chance.choice(victim.cursors))}"
    return "intake", request("GET", path, key=attacker.key)


def _cancel(chance: random.Random, attacker: Tenant, victim: Tenant) -> tuple[str, bytes]:
    path = f"/v1/tasks/{_spellings(chance, _task_of(chance, victim))}"
    return "intake", request("DELETE", path, key=attacker.key, headers=_tenant_headers(chance, victim))


def _follow(chance: random.Random, attacker: Tenant, victim: Tenant) -> tuple[str, bytes]:
    path = f"/v1/tasks/{_spellings(chance, _task_of(chance, victim))}/events"
    places = ("", "0:0", "1:0", f"{chance.randrange(6)}:{chance.randrange(2_000)}", "finished")
    place = chance.choice(places)
    headers = _tenant_headers(chance, victim) + ((("Last-Event-ID", place),) if place else ())
    return "intake", request("GET", path, key=attacker.key, headers=headers)


def _idempotency(chance: random.Random, attacker: Tenant, victim: Tenant) -> tuple[str, bytes]:
    headers = (("Idempotency-Key", chance.choice(victim.idempotency_keys)),)
    document = {"prompt": f"mine {chance.randrange(50)}", "role": "conversation_scribe", "max_tokens": 5}
    return "intake", _post(attacker, "/v1/tasks", document, headers)


def _same_prompt(chance: random.Random, attacker: Tenant, victim: Tenant) -> tuple[str, bytes]:
    """Equal to the victim's request in every way: a shared cache or a shared run in flight would answer it at once."""
    number = chance.randrange(len(victim.prompts))
    document = {
        "prompt": victim.prompts[number], "role": "conversation_scribe", "user": f"user-{victim.known}",
        "session": f"session-{victim.known}", "subject": f"subject-{victim.known}",
    }  # fmt: skip
    return "intake", _post(attacker, "/v1/tasks", document, (("Prefer", "wait=0"),))


def _preferences(chance: random.Random, attacker: Tenant, victim: Tenant) -> tuple[str, bytes]:
    user = chance.choice([f"user-{victim.known}", victim.name, f"{victim.name}/", f"../{victim.name}/", "*"])
    return "intake", request(
        "GET", f"/v1/preferences?user={quote(user)}", key=attacker.key, headers=_tenant_headers(chance, victim)
    )


def _keys(chance: random.Random, attacker: Tenant, victim: Tenant) -> tuple[str, bytes]:
    key_id = victim.key.split("_")[1]
    return chance.choice([
        ("intake", request("GET", f"/v1/keys?tenant={victim.name}", key=attacker.key)),
        ("intake", request("DELETE", f"/v1/keys/{key_id}", key=attacker.key)),
        ("intake", _post(attacker, "/v1/keys", {"tenant": victim.name})),
        ("intake", _post(attacker, "/v1/keys", {"tenant": attacker.name, "scopes": ["admin"]})),
        ("intake", request("GET", "/v1/tasks", key=f"hr_{key_id}_{attacker.key.split('_')[2]}")),
    ])  # fmt: skip


def _costs(chance: random.Random, attacker: Tenant, victim: Tenant) -> tuple[str, bytes]:
    path = chance.choice(["/v1/costs", "/v1/costs/live"])
    query = chance.choice([
        f"tenant={victim.name}", "tenant=*", "group_by=tenant", "group_by=tenant,user,session", "group_by=user",
        f"tenant={attacker.name}&tenant={victim.name}", f"tenant={victim.name.upper()}", "tenant=",
    ])  # fmt: skip
    return "costs", request("GET", f"{path}?{query}", key=attacker.key, headers=_tenant_headers(chance, victim))


def _skills(chance: random.Random, attacker: Tenant, victim: Tenant) -> tuple[str, bytes]:
    name = _spellings(chance, chance.choice(victim.skills))
    headers = _tenant_headers(chance, victim)
    return "skills", chance.choice([
        request("GET", f"/v1/skills/{name}", key=attacker.key, headers=headers),
        request("GET", f"/v1/skills/{name}/versions", key=attacker.key, headers=headers),
        request("DELETE", f"/v1/skills/{name}", key=attacker.key, headers=headers),
        request("GET", f"/v1/skills?q={victim.known}&limit=200", key=attacker.key, headers=headers),
        request("GET", f"/v1/skills?q={chance.choice(['skill', 'do', 'testing'])}", key=attacker.key, headers=headers),
        request("GET", f"/v1/skills?interest=testing&tenant={victim.name}", key=attacker.key, headers=headers),
        request("GET", "/v1/skills/feed?interest=testing", key=attacker.key, headers=headers),
        request("GET", f"/v1/skills/feed?interest={victim.name}/testing", key=attacker.key, headers=headers),
        request(
            "GET", "/v1/skills/feed?interest=testing", key=attacker.key, headers=(("Last-Event-ID", "0-0"), *headers)
        ),
    ])  # fmt: skip


def _responses(chance: random.Random, attacker: Tenant, victim: Tenant) -> tuple[str, bytes]:
    response = _spellings(chance, chance.choice(victim.responses))
    conversation = _spellings(chance, chance.choice(victim.conversations))
    plain = victim.responses[0]
    headers = _tenant_headers(chance, victim)
    return "intake", chance.choice([
        request("GET", f"/v1/responses/{response}", key=attacker.key, headers=headers),
        request("GET", f"/v1/responses/{response}/input_items", key=attacker.key, headers=headers),
        request("POST", f"/v1/responses/{response}/cancel", key=attacker.key, headers=headers),
        request("DELETE", f"/v1/responses/{response}", key=attacker.key, headers=headers),
        request("GET", f"/v1/responses/resp_{_task_of(chance, victim)}", key=attacker.key, headers=headers),
        request("GET", f"/v1/conversations/{conversation}", key=attacker.key, headers=headers),
        request("GET", f"/v1/conversations/{conversation}/items", key=attacker.key, headers=headers),
        request("GET", f"/v1/conversations/{conversation}/items/msg_0", key=attacker.key, headers=headers),
        request("DELETE", f"/v1/conversations/{conversation}", key=attacker.key, headers=headers),
        _post(attacker, f"/v1/conversations/{conversation}", {"metadata": {"a": "b"}}, headers),
        _post(attacker, f"/v1/conversations/{conversation}/items", {"items": [{"role": "user", "content": "x"}]}),
        _post(attacker, "/v1/responses", {"model": "auto", "input": "What did I say?", "previous_response_id": plain}),
        _post(attacker, "/v1/responses", {"model": "auto", "input": [{"type": "item_reference", "id": plain}]}),
        _post(attacker, "/v1/responses", {
            "model": "auto", "input": "What did I say?", "conversation": victim.conversations[0],
        }),
    ])  # fmt: skip


def _files(chance: random.Random, attacker: Tenant, victim: Tenant) -> tuple[str, bytes]:
    file = _spellings(chance, chance.choice(victim.files))
    batch = _spellings(chance, chance.choice(victim.batches))
    headers = _tenant_headers(chance, victim)
    return "intake", chance.choice([
        request("GET", f"/v1/files/{file}", key=attacker.key, headers=headers),
        request("GET", f"/v1/files/{file}/content", key=attacker.key, headers=headers),
        request("DELETE", f"/v1/files/{file}", key=attacker.key, headers=headers),
        request("GET", f"/v1/batches/{batch}", key=attacker.key, headers=headers),
        request("POST", f"/v1/batches/{batch}/cancel", key=attacker.key, headers=headers),
        _post(attacker, "/v1/batches", {
            "input_file_id": victim.files[0], "endpoint": "/v1/chat/completions", "completion_window": "24h",
        }, headers),
    ])  # fmt: skip


REACHES: Final[dict[str, Reach]] = {
    "read": _read,
    "list": _list,
    "cursors": _cursor,
    "cancel": _cancel,
    "follow": _follow,
    "idempotency": _idempotency,
    "cache and coalescing": _same_prompt,
    "preferences": _preferences,
    "keys": _keys,
    "costs": _costs,
    "skills and feed": _skills,
    "responses and conversations": _responses,
    "files and batches": _files,
}


_ALWAYS_REFUSED: Final = ("read", "cancel", "keys", "responses and conversations", "files and batches")


async def cross_tenant(
    stack: RunningStack,
    caller: Caller,
    attackers: Sequence[Tenant],
    victims: Sequence[Tenant],
    attempts: int,
    chance: random.Random,
) -> list[Outcome]:
    """`attempts` at other tenants' things, over all kinds evenly; one outcome for each kind."""
    outcomes = {name: Outcome(f"another tenant: {name}") for name in REACHES}
    urls = {"intake": stack.intake_url, "costs": stack.costs_url, "skills": stack.skills_url}
    secrets = [victim.secret.encode() for victim in victims]
    done = 0
    for _ in range(_CONNECTIONS * 4):
        await asyncio.gather(*(caller.keep_running(victim) for victim in victims))
        share = min(_REFILL_EVERY, attempts - done)
        await asyncio.gather(*(
            _attack(urls, outcomes, attackers, victims, secrets, share // _CONNECTIONS, chance)
            for _ in range(_CONNECTIONS)
        ))  # fmt: skip
        done += share
        if done >= attempts:
            break
    await _nothing_was_changed(stack, caller, victims, outcomes["cancel"])
    return list(outcomes.values())


async def _attack(
    urls: dict[str, str],
    outcomes: dict[str, Outcome],
    attackers: Sequence[Tenant],
    victims: Sequence[Tenant],
    secrets: Sequence[bytes],
    attempts: int,
    chance: random.Random,
) -> None:
    wires = {name: Wire(url) for name, url in urls.items()}
    kinds = list(REACHES)
    for number in range(attempts):
        kind = kinds[number % len(kinds)]
        outcome, victim = outcomes[kind], chance.choice(victims)
        api, sent = REACHES[kind](chance, chance.choice(attackers), victim)
        streams = b"/events" in sent or b"/feed" in sent
        answer = await wires[api].send(sent, seconds=1.0 if streams else 20.0, whole=not streams)
        outcome.count("no end in time" if answer.timed_out else answer.status)
        if answer.timed_out and not streams:
            outcome.hangs.append(f"no answer in 20 s to {sent[:80]!r}")
        if any(secret in answer.everything for secret in secrets):
            outcome.through.append(f"{sent.splitlines()[0][:120]!r} was answered with what is a victim's")
        if streams and answer.status == 200 and b"/events" in sent:
            outcome.through.append(f"{sent.splitlines()[0][:120]!r} opened a victim's stream")
        if kind in _ALWAYS_REFUSED and 200 <= answer.status < 300:
            outcome.through.append(f"{sent.splitlines()[0][:120]!r} was answered with {answer.status}")
        if kind in ("idempotency", "cache and coalescing") and 200 <= answer.status < 300:
            _expect_own(outcome, answer.body, victim)
    for wire in wires.values():
        wire.close()


def _expect_own(outcome: Outcome, body: bytes, victim: Tenant) -> None:
    task = json.loads(body)
    if {task["id"], task.get("source_task_id")} & {*victim.ended, *victim.running}:
        outcome.through.append(f"the victim's task was given to another tenant as {task['id']}")


async def _nothing_was_changed(
    stack: RunningStack, caller: Caller, victims: Sequence[Tenant], outcome: Outcome
) -> None:
    for victim in victims:
        for task_id in (*victim.ended, *victim.running):
            status, task = await caller.call("GET", f"{stack.intake_url}/v1/tasks/{task_id}", victim.key)
            if status != 200 or task["status"] == "cancelled":
                outcome.through.append(f"task {task_id} of {victim.name} is {task.get('status', status)}")
        for path in (
            *(f"responses/{response}" for response in victim.responses),
            *(f"conversations/{conversation}" for conversation in victim.conversations),
            *(f"files/{file}" for file in victim.files),
            *(f"batches/{batch}" for batch in victim.batches),
        ):
            status, found = await caller.call("GET", f"{stack.intake_url}/v1/{path}", victim.key)
            if status != 200 or found.get("status") in ("cancelled", "cancelling"):
                outcome.through.append(f"{path} of {victim.name} is {found.get('status', status)}")
        for skill in victim.skills:
            status, found = await caller.call("GET", f"{stack.skills_url}/v1/skills/{skill}", victim.key)
            if status != 200 or found.get("status") == "revoked":
                outcome.through.append(f"skill {skill} of {victim.name} is {found.get('status', status)}")
        status, _ = await caller.call("GET", f"{stack.intake_url}/v1/tasks?limit=1", victim.key)
        if status != 200:
            outcome.through.append(f"the key of {victim.name} no longer works")
