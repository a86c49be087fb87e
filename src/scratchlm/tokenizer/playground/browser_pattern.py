r"""Translate a pattern for a browser, to the source of a JavaScript `RegExp` with the flag `u`.

Classes become ranges of Unicode 16, because the browser's own `\p{L}` depends on its Unicode
version. `(?i:…)` becomes both cases of each letter, and `.` becomes every character except a line
feed. The translation refuses what JavaScript cannot express: possessive repeats, atomic groups,
scripts.

>>> print(browser_pattern(r"(?i:'s|'ll)|x{,3}y|\'|."))
(?:'[sSſ]|'[lL][lL])|x{0,3}y|\u{27}|[^\n]
"""

from __future__ import annotations

import re
from typing import NoReturn

from scratchlm.tokenizer.formats.content import check_portable
from scratchlm.tokenizer.formats.json_content import shown
from scratchlm.tokenizer.pieces.character_classes import translate
from scratchlm.tokenizer.pieces.patterns import Pattern, find_pieces

_ESCAPE = r"\\(?:[pP]\{[^}]*\}|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)"
_MEMBER = re.compile(rf"{_ESCAPE}|.", re.DOTALL)
_ITEM = re.compile(
    rf"{_ESCAPE}|\[\^?(?:{_ESCAPE}|[^\]\\])+\]|\(\?(?:<?[=!]|i?:|>)"
    r"|(?:[*+?]|\{[0-9]*,?[0-9]*\})[+?]?|.",
    re.DOTALL,
)
_SYNTAX = frozenset(r"^$\.*+?()[]{}|/")  # the flag `u` allows these after a backslash
_THIRD_CASE = {"s": "\u017f", "k": "\u212a"}  # cases of ASCII letters outside ASCII


def browser_pattern(pattern: Pattern) -> str:
    """Return JavaScript source that finds the same pieces. Raise ValueError if there is none."""
    if not isinstance(pattern, str):
        _refuse(pattern, "several successive cuts")
    check_portable(pattern)
    if find_pieces(pattern)(""):
        _refuse(pattern, "empty matches")
    parts: list[str] = []
    groups: list[str] = []  # the opening of each open group
    closed = ""  # the opening of the group that the previous item closed
    for item in _ITEM.findall(pattern):
        caseless = "(?i:" in groups
        ended, closed = closed, ""
        if item[0] == "\\":
            part = _escape(pattern, item)
        elif item[0] == "[":
            part = _class(pattern, item, caseless)
        elif item[0] == "(":
            if item == "(?>":
                _refuse(pattern, "atomic groups")
            groups.append(item)
            part = item.replace("?i:", "?:")
        elif item == ")":
            part, closed = item, groups.pop()
        elif item[0] in "*+?{":
            if item[1:].endswith("+"):
                _refuse(pattern, "possessive repeats")
            if ended[2:3] in ("=", "!", "<"):
                _refuse(pattern, "repeated lookarounds")
            part = item.replace("{,", "{0,")
        elif item == ".":
            part = r"[^\n]"
        else:
            part = f"[{_cases(item)}]" if caseless and item.isalpha() else item
        parts.append(part)
    return "".join(parts)


def _class(pattern: str, item: str, caseless: bool) -> str:
    start = "[^" if item.startswith("[^") else "["
    members = [
        _escape(pattern, member, inside=True)
        if member[0] == "\\"
        else _cases(member) if caseless else member
        for member in _MEMBER.findall(item[len(start) : -1])
    ]  # fmt: skip
    return f"{start}{''.join(members)}]"


def _cases(character: str) -> str:
    lower = character.lower()
    if not lower.isascii() or not lower.isalpha():
        return character
    return lower + lower.upper() + _THIRD_CASE.get(lower, "")


def _escape(pattern: str, item: str, inside: bool = False) -> str:
    kind = item[1]
    if kind in "pPsSdD":
        ranges = translate(item)[0]
        if re.search(r"\\[^x]", ranges):
            _refuse(pattern, "classes other than Unicode categories")
        ranges = re.sub(r"\\x(..)|[^\x00-\x7f]", _as_code_point, ranges)
        return ranges[1:-1] if inside else ranges
    if kind in _SYNTAX or (kind.isascii() and kind.isalnum()):
        return item
    return f"\\u{{{ord(kind):x}}}"


def _as_code_point(match: re.Match[str]) -> str:
    return f"\\u{{{int(match[1], 16) if match[1] else ord(match[0]):x}}}"


def _refuse(pattern: Pattern, what: str) -> NoReturn:
    raise ValueError(
        f"a browser cannot search with {what} ({shown(pattern)}); write a pattern without them, "
        "or do not write the page"
    )
