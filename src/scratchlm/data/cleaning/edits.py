"""Steps that change a text."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import ClassVar

from scratchlm.data.cleaning.step import Edit
from scratchlm.tokenizer.special_tokens import END_OF_TEXT


@dataclass(frozen=True)
class StripReturns(Edit):
    """Turn the line ends of Windows (CR LF) and of old Macs (CR) into LF."""

    kind: ClassVar[str] = "strip_returns"

    def edit(self, text: str) -> str:
        return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


@dataclass(frozen=True)
class Nfc(Edit):
    """Compose characters: Unicode's normal form C. A letter and its accent become one character."""

    kind: ClassVar[str] = "nfc"

    def edit(self, text: str) -> str:
        return text if text.isascii() else unicodedata.normalize("NFC", text)


@dataclass(frozen=True)
class AddSuffix(Edit):
    """Add `text` to the end of each document that does not end with it."""

    kind: ClassVar[str] = "add_suffix"
    text: str = "\n"

    def __post_init__(self) -> None:
        if not self.text:
            raise ValueError("add_suffix.text must not be empty (''); set the text to add")

    def edit(self, text: str) -> str:
        return text if text.endswith(self.text) else text + self.text


@dataclass(frozen=True)
class Separator(Edit):
    """Replace each special token `text` that a document contains as plain text.

    Other programs read such a text as the end of a document.
    """

    kind: ClassVar[str] = "separator"
    text: str = END_OF_TEXT
    replacement: str = ""

    def __post_init__(self) -> None:
        if not self.text:
            raise ValueError("separator.text must not be empty (''); set the text to replace")
        if self.text in self.replacement:
            raise ValueError(
                f"separator.replacement must not contain the separator ({self.replacement!r}); "
                "choose another replacement"
            )

    def edit(self, text: str) -> str:
        while self.text in text:  # a removal can join two parts of a separator
            text = text.replace(self.text, self.replacement)
        return text
