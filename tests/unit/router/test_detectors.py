"""Detectors of personal data and secrets: what they find, what they leave alone, and that no text takes them long."""

from __future__ import annotations

import time
from typing import Any

import pytest
from headrace_contracts.content import plain
from headrace_contracts.events import Content, Message, MessagePart, Options, PartKind, Tool
from headrace_router.decide.detectors import Detector, detected
from headrace_testing.routing import task

ALL: dict[Detector, object] = dict.fromkeys(("card_number", "iban", "private_key", "access_key", "secret"))


def found(text: str, **fields: Any) -> list[str]:
    return [detector for detector, _ in detected(task(text=text, **fields), ALL)]


@pytest.mark.parametrize(
    ("text", "detector"),
    [
        ("My card is 4111 1111 1111 1111, please", "card_number"),
        ("4111111111111111", "card_number"),
        ("4111-1111-1111-1111.", "card_number"),
        ("amex 378282246310005", "card_number"),
        ("mastercard 5555 5555 5555 4444", "card_number"),
        ("the new range 2223003122003222", "card_number"),
        ("discover 6011111111111117", "card_number"),
        ("jcb 3530111333300000", "card_number"),
        ("wide: ４１１１１１１１１１１１１１１１", "card_number"),
        ("hidden: 4111\u200b1111\u200b1111\u200b1111", "card_number"),
        ("pay to DE89 3704 0044 0532 0130 00 today", "iban"),
        ("GB82WEST12345698765432", "iban"),
        ("no9386011117947", "iban"),
        ("-----BEGIN PRIVATE KEY-----\nMIIEv", "private_key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "private_key"),
        ("-----BEGIN RSA PRIVATE KEY-----", "private_key"),
        ("id AKIAIOSFODNN7EXAMPLE", "access_key"),
        ("ghp_16C7e42F292c6912E7710c838347Ae178B4a", "access_key"),
        ("AIzaSyA-1234567890abcdefghijklmnopqrstu", "access_key"),
        ("sk-ant-api03-Zk3vQ9xYt7Lm2Nc8Rb5Wd1Pf6Hs4Jg0", "access_key"),
        (
            "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIn0.SflKxwRJSMeKKF2QT4",
            "access_key",
        ),
        ('password = "xK9#mP2$vL5nQ8w"', "secret"),
        ("Authorization: Bearer 9f86d081884c7d659a2feaa0c55ad015", "secret"),
        ("API_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "secret"),
    ],
)
def test_what_is_found(text: str, detector: str) -> None:
    assert detector in found(text)


@pytest.mark.parametrize(
    "text",
    [
        "How deep is the lake?",
        "4111 1111 1111 1112 has a wrong check digit",
        "0000 0000 0000 0000",
        "order 1234567890123456",
        "phone +49 30 901820, at 2026-11-30 17:00:00.123456",
        "DE89 3704 0044 0532 0130 01 has a wrong check digit",
        "ISO 13616 says that IBANs begin with a country",
        "0199b9d0-0000-7000-8000-000000000001",
        "commit 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b",
        "-----BEGIN PUBLIC KEY-----",
        "-----BEGIN CERTIFICATE-----",
        "the password is wrong, and the token: unexpected",
        "secret: the-quick-brown-fox-jumps",
        "AKIA is what their ids begin with",
        "sk-" + "a" * 40,
        "",
    ],
)
def test_what_is_left_alone(text: str) -> None:
    assert not found(text)


def test_every_text_of_a_task_is_looked_at_and_nothing_of_it_repeated() -> None:
    card = "4111111111111111"
    parts = (
        MessagePart(kind=PartKind.TOOL_RESULT, content=plain(card), call_id="c"),
        MessagePart(kind=PartKind.TOOL_CALL, content=plain('{"n": "4111111111111111"}'), call_id="c", name="f"),
        MessagePart(kind=PartKind.IMAGE, url=plain(f"https://x.example/{card}")),
        MessagePart(kind=PartKind.FILE, content=plain("bytes"), filename=plain(card)),
    )
    clean = Message(role="user", content=plain("hello"))
    for part in parts:
        said = list(detected(task(messages=(clean, Message(role="user", content=plain(""), parts=(part,)))), ALL))
        assert said == [("card_number", "message 2")], part.kind
    for options in (
        Options(inputs=(plain(card),)),
        Options(queries=(plain(card),)),
        Options(extra={"x": plain(f'"{card}"')}),
        Options(tools=(Tool(name="pay", description=plain(card)),)),
        Options(tools=(Tool(name="pay", parameters=plain(f'{{"a": "{card}"}}')),)),
    ):
        assert [one for one, _ in detected(task(options=options), ALL)] == ["card_number"]


def test_sealed_content_and_bytes_of_images_are_not_looked_into() -> None:
    sealed = Message(role="user", content=Content(cipher="key-1", data=b"4111111111111111"))
    image = MessagePart(kind=PartKind.IMAGE, content=plain("4111111111111111"), media_type="image/png")
    assert not list(detected(task(messages=(sealed,)), ALL))
    assert not list(detected(task(messages=(Message(role="user", content=plain(""), parts=(image,)),)), ALL))


def test_only_what_is_wanted_is_looked_for() -> None:
    assert not list(detected(task(text="4111111111111111"), {"iban": None}))


@pytest.mark.parametrize(
    "hostile",
    ["4-", "4 1", "4", "eyJ-", "-eyJaaaaaaaaaa", ".eyJaaaaaaaaaa", "DE89 ", "DE89", "secret=", "secret=a",
     "password is ", "sk-", "AKIA", "-----BEGIN ", "\u200b4", "４"],
)  # fmt: skip
def test_no_text_takes_long(hostile: str) -> None:
    """A tenant's text holds up all tasks of a router process while it is looked at."""
    text = hostile * (100_000 // len(hostile))
    began = time.process_time()
    found(text)
    assert time.process_time() - began < 0.5
