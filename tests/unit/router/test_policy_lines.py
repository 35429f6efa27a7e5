"""What is wrong with a policy is told with the line it stands in."""

from __future__ import annotations

import pytest
from headrace_router.adapters.policy_file import PolicyInvalid, parse_policy, parse_tenant_policy, policy_text

GOOD = """\
defaults:
  role: r
deadlines:
  default: {interactive: 120_000, batch: 3_600_000}
attempts:
  timeout: {interactive: 45_000, batch: 1_500_000}
providers:
  ollama: {place: local}
  groq: {place: cloud}
models:
  llama3.2:1b: {size_gb: 1.6}
roles:
  r:
    models:
      - ollama/llama3.2:1b
      - groq/big
"""


def problems(text: str) -> list[str]:
    with pytest.raises(PolicyInvalid) as refused:
        parse_policy(text, "p.yaml")
    return str(refused.value).splitlines()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("role: r", "role: other", "p.yaml: line 2: defaults.role: there is no role 'other'"),
        ("  - groq/big", "  - nobody/big", "p.yaml: line 16: roles.r.models.1: there is no provider 'nobody'"),
        ("  - groq/big", "  - groq", "p.yaml: line 16: roles.r.models.1: must be provider/model"),
        ("size_gb: 1.6", "size_gb: -1", "p.yaml: line 11: models.llama3.2:1b.size_gb: must be more than 0"),
        ("interactive: 45_000", "interactive: 90_000", "p.yaml: line 6: attempts.timeout.interactive: "),
        ("place: cloud", "place: moon", "p.yaml: line 9: providers.groq.place: "),
        ("attempts:", "retry:\n  attemts: 3\nattempts:", "p.yaml: line 6: retry.attemts: "),
        ("  groq: {place: cloud}", "  ollama: {place: cloud}", "p.yaml: line 9: the key 'ollama' stands in line 8"),
        ("  role: r", "  role: [r", "p.yaml: line "),
        ("  role: r", "  role: !!python/object:os.system r", "p.yaml: not YAML: "),
        ("  role: r", "  ? [a, b]\n  : r", "p.yaml: line 2: a key must be a name"),
    ],
)  # fmt: skip
def test_the_line_is_told(old: str, new: str, told: str) -> None:
    assert parse_policy(GOOD, "p.yaml").defaults.role == "r"
    found = problems(GOOD.replace(old, new, 1))
    assert any(line.startswith(told) for line in found), found


def test_every_problem_has_its_line() -> None:
    assert problems(GOOD.replace("groq/big", "nobody/big").replace("role: r", "role: other")) == [
        "p.yaml: line 2: defaults.role: there is no role 'other'",
        "p.yaml: line 16: roles.r.models.1: there is no provider 'nobody'",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "it is empty"),
        ("a: &a [b]\nc: " + "[" * 40 + "]" * 40, "nested more than 32 levels"),
        ("a: &a\n  - *a", "nested more than 32 levels"),
        # Nine lines of ten repetitions each: a thousand million values.
        (
            "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
            + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)),
            "more than 50000 values",
        ),
        ("x: " + "y" * 1_000_000, "more than 900000 bytes"),
        ("a: 1\n---\nb: 2", "expected a single document"),
        ("when: 2026-99-99", "month must be"),
        ("a: \x07", "not YAML"),
    ],
)
def test_texts_that_are_none_are_refused(text: str, told: str) -> None:
    assert told in "\n".join(problems(text))


def test_the_shipped_policy_may_repeat_parts() -> None:
    text = GOOD + "  s: &s\n    models: [groq/big]\n  t: *s\n  u: {<<: *s, lane: batch}\n"
    policy = parse_policy(text, "p.yaml")
    assert policy.roles["t"] == policy.roles["s"]
    assert policy.roles["u"].models == policy.roles["s"].models
    assert parse_policy(*policy_text(None)).roles


def test_what_a_tenant_may_not_do_is_told_with_its_line() -> None:
    policy = parse_policy(GOOD, "p.yaml")
    with pytest.raises(PolicyInvalid) as refused:
        parse_tenant_policy("roles:\n  r:\n    models:\n      - groq/huge\n  s: {}\n", "acme.yaml", policy)
    assert str(refused.value).splitlines() == [
        "acme.yaml: line 4: roles.r.models.0: groq/huge is not in the installation's list there",
        "acme.yaml: line 5: roles.s: the installation's policy has no such role",
    ]
