"""What the tools of the demo's agents give, and what they keep."""

from __future__ import annotations

import pytest
from headrace import Tool
from headrace_devstack.demo.corpus import MOST_READ, Corpus, JobPrivacy, SourceFile, marker_of, privacy_of
from headrace_devstack.demo.repository import Repository

README = SourceFile("README.md", "How to use `spin`.\n" * 20, False)
CODE = SourceFile("src/spin.py", "def spin() -> int:\n    return 1\n" * 10, False)
SECRET = SourceFile("src/auth/keys.py", "def spin_key() -> str:\n    return 'k'\n" * 10, True)
LONG = SourceFile("docs/long.md", "x" * (MOST_READ + 7), False)
REPOSITORY = Repository(Corpus("/x", (README, CODE, SECRET, LONG)), "r")
MARKER = marker_of("r", SECRET.path)


def _tool(level: JobPrivacy, name: str) -> Tool:
    return next(tool for tool in REPOSITORY.tools(level) if tool.name == name)


async def _call(level: JobPrivacy, name: str, **arguments: str) -> str:
    tool = _tool(level, name)
    assert tool.function is not None
    return str(await tool.function(**tool.bound(arguments)))


@pytest.mark.parametrize("path", ["src/spin.py", "/src/spin.py", "./src/spin.py", "src/../src/spin.py", " src/spin.py"])
async def test_a_file_is_found_however_its_path_is_written(path: str) -> None:
    assert await _call(JobPrivacy.SENSITIVE, "read_file", path=path) == CODE.text


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../../etc/passwd", "src", "", "src/../../x/src/spin.py", ".git/config"]
)
@pytest.mark.parametrize("level", list(JobPrivacy))
async def test_no_path_leads_out_of_the_folder(level: JobPrivacy, path: str) -> None:
    with pytest.raises(LookupError, match="there is no file"):
        await _call(level, "read_file", path=path)


@pytest.mark.parametrize("level", [JobPrivacy.INTERNAL, JobPrivacy.PUBLIC])
async def test_a_sensitive_file_is_given_to_sensitive_jobs_only(level: JobPrivacy) -> None:
    with pytest.raises(LookupError, match="there is no file"):
        await _call(level, "read_file", path=SECRET.path)
    for text in ("spin_key", "auth", "return 'k'", "keys.py"):
        assert await _call(level, "search_repository", text=text) == "No file contains it."
    assert SECRET.path not in await _call(level, "search_repository", text="spin")


async def test_what_a_tool_gives_of_a_sensitive_file_carries_its_marker() -> None:
    assert MARKER in await _call(JobPrivacy.SENSITIVE, "read_file", path=SECRET.path)
    for text in ("spin_key", "src/auth", "return 'k'"):
        found = (await _call(JobPrivacy.SENSITIVE, "search_repository", text=text)).splitlines()
        assert found
        assert all(MARKER in line for line in found if line.startswith(SECRET.path))
    assert MARKER not in await _call(JobPrivacy.SENSITIVE, "read_file", path=CODE.path)


async def test_a_job_sees_no_file_that_may_travel_less_far_than_its_prompt() -> None:
    levels = list(JobPrivacy)
    for level in levels:
        for file in (README, CODE, SECRET):
            if levels.index(level) <= levels.index(privacy_of(file)):
                assert file.text in await _call(level, "read_file", path=file.path)
            else:
                with pytest.raises(LookupError):
                    await _call(level, "read_file", path=file.path)


async def test_results_have_a_limit_and_say_so() -> None:
    given = await _call(JobPrivacy.PUBLIC, "read_file", path=LONG.path)
    assert given == "x" * MOST_READ + "\n[7 more characters]"
    found = await _call(JobPrivacy.SENSITIVE, "search_repository", text="spin")
    assert len(found.splitlines()) == 6
    assert "README.md:1: How to use `spin`." in found
    with pytest.raises(ValueError, match="give the text"):
        await _call(JobPrivacy.PUBLIC, "search_repository", text=" ")


def test_models_are_told_what_the_tools_are_for() -> None:
    for name, argument in (("read_file", "path"), ("search_repository", "text")):
        tool = _tool(JobPrivacy.PUBLIC, name)
        assert tool.description
        assert tool.parameters is not None
        assert tool.parameters["required"] == [argument]
        assert tool.parameters["properties"][argument]["description"]
