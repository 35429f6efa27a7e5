"""Messages as OpenAI's chat API writes them, and back."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any, cast

from headrace.messages import (
    SOUNDS,
    Audio,
    File,
    Image,
    Message,
    Part,
    Prompt,
    Reasoning,
    RefusalText,
    Role,
    Text,
    ToolCall,
    ToolResult,
    conversation_of,
)


def documents_of(prompt: Prompt) -> list[dict[str, Any]]:
    """The messages of a prompt as the HTTP API takes them. Raises ValueError."""
    return [document(said) if isinstance(said, Message) else dict(said) for said in conversation_of(prompt)]


def document(message: Message) -> dict[str, Any]:
    """A message as OpenAI's chat API writes it."""
    made: dict[str, Any] = {"role": message.role}
    if message.name is not None:
        made["name"] = message.name
    if message.role == "tool":
        result = cast("ToolResult", message.parts[0])
        made["tool_call_id"] = result.call_id
        images = [_part_document(image) for image in result.images]
        made["content"] = [{"type": "text", "text": result.text}, *images] if images else result.text
        if result.is_error:
            made["is_error"] = True
        return made
    said = [part for part in message.parts if isinstance(part, Text | Image | Audio | File)]
    plain = all(isinstance(part, Text) and part.cache_seconds is None for part in said)
    if plain and (len(said) == 1 or not message.parts):
        made["content"] = message.text
    elif said:
        made["content"] = [_part_document(part) for part in said]
    if (refusal := message.refusal) is not None:
        made["refusal"] = refusal
    if message.tool_calls:
        made["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    # Without the provider that made it, nobody could be given it back.
    thoughts = [part for part in message.parts if isinstance(part, Reasoning) and part.provider]
    if thoughts:
        made["reasoning_details"] = [
            {"type": "reasoning.text", "text": part.text, "signature": part.signature, "format": part.provider}
            for part in thoughts
        ]
    return made


def _part_document(part: Text | Image | Audio | File) -> dict[str, Any]:
    match part:
        case Text(text, seconds):
            ttl = None if seconds is None else "1h" if seconds > 300 else "5m"
            mark = {} if ttl is None else {"cache_control": {"type": "ephemeral", "ttl": ttl}}
            return {"type": "text", "text": text, **mark}
        case Image():
            url = part.url if part.url is not None else _data_url(part.media_type, part.data)
            detail = {} if part.detail is None else {"detail": part.detail}
            return {"type": "image_url", "image_url": {"url": url, **detail}}
        case Audio():
            sound = {"data": base64.b64encode(part.data).decode(), "format": SOUNDS.get(part.media_type, "wav")}
            return {"type": "input_audio", "input_audio": sound}
        case File():
            name = {} if part.filename is None else {"filename": part.filename}
            return {"type": "file", "file": {"file_data": _data_url(part.media_type, part.data), **name}}


def message_of(said: Mapping[str, Any]) -> Message:
    """A message from OpenAI's chat API. What it holds beside what is said is left out. Raises ValueError."""
    role, content = said.get("role"), said.get("content")
    if role == "tool":
        parts = [_part_of(part) for part in content] if isinstance(content, list) else []
        text = content if isinstance(content, str) else "".join(part.text for part in parts if isinstance(part, Text))
        images = tuple(part for part in parts if isinstance(part, Image))
        return Message.tool(ToolResult(_text(said, "tool_call_id"), text, said.get("is_error") is True, images))
    name = said.get("name")
    return Message(cast("Role", role), tuple(_all_parts(said)), name if isinstance(name, str) else None)


def _all_parts(said: Mapping[str, Any]) -> Iterator[Part]:
    for thought in said.get("reasoning_details") or ():
        if isinstance(thought, Mapping) and thought.get("type") == "reasoning.text":
            yield Reasoning(str(thought.get("text") or ""), thought.get("format"), thought.get("signature"))
    content = said.get("content")
    if isinstance(content, str):
        if content or not (said.get("tool_calls") or said.get("refusal")):
            yield Text(content)
    elif isinstance(content, list):
        yield from map(_part_of, content)
    elif content is not None:
        raise ValueError("a message's content is a text or a list of parts")
    if isinstance(refusal := said.get("refusal"), str):
        yield RefusalText(refusal)
    for call in said.get("tool_calls") or ():
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping):
            raise ValueError("a tool call has an id and a function")
        yield ToolCall(_text(call, "id"), _text(function, "name"), str(function.get("arguments") or "{}"))


def _part_of(part: Any) -> Part:
    held = part.get(part.get("type")) if isinstance(part, Mapping) else None
    match part.get("type") if isinstance(part, Mapping) else None:
        case "text" if isinstance(held, str):
            mark = part.get("cache_control")
            seconds = None if not isinstance(mark, Mapping) else 3_600 if mark.get("ttl") == "1h" else 300
            return Text(held, seconds)
        case "refusal" if isinstance(held, str):
            return RefusalText(held)
        case "image_url" if isinstance(held, Mapping):
            url, detail = _text(held, "url"), held.get("detail")
            if not url.startswith("data:"):
                return Image.at(url, detail=detail)
            media_type, data = _from_data_url(url)
            return Image(data, media_type, detail=detail)
        case "input_audio" if isinstance(held, Mapping):
            sound = "audio/mpeg" if held.get("format") == "mp3" else "audio/wav"
            return Audio(base64.b64decode(_text(held, "data"), validate=True), sound)
        case "file" if isinstance(held, Mapping):
            media_type, data = _from_data_url(_text(held, "file_data"))
            return File(data, media_type, held.get("filename"))
    raise ValueError("a part is of type text, image_url, input_audio, file or refusal, and holds a field of that name")


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text")
    return value


def _data_url(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _from_data_url(url: str) -> tuple[str, bytes]:
    head, found, data = url.partition(";base64,")
    if not found or not head.startswith("data:"):
        raise ValueError("a file must be a data URL such as data:image/png;base64,…")
    return head.removeprefix("data:").partition(";")[0], base64.b64decode(data, validate=True)
