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
        if self.replacement and self._can_join():
            raise ValueError(
                "separator.replacement must not contain the separator or form one with the text "
                f"beside it ({self.replacement!r}); choose another replacement"
            )

    def _can_join(self) -> bool:
        """Return whether the replacement and the text beside it can form a separator."""
        token, new = self.text, self.replacement
        return (token in new or new in token) or any(
            new.startswith(token[cut:]) or new.endswith(token[:cut]) for cut in range(1, len(token))
        )

    def edit(self, text: str) -> str:
        text = text.replace(self.text, self.replacement)
        if self.text not in text:
            return text
        # The removal joined two parts of a separator. This loop removes such separators in one
        # pass, because a hostile page can nest thousands of them.
        token, kept = list(self.text), list[str]()
        for character in text:
            kept.append(character)
            if character == token[-1] and kept[-len(token) :] == token:
                del kept[-len(token) :]
        return "".join(kept)
