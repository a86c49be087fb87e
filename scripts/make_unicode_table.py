"""Write src/scratchlm/tokenizer/pieces/unicode_table.py: `python scripts/make_unicode_table.py`.

The script asks tiktoken and Hugging Face tokenizers which general category their regular
expressions see in each code point, and writes the answers as runs. It needs the extra `dev`. Run it
again when both use a newer Unicode; tests/tokenizer/test_patterns.py then fails.
"""

from __future__ import annotations

import textwrap
from itertools import groupby
from pathlib import Path

import tiktoken
from tokenizers import Regex, pre_tokenizers

CATEGORIES = [
    *("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe"),
    *("Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Co", "Cn"),
]
TARGET = Path(__file__).parents[1] / "src/scratchlm/tokenizer/pieces/unicode_table.py"
# No text that can be encoded has surrogates. They keep their category, Cs.
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
TEXT = "".join(map(chr, CODE_POINTS))


def seen_by_tiktoken(pattern: str) -> set[str]:
    """Return the characters that match. tiktoken drops those that its pattern does not match."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding("sweep", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return set(encoding.decode(encoding.encode_ordinary(TEXT)))


def seen_by_tokenizers(pattern: str) -> set[str]:
    removed = pre_tokenizers.Split(Regex(pattern), "removed").pre_tokenize_str(TEXT)
    return set(TEXT).difference(*(piece for piece, _ in removed))


def main() -> None:
    category_of = dict.fromkeys(map(chr, range(0xD800, 0xE000)), "Cs")
    for category in CATEGORIES:
        seen = seen_by_tiktoken(rf"\p{{{category}}}")
        if seen != seen_by_tokenizers(rf"\p{{{category}}}"):
            raise SystemExit(f"tiktoken and tokenizers see {category} differently")
        category_of |= dict.fromkeys(seen, category)
    runs = [
        f"{category}{length if length > 1 else ''}"
        for category, same in groupby(category_of[chr(code)] for code in range(0x110000))
        for length in [len(list(same))]
    ]
    lines = textwrap.wrap("".join(runs), 96)
    TARGET.write_text(
        '"""General categories of all code points in Unicode 16, as in tiktoken and tokenizers.\n\n'
        "Made by scripts/make_unicode_table.py. RUNS lists runs of code points from U+0000 on.\n"
        "A run is a category and its number of code points. No number means one code point.\n"
        '"""\n\n'
        "RUNS = (\n" + "".join(f'    "{line}"\n' for line in lines) + ")\n",
        encoding="utf-8",
    )
    print(f"{len(runs)} runs in {TARGET}")


if __name__ == "__main__":
    main()
