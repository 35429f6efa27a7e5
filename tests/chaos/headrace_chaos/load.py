"""Tasks of all kinds at a steady rate, whatever their outcome: over HTTP, and directly to Kafka."""

import asyncio
import contextlib
import hashlib
import json
import random
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import aiohttp
from confluent_kafka import KafkaException, Producer

from headrace_chaos.evidence import Claim, SkillClaim, Told
from headrace_chaos.hostility import PLANTED_MODEL, faults, planted
from headrace_chaos.wire import Avro, quiet_logger, signed

DEADLINE_SECONDS: Final = 40
_TRY_SECONDS: Final = 60.0
_GONE = (aiohttp.ClientError, OSError, TimeoutError)

_KINDS: Final = {
    "local": 22, "cloud": 18, "session": 12, "chat": 8, "stream": 8, "keyed": 12, "equal": 6, "cancelled": 6,
    "kafka": 20, "kafka_twice": 4, "kafka_cancelled": 4, "planted": 2,
}  # fmt: skip
_CLOUD_MODELS: Final = ("auto", "auto", "groq/llama-3.3-70b-versatile", "anthropic/claude-haiku-4-5")


class Outsider:
    """A producer of other teams: plain Confluent client, schemas from the registry, signing keys by tenant."""

    def __init__(self, kafka: Mapping[str, str], prefix: str, avro: Avro, signing_keys: Mapping[str, str]) -> None:
        self._prefix = prefix
        self._signing_keys = signing_keys
        self._avro = avro
        self._settings = {
            **kafka,
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "message.timeout.ms": 60_000,
            "reconnect.backoff.max.ms": 500,
            "logger": quiet_logger(),
        }
        self._kafka = Producer(self._settings)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._thread.start()
        avro.learn([prefix + "tasks.submitted", prefix + "tasks.cancelled"])

    async def send(self, topic: str, key: bytes, event: Mapping[str, Any], event_id: str) -> Told:
        """Whether Kafka acknowledged it."""
        loop = asyncio.get_running_loop()
        told: asyncio.Future[Told] = loop.create_future()

        def delivered(error: object, _message: object) -> None:
            # An idempotent producer that gives up cannot tell whether the record was written.
            loop.call_soon_threadsafe(settle, Told.ACCEPTED if error is None else Told.UNSURE)

        def settle(what: Told) -> None:
            if not told.done():
                told.set_result(what)

        value = self._avro.encode(self._prefix + topic, event)
        signature = signed(self._signing_keys[event["tenant"]], self._prefix + topic, key, value)
        headers: dict[str, str | bytes | None] = {"ce_id": event_id, "headrace_signature": signature}
        try:
            self._kafka.produce(self._prefix + topic, value, key=key, headers=headers, on_delivery=delivered)
        except (BufferError, KafkaException):
            return Told.REFUSED
        return await told

    async def close(self) -> None:
        await asyncio.to_thread(self._kafka.flush, 30)
        self._ended.set()
        await asyncio.to_thread(self._thread.join)

    def _poll(self) -> None:
        while not self._ended.is_set():
            kafka = self._kafka
            try:
                kafka.poll(0.1)
            except KafkaException:
                # Fatal for this producer, which an outage of brokers can be if records time out in it: as any client
                # that goes on, this one makes a new one. What the old one had in flight is reported as unsure.
                self._kafka = Producer(self._settings)
                kafka.purge()
                while len(kafka):
                    with contextlib.suppress(KafkaException):
                        kafka.poll(0.1)


class Load:
    """Open loop: a new task every 1/rate seconds, chosen by the seed."""

    def __init__(
        self,
        *,
        seed: int,
        rate: float,
        intake_url: str,
        skills_url: str,
        simulator_url: str,
        api_keys: Mapping[str, str],
        outsider: Outsider,
    ) -> None:
        self._random = random.Random(seed)
        self._rate = rate
        self._skills_url = skills_url
        self._simulator_url = simulator_url
        self._keys = dict(api_keys)
        self._outsider = outsider
        self._open: set[asyncio.Task[None]] = set()
        self._http = aiohttp.ClientSession(
            intake_url,
            timeout=aiohttp.ClientTimeout(total=15, sock_connect=2),
            connector=aiohttp.TCPConnector(limit=200),
        )
        self._seed = seed
        self._sent = 0
        self.claims: list[Claim] = []
        self.skills: list[SkillClaim] = []

    async def run(self, end: asyncio.Event) -> None:
        """Send tasks until then; returns when every client has its response or has timed out."""
        regular = [asyncio.create_task(self._skills(end)), asyncio.create_task(self._faults(end))]
        kinds, weights = list(_KINDS), list(_KINDS.values())
        due = asyncio.get_running_loop().time()
        while not end.is_set():
            await asyncio.sleep(due - asyncio.get_running_loop().time())
            kind = self._random.choices(kinds, weights)[0]
            tenant = self._random.choice(list(self._keys))
            task = asyncio.create_task(getattr(self, f"_{kind}")(tenant))
            self._open.add(task)
            task.add_done_callback(self._open.discard)
            due += 1 / self._rate
        await asyncio.gather(*regular, *self._open)

    async def close(self) -> None:
        """Cancel what is still open."""
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await self._http.close()

    # What clients do.

    async def _local(self, tenant: str) -> None:
        await self._submit(tenant, "sensitive", {"role": self._random.choice(["code_reviewer", "documentation"])})

    async def _cloud(self, tenant: str) -> None:
        await self._submit(tenant, "public", {"mode": "cloud", "model": self._random.choice(_CLOUD_MODELS)})

    async def _planted(self, tenant: str) -> None:
        await self._submit(tenant, "public", {"model": PLANTED_MODEL})

    async def _session(self, tenant: str) -> None:
        session = f"s{self._random.randrange(5)}"
        await self._submit(tenant, self._random.choice(["sensitive", "public"]), {"session": session})

    async def _equal(self, tenant: str) -> None:
        nonce = self._nonce()
        await asyncio.gather(*(self._submit(tenant, "sensitive", {}, nonce=nonce, shared=True) for _ in range(3)))

    async def _cancelled(self, tenant: str) -> None:
        claim = await self._submit(tenant, "sensitive", {}, cancelled=True)
        if claim.told is Told.ACCEPTED:
            await asyncio.sleep(self._random.uniform(0.0, 0.3))
            await self._ask("DELETE", f"/v1/tasks/{claim.task_id}", tenant, None)

    async def _keyed(self, tenant: str) -> None:
        """Sent twice at the same time, and again until it is accepted: one task."""
        nonce, key = self._nonce(), uuid.uuid4().hex
        give_up = time.monotonic() + _TRY_SECONDS
        while time.monotonic() < give_up:
            claims = await asyncio.gather(*(self._submit(tenant, "public", {}, nonce=nonce, key=key) for _ in range(2)))
            if any(claim.told is Told.ACCEPTED for claim in claims):
                return
            await asyncio.sleep(1.0)

    async def _stream(self, tenant: str) -> None:
        claim = await self._submit(tenant, "sensitive", {"stream": True, "priority": "interactive"})
        if claim.told is not Told.ACCEPTED:
            return
        last, give_up = "", time.monotonic() + _TRY_SECONDS
        while time.monotonic() < give_up:
            try:
                headers = {"Last-Event-ID": last} if last else {}
                async with self._http.get(
                    f"/v1/tasks/{claim.task_id}/events", headers={**self._as(tenant), **headers}
                ) as answer:
                    if answer.status == 204:
                        return
                    async for line in answer.content:
                        if line.startswith(b"id: "):
                            last = line[4:].strip().decode()
                        elif line.startswith(b"event: finished"):
                            return
            except _GONE:
                pass
            await asyncio.sleep(0.5)

    async def _chat(self, tenant: str) -> None:
        nonce, asked = self._nonce(), _now_ms()
        body = {
            "model": "auto",
            "messages": [{"role": "user", "content": f"Say something about {nonce} please"}],
            "privacy": "sensitive",
            "deadline": DEADLINE_SECONDS,
        }
        status, document = await self._ask("POST", "/v1/chat/completions", tenant, body)
        task_id = str((document.get("headrace") or {}).get("task_id", ""))
        # Without a response it is unknown whether the task was accepted before.
        told = Told.ACCEPTED if status == 200 and task_id else Told.UNSURE
        self.claims.append(Claim(nonce, task_id, tenant, "sensitive", "http", told, asked))

    async def _kafka(self, tenant: str) -> None:
        await self._produce(tenant, times=1)

    async def _kafka_twice(self, tenant: str) -> None:
        await self._produce(tenant, times=2)

    async def _kafka_cancelled(self, tenant: str) -> None:
        await self._produce(tenant, times=1, cancel=True)

    async def _produce(self, tenant: str, times: int, cancel: bool = False) -> None:
        nonce, task_id, asked = self._nonce(), str(uuid.uuid4()), _now_ms()
        privacy = self._random.choice(["sensitive", "sensitive", "public"])
        key = task_id.encode()
        event = {
            "task_id": task_id,
            "tenant": tenant,
            "messages": [{"role": "user", "content": {"cipher": "none", "data": f"Do {nonce} now".encode()}}],
            "privacy": privacy,
            "mode": "hybrid",
            "deadline_at": asked + DEADLINE_SECONDS * 1000,
            "submitted_at": asked,
        }
        for _ in range(times):
            told = await self._outsider.send("tasks.submitted", key, event, task_id)
            self.claims.append(Claim(nonce, task_id, tenant, privacy, "kafka", told, asked, cancelled=cancel))
        if cancel:
            cancellation = {"task_id": task_id, "tenant": tenant, "requested_at": _now_ms()}
            await self._outsider.send("tasks.cancelled", key, cancellation, f"{task_id}/cancel")

    async def _submit(
        self,
        tenant: str,
        privacy: str,
        options: Mapping[str, Any],
        *,
        nonce: str = "",
        key: str = "",
        shared: bool = False,
        cancelled: bool = False,
    ) -> Claim:
        nonce = nonce or self._nonce()
        body = {
            "prompt": f"Explain {nonce} briefly",
            "privacy": privacy,
            "deadline": DEADLINE_SECONDS,
            "labels": {"of": "chaos"},
            **options,
        }
        claim = Claim(nonce, "", tenant, privacy, "http", Told.UNSURE, _now_ms(), shared, key, cancelled)
        status, document = await self._ask("POST", "/v1/tasks", tenant, body, key)
        if status in (200, 202):
            claim = replace(claim, told=Told.ACCEPTED, task_id=document["id"])
        elif status and "uncertain" not in str(document.get("type", "")):
            claim = replace(claim, told=Told.REFUSED)
        self.claims.append(claim)
        return claim

    async def _ask(
        self, method: str, path: str, tenant: str, body: Mapping[str, Any] | None, key: str = ""
    ) -> tuple[int, dict[str, Any]]:
        """Status and document; status 0 if there was no response."""
        headers = {**self._as(tenant), **({"Idempotency-Key": key} if key else {})}
        try:
            async with self._http.request(method, path, json=body, headers=headers) as answer:
                return answer.status, json.loads(await answer.read() or b"{}")
        except (*_GONE, ValueError):
            return 0, {}

    def _as(self, tenant: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._keys[tenant]}"}

    def _nonce(self) -> str:
        self._sent += 1
        return f"n{self._seed}x{self._sent}x{uuid.uuid4().hex[:12]}"

    # Besides the tasks.

    async def _skills(self, end: asyncio.Event) -> None:
        number = 0
        while not end.is_set():
            number += 1
            tenant = list(self._keys)[number % len(self._keys)]
            text = f"Version {number} of what was learned ({uuid.uuid4().hex})."
            name = f"skill-{number % 7}"
            body = {"name": name, "title": "A skill", "body": text, "interests": ["chaos", f"area-{number % 3}"]}
            digest, asked = hashlib.sha256(text.encode()).hexdigest(), _now_ms()
            status, document = await self._ask("POST", f"{self._skills_url}/v1/skills", tenant, body)
            known = status in (200, 201)
            told = Told.ACCEPTED if known or status == 202 else Told.UNSURE
            self.skills.append(
                SkillClaim(tenant, name, digest, told, int(document.get("version", 0)) if known else 0, asked)
            )
            await asyncio.sleep(0.5)

    async def _faults(self, end: asyncio.Event) -> None:
        await self._control("POST", planted())
        for fault, pause in faults(self._seed):
            if end.is_set():
                break
            await self._control("POST", fault)
            await asyncio.sleep(pause)
        await self._control("DELETE", None)

    async def _control(self, method: str, body: Mapping[str, Any] | None) -> None:
        async with self._http.request(method, f"{self._simulator_url}/control/faults", json=body) as answer:
            answer.raise_for_status()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
