"""One name, one meaning, and the terms of Kafka and Flink."""

from __future__ import annotations

import ast
import re
import subprocess
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[3]

MIRRORS = {
    "AnswerChoice",
    "Citation",
    "Failure",
    "Message",
    "Preferences",
    "SkillVersion",
    "Tool",
    "TrailStep",
    "Usage",
}
"""What the client library shows of the record of the same name."""

OLD_TERMS = re.compile(
    r"\b(?:barriers?|generations?|watermarks?|unacted|acted(?:_offset)?|wish(?:es|ed)?|orphan(?:s|ed)?|underway|agenda"
    r"|holdings|reply_?hub|doors?|try_?again|offset_?gone)\b",
    re.IGNORECASE,
)
"""Terms of early versions. Today: epoch start, epoch, checkpoint, published, cancellation request, leaderless follower,
in flight, re-evaluation queue, partition state, reply dispatcher, API, TransientError, OffsetOutOfRange."""

WIRE_NAMES = re.compile(r"""(["'`])(?:barrier|watermark|generation|acted_offset|wish)(?:/(?:0|<p>|\{partition\}))?\1""")
"""Names that were released in the journal's schema, quoted as such."""

ELSEWHERE = {
    "CHANGELOG.md": "lists old and new names",
    "docs/events.md": "shows schemas as they are on the wire",
    "tests/k8s/test_chart_on_cluster.py": "metadata.generation is Kubernetes' own",
    "tests/unit/packaging/test_vocabulary.py": "names what it looks for",
}
ELSEWHERE_BELOW = ("schemas/", "libs/contracts/src/headrace_contracts/events/")


def tracked(*endings: str) -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.splitlines() if name.endswith(endings) and (ROOT / name).is_file()]


def test_a_class_name_stands_for_one_thing() -> None:
    defined: defaultdict[str, list[str]] = defaultdict(list)
    for name in tracked(".py"):
        if name.startswith(("libs/", "services/")):
            for node in ast.parse((ROOT / name).read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef):
                    defined[node.name].append(name)
    repeated = {name: files for name, files in defined.items() if len(files) > 1}
    assert repeated.keys() == MIRRORS, f"give each its own name: {repeated}"
    assert all(any("/sdk/" in file for file in files) for files in repeated.values())


def test_terms_that_were_replaced_do_not_come_back() -> None:
    found = [
        f"{name}:{number}: {line.strip()}"
        for name in tracked(".py", ".md", ".yaml", ".tpl", ".sh", ".toml", "Makefile", "Dockerfile")
        if name not in ELSEWHERE and not name.startswith(ELSEWHERE_BELOW)
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), start=1)
        if OLD_TERMS.search(WIRE_NAMES.sub("", line))
    ]
    assert found == []
