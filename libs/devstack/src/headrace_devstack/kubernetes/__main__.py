"""Writes what Kubernetes needs and the code knows already.

`--check` writes nothing, says what is not current, and exits with 1 when anything is not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml
from headrace_contracts.tools.schemas import repository

from headrace_devstack.kubernetes import kafka_resources, values_table

_BEGIN = "<!-- values: generated from values.yaml by `make generate`; change that instead -->"
_END = "<!-- end of values -->"
_HEADER = "# Generated from {source} by `make generate`; change that instead.\n"


def files(root: Path) -> dict[Path, str]:
    """Every generated file with what it should hold."""
    specs = "the topic specifications (headrace_contracts.topics)"
    chart = root / "charts" / "headrace"
    k8s = root / "k8s"
    readme = chart / "README.md"
    values = values_table.table((chart / "values.yaml").read_text(encoding="utf-8"))
    return {
        chart / "files" / "topics.yaml": _documents(specs, [kafka_resources.topics_data()]),
        k8s / "strimzi" / "topics.yaml": _documents(specs, kafka_resources.topic_resources()),
        k8s / "strimzi" / "users.yaml": _documents(specs, kafka_resources.user_resources()),
        readme: _between(readme.read_text(encoding="utf-8"), values),
    }


def _documents(source: str, documents: list[dict[str, Any]]) -> str:
    dumped = yaml.safe_dump_all(documents, sort_keys=False, width=120, allow_unicode=True)
    return _HEADER.format(source=source) + dumped


def _between(text: str, generated: str) -> str:
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise SystemExit(f"the chart's README.md must hold the lines {_BEGIN} and {_END}")
    return f"{before}{begin}\n\n{generated}\n{end}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m headrace_devstack.kubernetes", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say what is not current, and exit with 1 if any is")
    check = parser.parse_args().check
    root = repository()
    stale = {path: text for path, text in files(root).items() if not path.exists() or path.read_text("utf-8") != text}
    for path, text in stale.items():
        if check:
            sys.stderr.write(f"{path} is not current: run `make generate`\n")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            sys.stderr.write(f"wrote {path}\n")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
