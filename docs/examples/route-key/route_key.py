"""The key of a task's record in tasks.submitted. Arguments: tenant, session, role, model, then role and text of each
message; an empty session, role or model is none."""

import hashlib
import sys
from collections.abc import Sequence


def route_key(tenant: str, session: str, role: str, model: str, messages: Sequence[tuple[str, str]]) -> str:
    if session:
        return f"s:{tenant}/{session}"
    sha = hashlib.sha256()
    for part in (tenant, role, model, *(text for message in messages for text in message)):
        data = part.encode()
        sha.update(len(data).to_bytes(8, "big") + data)
    return "p:" + sha.hexdigest()[:32]


if __name__ == "__main__":
    tenant, session, role, model, *texts = sys.argv[1:]
    sys.stdout.write(route_key(tenant, session, role, model, list(zip(texts[::2], texts[1::2], strict=True))) + "\n")
