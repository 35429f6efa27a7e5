"""The table of values is read from the comments of values.yaml."""

from __future__ import annotations

import pytest
from headrace_devstack.kubernetes.values_table import ValueUndocumented, documented, table

TEXT = """
# ------------------------------------------------- a section

# Put before names.
prefix: a.

kafka:
  # Brokers to contact first,
  # as host:port.
  servers: x:1
  # Secret with the authority.
  caSecret:
    name: s
    key: ca.crt

# Taken for all.
serviceDefaults:
  # Pods.
  replicas: 2

# The API.
intake:
  replicas: 3
"""


def test_each_value_has_its_default_and_the_comment_above_it() -> None:
    assert [(value.path, value.text) for value in documented(TEXT)] == [
        ("prefix", "Put before names."),
        ("kafka.servers", "Brokers to contact first, as host:port."),
        ("kafka.caSecret", "Secret with the authority."),
        ("serviceDefaults", "Taken for all."),
        ("serviceDefaults.replicas", "Pods."),
        ("intake", "The API."),
        ("intake.replicas", "Pods."),
    ]
    shown = table(TEXT)
    assert '| `prefix` | `"a."` | Put before names. |' in shown
    assert "### `intake`\n\nThe API.\n" in shown
    assert "| `intake.replicas` | `3` | Pods. |" in shown


def test_a_value_without_a_comment_is_refused() -> None:
    with pytest.raises(ValueUndocumented, match=r"kafka\.other"):
        documented("kafka:\n  # Known.\n  known: 1\n\n  other: 2\n")
