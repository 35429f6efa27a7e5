"""An OpenAPI document as a page that a browser shows without scripts and without loading anything from elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

from aiohttp import hdrs, web

from headrace_runtime.openapi import ApiOperation, document_of

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--line); }
details { border: 1px solid var(--line); border-radius: 6px; margin: .4rem 0; }
summary { cursor: pointer; padding: .45rem .8rem; } summary:hover { background: var(--soft); }
details > div { padding: 0 .8rem .8rem; overflow-x: auto; }
code, pre, .method { font-family: ui-monospace, monospace; font-size: .875em; }
.method { display: inline-block; width: 4.5rem; font-weight: 600; }
.about { opacity: .75; margin-left: .5rem; }
pre { background: var(--soft); padding: .7rem; border-radius: 6px; white-space: pre-wrap; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); padding: .25rem .6rem .25rem 0; }
"""
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def add_reference(
    app: web.Application, title: str, version: str, about: str, operations: Sequence[ApiOperation]
) -> None:
    """Add `GET /openapi.json` and `GET /docs`, which shows it, to an application that has all its other routes.

    Raises ValueError if these are not the operations: a route that is not described, or is not there any more.
    """
    described = {(each.method, each.documented_path) for each in operations}
    routed = {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != hdrs.METH_HEAD
    }
    if described != routed:
        raise ValueError(f"routes that are not described, or operations without a route: {described ^ routed}")
    document = document_of(title, version, about, operations)
    text, page = json.dumps(document, ensure_ascii=False), page_of(document)

    async def as_json(_request: web.Request) -> web.Response:
        return web.Response(text=text, content_type="application/json")

    async def as_page(_request: web.Request) -> web.Response:
        headers = {"Content-Security-Policy": _POLICY}
        return web.Response(text=page, content_type="text/html", charset="utf-8", headers=headers)

    app.add_routes([web.get("/openapi.json", as_json), web.get("/docs", as_page)])


PUBLIC_PATHS: Final = ("/openapi.json", "/docs")
"""Need no API key: they say nothing that is not in the source."""


def page_of(document: Mapping[str, Any]) -> str:
    """The page: operations by group, then the schemas that they refer to."""
    info = document["info"]
    return "".join((
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(info["title"])}</title>',
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>',
        f"<h1>{escape(info['title'])}</h1><p>Version {escape(info['version'])}. {escape(info['description'])} ",
        'The same for programs: <a href="openapi.json">openapi.json</a> (OpenAPI 3.1).</p>',
        *_operations(document),
        "<h2>Schemas</h2>",
        *_schemas(document),
        "</body></html>",
    ))  # fmt: skip


def _operations(document: Mapping[str, Any]) -> Iterator[str]:
    for tag in document["tags"]:
        yield f"<h2>{escape(tag['name'])}</h2>"
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if tag["name"] in operation["tags"]:
                    yield from _operation(method, path, operation)


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f'<details id="{escape(operation["operationId"])}"><summary><span class="method">{method.upper()}</span>'
    yield f'<code>{escape(path)}</code><span class="about">{escape(operation["summary"])}</span></summary><div>'
    yield f"<p>{_prose(operation.get('description', 'Needs no key.'))}</p>"
    if operation["parameters"]:
        yield "<table><tr><th>Parameter</th><th>In</th><th>Type</th><th></th></tr>"
        for each in operation["parameters"]:
            yield f"<tr><td><code>{escape(each['name'])}</code></td><td>{escape(each['in'])}</td>"
            yield f"<td>{_typed(each['schema'])}</td><td>{_prose(each.get('description', ''))}</td></tr>"
        yield "</table>"
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<p>Body (<code>{escape(media)}</code>): {_typed(content['schema'])}</p>"
    yield "<table><tr><th>Status</th><th>Meaning</th><th>Body</th></tr>"
    for status, answer in operation["responses"].items():
        bodies = [
            f"<code>{escape(media)}</code> {_typed(content['schema'])}"
            for media, content in answer.get("content", {}).items()
        ]
        meaning = _prose(answer["description"])
        yield f"<tr><td>{'other' if status == 'default' else escape(status)}</td><td>{meaning}</td>"
        yield f"<td>{'<br>'.join(bodies) or 'none'}</td></tr>"
    yield "</table></div></details>"


def _schemas(document: Mapping[str, Any]) -> Iterator[str]:
    for name, schema in sorted(document["components"]["schemas"].items()):
        about = escape(str(schema.get("description", "")).partition("\n")[0])
        text = escape(json.dumps(schema, indent=2, ensure_ascii=False))
        yield f'<details id="schema-{escape(name)}"><summary><code>{escape(name)}</code>'
        yield f'<span class="about">{about}</span></summary><div><pre>{text}</pre></div></details>'


def _prose(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _typed(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = escape(schema["$ref"].rsplit("/", 1)[1])
        return f'<a href="#schema-{name}"><code>{name}</code></a>'
    if "enum" in schema:
        return " | ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    return escape(str(schema.get("type", "any")))
