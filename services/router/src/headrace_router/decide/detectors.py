"""Detectors of personal data and secrets in what a task says: numbers with a checksum, and keys of known shapes.

They can raise a task's level and never lower it, so a miss leaves a task where its caller put it, and a mistake costs
it the cloud. What is sealed, encoded or split among messages they do not see: a net below the rules, not a rule.

Each looks for a shape by one pass of a regular expression without nested repetition, and then computes: the checksum of
a card number or an IBAN, or how random a word is.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, Literal

from headrace_contracts.content import PLAIN, text_of
from headrace_contracts.events import Content, PartKind, TaskSubmitted

Detector = Literal["card_number", "iban", "private_key", "access_key", "secret"]

_TEXTS: Final = frozenset({
    PartKind.TEXT, PartKind.TOOL_CALL, PartKind.TOOL_RESULT, PartKind.REFUSAL, PartKind.REASONING,
})  # fmt: skip
_INVISIBLE: Final = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff"))

_DIGITS: Final = re.compile(r"(?<![0-9])[2-6](?:[ .-]?[0-9]){12,18}(?![0-9])")
_ISSUERS: Final = re.compile(
    r"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})|5[1-5][0-9]{14}|2(?:22[1-9]|2[3-9][0-9]|[3-6][0-9]{2}|7[01][0-9]|720)[0-9]{12}"
    r"|3[47][0-9]{13}|3(?:0[0-5]|[689][0-9])[0-9]{11,16}|35[2-8][0-9]{13,16}|6(?:011|5[0-9]{2}|4[4-9][0-9])[0-9]{12,15}"
)
_IBAN: Final = re.compile(r"(?<![A-Za-z0-9])([A-Za-z]{2}[0-9]{2}(?:[ -]?[A-Za-z0-9]){11,30})")
_IBAN_LENGTHS: Final[Mapping[str, int]] = MappingProxyType({
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28,
    "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18,
    "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22,
    "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20,
    "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18,
    "NO": 15, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SC": 31, "SE": 24,
    "SI": 19, "SK": 24, "SM": 27, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24,
    "XK": 20,
})  # fmt: skip
_PRIVATE_KEY: Final = re.compile(
    r"-----BEGIN (?:(?:RSA|EC|DSA|OPENSSH|ENCRYPTED) )?PRIVATE KEY-----|-----BEGIN PGP PRIVATE KEY BLOCK-----"
    r"|PuTTY-User-Key-File-[0-9]: |AGE-SECRET-KEY-1[A-Z0-9]{58}"
)
_ACCESS_KEY: Final = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:AKIA|ASIA)[A-Z2-7]{16}"  # AWS
    r"|AIza[A-Za-z0-9_-]{35}"  # Google
    r"|gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60}"
    r"|glpat-[A-Za-z0-9_-]{20}"
    r"|xox[abprs]-[A-Za-z0-9-]{20}"  # Slack
    r"|[sr]k_live_[A-Za-z0-9]{20}"  # Stripe
    r"|sk-(?:ant-|proj-|or-)?[A-Za-z0-9_-]{32}"  # Anthropic, OpenAI, OpenRouter
    r"|gsk_[A-Za-z0-9]{40}|tvly-[A-Za-z0-9-]{24}|hf_[A-Za-z]{30}|npm_[A-Za-z0-9]{36}|pypi-AgE[A-Za-z0-9_-]{50}"
    r")|(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{10,250}\.eyJ[A-Za-z0-9_-]{20}"  # JSON web tokens
)
_NAMED: Final = re.compile(
    r"(?:secret|token|passw(?:or)?d|pwd|api[_-]?key|access[_-]?key|private[_-]?key|authorization|credential)s?"
    r"[\"\'`]{0,2}[ \t]{0,3}(?::=|=>|=|:|is)[ \t]{0,3}(?:bearer |basic )?[\"\'`]{0,2}"
    r"([A-Za-z0-9+/=_.~!@#$%^&*-]{12,512})",
    re.IGNORECASE,
)
_IN_ACCESS_KEYS: Final = (
    "AKIA", "ASIA", "AIza", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "xox", "k_live_", "sk-",
    "gsk_", "tvly-", "hf_", "npm_", "pypi-", "eyJ",
)  # fmt: skip
_IN_NAMES: Final = ("secret", "token", "pass", "pwd", "key", "authorization", "credential")
_RANDOM_BITS: Final = 3.2
"""Entropy of a character from which on a word that is said to be a secret is one; English words have less."""


def detected(task: TaskSubmitted, wanted: Mapping[Detector, object]) -> Iterator[tuple[Detector, str]]:
    """What was found of what is wanted, and where; each detector once. Nothing of the content is repeated."""
    left = dict(wanted)
    for where, text in _texts(task):
        if not left:
            return
        plain = _plain(text)
        for detector in [one for one in left if _DETECTORS[one](plain)]:
            del left[detector]
            yield detector, where


def _texts(task: TaskSubmitted) -> Iterator[tuple[str, str]]:
    for number, message in enumerate(task.messages, start=1):
        contents: list[Content | None] = [message.content, message.name]
        for part in message.parts:
            contents += [part.content if part.kind in _TEXTS else None, part.url, part.filename]
        for content in contents:
            if content is not None and content.cipher == PLAIN and content.data:
                yield f"message {number}", text_of(content)
    options = task.options
    if options is None:
        return
    for content in (*options.inputs, *options.queries, *options.extra.values()):
        if content.cipher == PLAIN and content.data:
            yield "the options", text_of(content)
    for tool in options.tools:
        for content in (tool.description, tool.parameters):
            if content is not None and content.cipher == PLAIN and content.data:
                yield f"the tool {tool.name}", text_of(content)


def _plain(text: str) -> str:
    """Without what hides a number from a pattern and not from a reader."""
    return text if text.isascii() else unicodedata.normalize("NFKC", text).translate(_INVISIBLE)


def _card_number(text: str) -> bool:
    for found in _DIGITS.finditer(text):
        digits = re.sub(r"[^0-9]", "", found.group())
        if _ISSUERS.fullmatch(digits) and len(set(digits)) > 1 and _luhn(digits):
            return True
    return False


def _luhn(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _iban(text: str) -> bool:
    for found in _IBAN.finditer(text):
        compact = re.sub(r"[ -]", "", found.group(1)).upper()
        length = _IBAN_LENGTHS.get(compact[:2])
        # What follows it in a sentence may look like more of it.
        if length is not None and len(compact) >= length and _mod97(compact[:length]):
            return True
    return False


def _mod97(iban: str) -> bool:
    return int("".join(str(int(char, 36)) for char in iban[4:] + iban[:4])) % 97 == 1


def _private_key(text: str) -> bool:
    return _PRIVATE_KEY.search(text) is not None


def _access_key(text: str) -> bool:
    # To look for a few words is many times faster than the expression, and most texts have none of them.
    return any(word in text for word in _IN_ACCESS_KEYS) and any(
        _entropy(found.group()) >= _RANDOM_BITS for found in _ACCESS_KEY.finditer(text)
    )


def _secret(text: str) -> bool:
    lower = text.lower()
    return any(word in lower for word in _IN_NAMES) and any(
        _entropy(found.group(1)) >= _RANDOM_BITS and _mixed(found.group(1)) for found in _NAMED.finditer(text)
    )


def _mixed(word: str) -> bool:
    """Letters and digits, as no word of a language has."""
    return any(char.isdigit() for char in word) and any(char.isalpha() for char in word)


def _entropy(word: str) -> float:
    """Shannon's, in bits for each character."""
    return -sum(count / len(word) * math.log2(count / len(word)) for count in Counter(word).values())


_DETECTORS: Final[Mapping[Detector, Callable[[str], bool]]] = MappingProxyType({
    "card_number": _card_number,
    "iban": _iban,
    "private_key": _private_key,
    "access_key": _access_key,
    "secret": _secret,
})  # fmt: skip
