"""Difficult texts for a tokenizer."""

from __future__ import annotations

import random
import unicodedata

END = "<|endoftext|>"

SCRIPTS = [  # ranges with code points that are assigned in every Unicode version in use
    (0x00, 0x7F), (0x80, 0xFF), (0x100, 0x17F), (0x300, 0x36F), (0x391, 0x3C9), (0x400, 0x45F),
    (0x5D0, 0x5EA), (0x620, 0x669), (0x904, 0x96F), (0xE01, 0xE59), (0x1100, 0x1160),
    (0x2000, 0x206F), (0x2070, 0x218B), (0x2190, 0x22FF), (0x3000, 0x30FF), (0x4E00, 0x4FFF),
    (0xAC00, 0xAD00), (0xE000, 0xE010), (0xFE00, 0xFE0F), (0xFF01, 0xFF5E), (0x1D400, 0x1D4FF),
    (0x1F300, 0x1F64F), (0x20000, 0x20050), (0xE0100, 0xE0110),
]  # fmt: skip

PHRASES = [
    " the", " and", "The", " don't", "I'll", "we've", "they're", "'s", "'S", "'", "''", "'sll",
    "\u2019s", "\u017f",
    " ", "  ", "    ", "\n", "\n\n", "\r\n", "\t", " \n", "\n ", "\u00a0", "\u3000", "\x1c", "\x85",
    "0", "123", " 4567", "3.14", "²", "Ⅷ", "٣", "e\u0301", "\u0301", " \u0301", "ﬁ", "İ",
    "👩‍👩‍👧‍👦", "👍🏽", "🇫🇷", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "हिन्दी", "中文", " 日本語", "한국어", "עברית", "العربية",
    "def f(x):\n    return x", "-->", "!!!", "...", "_", "__init__",
    "\x00", "\x7f", "\ufeff", "\ufffd",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "Donaudampfschifffahrtsgesellschaft",
    END, "<|endoftext", "|>", "<|", "<|endoftext|>endoftext|>",
]  # fmt: skip


def random_text(rng: random.Random) -> str:
    parts: list[str] = []
    for _ in range(rng.randrange(14)):
        if rng.random() < 0.6:
            parts.append(rng.choice(PHRASES))
        else:
            first, last = rng.choice(SCRIPTS)
            run = [chr(rng.randint(first, last)) for _ in range(rng.randrange(1, 5))]
            # tiktoken and `regex` may know different Unicode versions: assigned characters only.
            parts += [c for c in run if unicodedata.category(c) != "Cn"]
    return "".join(parts)


def texts(seed: int, n: int) -> list[str]:
    rng = random.Random(seed)
    return [random_text(rng) for _ in range(n)]
