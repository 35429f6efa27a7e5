"""What comes from records and answers cannot command the terminal of whoever looks at it."""

from __future__ import annotations

import io

import pytest
from headrace.cli.output import _SafeConsole, escaped, print_json, print_text, table
from rich.text import Text

_HOSTILE = {
    "colours": "\x1b[31mred",
    "clipboard": "\x1b]52;c;cm0gLXJm\x07",
    "title": "\x1b]0;root\x1b\\",
    "back": "harmless\rdanger",
    "erase": "\x08\x08\x7f",
    "eight-bit escape": "\x9b2J\x90",
    "turned around": "a\u202ecod.exe\u2066",
    "null": "a\x00b",
}


def _commands(text: str) -> list[str]:
    return [character for character in text if (not character.isprintable() and character not in "\n\t")]


@pytest.mark.parametrize("text", _HOSTILE.values(), ids=_HOSTILE.keys())
@pytest.mark.parametrize("how", ["text", "styled", "markup", "table"])
def test_a_terminal_is_sent_no_command_of_a_record(text: str, how: str) -> None:
    file = io.StringIO()
    console = _SafeConsole(file=file, force_terminal=True, color_system=None, highlight=False, width=80)
    match how:
        case "text":
            console.print(text, markup=False)
        case "styled":
            console.print(Text.assemble(("when", "dim"), (text, "bold")), soft_wrap=True)
        case "markup":
            console.print(f"[bold]found[/bold] {text}".replace("\\", "/"), end="")
        case "table":
            rows = table("key", "value")
            rows.add_row("x", text)
            console.print(rows)
    assert _commands(file.getvalue()) == []


def test_colours_of_our_own_stay() -> None:
    file = io.StringIO()
    console = _SafeConsole(file=file, force_terminal=True, color_system="standard", highlight=False)
    console.print(Text("failed", "red"))
    assert "\x1b[31mfailed" in file.getvalue()


@pytest.mark.parametrize("text", ["plain", "zwei\nZeilen\tund é 中 🙂", "a\\x1b[31m"])
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert escaped(text) == text


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_file_gets_the_text_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_terminal: bool
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal)
    print_text("\x1b[31mred\x9b2J")
    print_json({"answer": "\x1b[31m\x9b2J\u202e"})
    written = capsys.readouterr().out
    assert ("\x9b" in written) is not is_terminal
    assert ("\x1b" in written) is not is_terminal
