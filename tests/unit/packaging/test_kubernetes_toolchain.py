"""Building the programs of the Kubernetes tests: what is said when it cannot be done, and what counts as built."""

from __future__ import annotations

from pathlib import Path

import pytest
from headrace_testing.k8s import toolchain as module
from headrace_testing.k8s.toolchain import PROGRAMS, BuildFailed, InstallGo, Toolchain, main


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    return tmp_path / "cache"


def go_that(folder: Path, script: str) -> None:
    """Put a `go` on PATH."""
    program = folder.parent / "bin" / "go"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_without_go_it_says_so_and_stops(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    said = capsys.readouterr().err
    assert "Go is not installed" in said
    assert "What to do: install Go" in said


def test_go_that_is_too_old_is_named(cache: Path) -> None:
    go_that(cache, 'echo "go: go.mod requires go >= 1.26.0 (running go 1.21.1; GOTOOLCHAIN=local)" >&2; exit 1')
    with pytest.raises(InstallGo, match=r"too old[\s\S]*running go 1\.21\.1"):
        Toolchain(cache).build()


def test_a_build_that_fails_counts_for_nothing_and_shows_what_go_said(cache: Path) -> None:
    go_that(cache, '[ "$1" = env ] && echo go1.26.0 && exit; echo "the proxy does not answer" >&2; exit 1')
    tools = Toolchain(cache)
    with pytest.raises(BuildFailed, match="the proxy does not answer"):
        tools.build(PROGRAMS[:1])
    assert PROGRAMS[0] in tools.missing()


def test_what_is_built_is_not_built_again_until_its_module_changes(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_that(
        cache,
        'echo "$@" >> "$0.log"; [ "$1" = env ] && echo go1.26.0 && exit\n'
        'while [ "$1" != -o ]; do shift; done; echo built > "$2"',
    )
    calls = tmp_path / "bin" / "go.log"
    tools = Toolchain(cache)
    tools.build(PROGRAMS[:2])
    assert tools.path(PROGRAMS[0].name).read_text() == "built\n"
    assert calls.read_text().count("build ") == 2
    tools.build(PROGRAMS[:2])
    assert calls.read_text().count("build ") == 2

    changed = tmp_path / "modules"
    for program in PROGRAMS[:2]:
        (changed / program.module).mkdir(parents=True)
        for name in ("go.mod", "go.sum"):
            text = (module.MODULES / program.module / name).read_text()
            (changed / program.module / name).write_text(text + "// another\n" * (program is PROGRAMS[0]))
    monkeypatch.setattr(module, "MODULES", changed)
    assert [tools.path(program.name).is_file() for program in PROGRAMS[:2]] == [False, True]
    tools.build(PROGRAMS[:2])
    assert calls.read_text().count("build ") == 3


def test_every_module_pins_the_digests_of_what_it_needs() -> None:
    for program in module.ALL_PROGRAMS:
        folder = module.MODULES / program.module
        assert program.package in (folder / "go.mod").read_text()
        assert " h1:" in (folder / "go.sum").read_text()
