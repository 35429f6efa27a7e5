"""The file with weights and limits of tenants."""

from __future__ import annotations

from pathlib import Path

import pytest
from headrace_contracts.headers import MOST_WEIGHT, WEIGHT, weight_of
from headrace_runtime.settings import SettingsInvalid
from headrace_runtime.tenants import (
    NO_TENANTS,
    TenantLimits,
    TenantsInvalid,
    TenantsSettings,
    load_tenants,
    parse_tenants,
)


def test_a_tenant_has_its_own_limits_and_the_default_for_what_it_does_not_say() -> None:
    tenants = parse_tenants(
        """
        default: {weight: 2, requests_per_minute: 600, live_tasks: 100}
        tenants:
          acme: {weight: 8, live_bytes: 2000000}
          plain: {weight: 1}
        """,
        "here",
    )
    assert tenants.of("acme") == TenantLimits(weight=8, requests_per_minute=600, live_tasks=100, live_bytes=2_000_000)
    assert tenants.of("plain").weight == 1
    assert tenants.of("anybody") == TenantLimits(weight=2, requests_per_minute=600, live_tasks=100)


@pytest.mark.parametrize("text", ["", "# nothing yet", "default:\ntenants:\n", "{}"])
def test_without_entries_all_are_equal(text: str) -> None:
    assert parse_tenants(text, "here") == NO_TENANTS
    assert NO_TENANTS.of("acme").weight == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tenants: {acme: {weight: 0}}", "here: tenants.acme.weight: must be at least 1"),
        (f"default: {{weight: {MOST_WEIGHT + 1}}}", f"here: default.weight: must be at most {MOST_WEIGHT}"),
        ("tenants: {acme: {wait: 3}}", "here: tenants.acme.wait: "),
        ("tenants: {'a b': {weight: 3}}", "must have 1 to 64 letters"),
        ("tenants: [acme]", "here: tenants: must be an object"),
        ("- acme", "here: must be an object"),
        ("default: {weight: {", "here: not YAML"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, told: str) -> None:
    with pytest.raises(TenantsInvalid) as raised:
        parse_tenants(text, "here")
    assert told in str(raised.value)


def test_the_setting_refuses_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe")
    for path in (missing, binary):
        with pytest.raises(SettingsInvalid, match="HEADRACE_TENANTS_FILE"):
            TenantsSettings.load({"HEADRACE_TENANTS_FILE": str(path)})
    good = tmp_path / "tenants.yaml"
    good.write_text("tenants: {acme: {weight: 4}}")
    settings = TenantsSettings.load({"HEADRACE_TENANTS_FILE": str(good)})
    assert load_tenants(settings.tenants_file).of("acme").weight == 4


@pytest.mark.parametrize(
    ("value", "weight"),
    [
        (b"4", 4),
        (b"1000", 1000),
        (b"0", 1),
        (b"1001", MOST_WEIGHT),
        (b"-3", 1),
        (b"9" * 5_000, 1),
        (b"2.5", 1),
        ("²".encode(), 1),
        (b"\xff", 1),
        (b"", 1),
    ],
)
def test_a_weight_in_a_header_is_believed_within_bounds(value: bytes, weight: int) -> None:
    assert weight_of(((WEIGHT, value),)) == weight
    assert weight_of(()) == 1


def test_the_documented_example_is_a_file_of_tenants() -> None:
    page = (Path(__file__).parents[3] / "docs/operations.md").read_text(encoding="utf-8")
    example = page.split("## Tenants\n", 1)[1].split("```yaml\n", 1)[1].split("```", 1)[0]
    tenants = parse_tenants(example, "docs/operations.md")
    assert tenants.of("acme").weight == 4
    assert tenants.of("new").requests_per_minute == 6000
    assert tenants.of("trial") == TenantLimits(requests_per_minute=60, live_tasks=100, live_bytes=10_000_000)
