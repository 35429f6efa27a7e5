"""API keys; needs a key with the scope admin."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from headrace.errors import NotUnderstood
from headrace.parsing import Reader, key_of
from headrace.results import Key, NewKey
from headrace.transport import Transport


class Keys:
    """Creates, lists and revokes keys."""

    def __init__(self, transport: Transport, url: Callable[[], str]) -> None:
        self._transport = transport
        self._url = url

    async def create(
        self,
        tenant: str,
        *,
        name: str = "",
        scopes: Sequence[str] | None = None,
        requests_per_minute: int | None = None,
    ) -> NewKey:
        """Create a key; its text and its signing key are in the result and cannot be retrieved again.

        Args:
            scopes: tasks, skills, costs, preferences, admin; by default the first three.
            requests_per_minute: Rate limit; None for none.

        Raises Unavailable when it is unknown whether the key was created: check the list then.
        """
        body = {"tenant": tenant, "name": name, "scopes": scopes, "requests_per_minute": requests_per_minute}
        reply = await self._transport.call(
            "POST",
            self._url().rstrip("/") + "/v1/keys",
            body={field: value for field, value in body.items() if value is not None},
            repeatable=False,
        )
        document = reply.document
        secrets = Reader(document, "a new key")
        return NewKey(info=key_of(document), key=secrets.text("key"), signing_key=secrets.optional_text("signing_key"))

    async def list(self, tenant: str | None = None) -> tuple[Key, ...]:
        """All keys, including revoked ones, or those of one tenant."""
        params = {"tenant": tenant} if tenant else None
        reply = await self._transport.call("GET", self._url().rstrip("/") + "/v1/keys", params=params)
        if not isinstance(reply.document, dict) or not isinstance(reply.document.get("keys"), list):
            raise NotUnderstood("a list of keys: expected an object with keys")
        return tuple(key_of(item) for item in reply.document["keys"])

    async def revoke(self, key_id: str) -> None:
        """Revoke a key, within moments and permanently. Raises NotFound."""
        await self._transport.call("DELETE", self._url().rstrip("/") + f"/v1/keys/{key_id}")
