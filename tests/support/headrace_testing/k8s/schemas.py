"""Custom resource definitions, and JSON schemas of all kinds the API server knows, for checking manifests without one.

The definitions come from the published sources of each project: KEDA, the Prometheus Operator and the Gateway API as
Go modules, Strimzi as a Java archive. The schemas are made from them and from the OpenAPI document of Kubernetes. They
are strict: an unknown field is refused, as `kubectl` does with strict validation.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from headrace_devstack.artifact_download import download
from headrace_devstack.locked_artifacts import Artifact
from headrace_devstack.settings import load_settings

from headrace_testing.k8s.toolchain import KUBERNETES_VERSION, Toolchain, go_module

_KEDA: Final = ("github.com/kedacore/keda/v2@v2.21.0", "h1:R6z2HZvstK4RLUMxroNACzBj74xGxt3kG59b5Xc+Xps=")
_PROMETHEUS: Final = (
    "github.com/prometheus-operator/prometheus-operator@v0.85.0",
    "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
)
_GATEWAY: Final = ("sigs.k8s.io/gateway-api@v1.6.3", "h1:lKpJa5bGlraC/QeACvCpsHLdmO6y0iKfzVl6gzaFEYc=")
_STRIMZI: Final = Artifact(
    "strimzi", "io.strimzi", "api", "0.51.0", "tests", "jar",
    "b99f69303dc507ca505b74345d93f5260621bb084b8b79447f726e54b6e66a1d", 292_302,
)  # fmt: skip
_MADE_BY: Final = "3"
"""Increment when the same sources are turned into different schemas."""


class Definitions:
    """Makes what is missing in the toolchain's folder. Raises InstallGo, BuildFailed."""

    def __init__(self, tools: Toolchain) -> None:
        self._tools = tools

    def crds(self) -> Sequence[str]:
        """The custom resource definitions, as their projects publish them."""
        keda = go_module(*_KEDA) / "config" / "crd" / "bases"
        prometheus = go_module(*_PROMETHEUS) / "example" / "prometheus-operator-crd"
        gateway = go_module(*_GATEWAY) / "config" / "crd" / "standard"
        files = [path for folder in (keda, prometheus, gateway) for path in sorted(folder.glob("*.yaml"))]
        texts = [text for text in (path.read_text() for path in files) if "kind: CustomResourceDefinition" in text]
        return [*texts, *self._strimzi()]

    def schemas(self) -> Path:
        """Folder with one schema per kind, with the names kubeconform expects: `deployment-apps-v1.json`."""
        key = hashlib.sha256(
            "\n".join([KUBERNETES_VERSION, *_KEDA, *_PROMETHEUS, *_GATEWAY, _STRIMZI.sha256, _MADE_BY]).encode()
        )
        target = self._tools.folder / f"schemas-{key.hexdigest()[:12]}"
        if target.is_dir():
            return target
        new = target.with_name(f"{target.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        source = self._tools.source("kubernetes", "k8s.io/kubernetes") / "api" / "openapi-spec" / "swagger.json"
        for name, schema in (*_built_in(json.loads(source.read_text())), *_custom(self.crds())):
            (new / f"{name}.json").write_text(json.dumps(schema))
        new.rename(target)
        return target

    def _strimzi(self) -> list[str]:
        archive = self._tools.folder / _STRIMZI.file_name
        if not archive.is_file():
            download([(_STRIMZI, archive)], load_settings().maven_repository, _Silent(), threading.Event())
        with zipfile.ZipFile(archive) as jar:
            names = sorted(name for name in jar.namelist() if name.startswith("crds/v1/") and name.endswith(".yaml"))
            return [jar.read(name).decode() for name in names]


class _Loader(yaml.CSafeLoader):
    """Reads a lone `=` as text; YAML 1.1 has a type of its own for it, which other parsers ignore."""


def _as_text(loader: _Loader, node: yaml.ScalarNode) -> object:
    return loader.construct_scalar(node)


_Loader.add_constructor("tag:yaml.org,2002:value", _as_text)


class _Silent:
    def expect(self, files: int, size: int) -> None: ...

    def advance(self, size: int) -> None: ...

    def waiting_for_other(self) -> None: ...

    def unpacking(self, name: str) -> None: ...


def schema_name(group: str, version: str, kind: str) -> str:
    """The file name of a schema that kubeconform expects."""
    first = group.partition(".")[0]
    return "-".join(part for part in (kind.lower(), first, version) if part)


def _built_in(openapi: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    definitions = {name: _strict(definition) for name, definition in openapi["definitions"].items()}
    definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"] = {"type": ["string", "integer"]}
    definitions["io.k8s.apimachinery.pkg.api.resource.Quantity"] = {"type": ["string", "number"]}
    for name, definition in openapi["definitions"].items():
        for kind in definition.get("x-kubernetes-group-version-kind", ()):
            needed = {other: definitions[other] for other in sorted(_closure(name, definitions))}
            yield (
                schema_name(kind["group"], kind["version"], kind["kind"]),
                {"$ref": f"#/definitions/{name}", "definitions": needed},
            )


def _closure(name: str, definitions: Mapping[str, Any]) -> set[str]:
    found: set[str] = set()
    waiting = [name]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += _references(definitions[one])
    return found


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(reference := schema.get("$ref"), str):
            yield reference.removeprefix("#/definitions/")
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def _custom(crds: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for text in crds:
        spec = yaml.load(text, Loader=_Loader)["spec"]
        for version in spec["versions"]:
            schema = dict(version["schema"]["openAPIV3Schema"])
            schema["properties"] = {
                "apiVersion": {"type": "string"}, "kind": {"type": "string"}, **schema["properties"],
                "metadata": {"type": "object"},
            }  # fmt: skip
            yield schema_name(spec["group"], version["name"], spec["names"]["kind"]), _strict(schema)


def _strict(schema: Any) -> Any:
    """The schema with unknown fields refused, and with OpenAPI's extensions translated to JSON Schema."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    # Parts of a condition name some of an object's fields, not all of them.
    made = {
        key: value if key in ("allOf", "anyOf", "oneOf", "not") else _strict(value)
        for key, value in schema.items()
        if key not in ("description", "default", "example")
    }
    if "properties" in schema and isinstance(schema["properties"], dict):
        made["properties"] = {name: _strict(one) for name, one in schema["properties"].items()}
        if "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            made["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("anyOf", None)
        made["type"] = ["string", "integer"]
    if schema.get("nullable") and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
        if "enum" in made:
            made["enum"] = [*made["enum"], None]
    return made
