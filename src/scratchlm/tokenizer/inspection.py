"""Show what a tokenizer learned, as plain text for a terminal.

>>> from scratchlm.tokenizer.bpe import BPETokenizer
>>> tokens = [b"t", b"h", b"e", b" ", b"th", b"the", b" the"]
>>> merges = [(b"t", b"h"), (b"th", b"e"), (b" ", b"the")]
>>> print(merge_tree(BPETokenizer(dict(enumerate(tokens)), merges), "the he"))
'the he' is cut into 2 pieces: 'the', ' he'
               t h e
      merge 0  th e
      merge 1  the
          ids  5
               ␣ h e
          ids  3 1 2
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.pieces.patterns import PATTERNS, find_pieces

BAR = 40  # length of the longest bar, in characters
LONGEST = 10  # number of longest tokens to show
SPECIALS = 20  # number of special tokens to show
_NO_WAY_TO_PRINT = re.compile(
    r"[\x00-\x1f\x7f-\xa0\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]"
)
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # terminal controls, except \t and \n


def inspect(tokenizer: BPETokenizer, sample: str | None = None, word: str | None = None) -> str:
    """Report the sizes, the longest tokens, the compression of `sample`, the merges of `word`."""
    sections = [_size(tokenizer), _lengths(tokenizer), _longest(tokenizer)]
    if sample:
        sections.append(compression(tokenizer, sample))
    if word:
        sections.append(merge_tree(tokenizer, word))
    return "\n\n".join(sections)


def compression(tokenizer: BPETokenizer, sample: str) -> str:
    """Report the bytes and characters per token of the sample, by kind of text and in total.

    The kind of a piece is the kind of most of its characters. The tokenizer reads special tokens in
    the sample as plain text.
    """
    if not sample:
        raise ValueError("the sample has no text (''); choose a file with text")
    pieces = Counter(find_pieces(tokenizer.pattern)(sample))
    rows: dict[str, list[int]] = {}
    for piece, count in pieces.items():
        tokens = len(tokenizer.encode(piece, allowed_special="none"))
        row = rows.setdefault(_kind(piece), [0, 0, 0])
        for i, number in enumerate((tokens, len(piece.encode()), len(piece))):
            row[i] += count * number
    total = [sum(column) for column in zip(*rows.values(), strict=True)]
    lines = ["sample          tokens  bytes/token  characters/token"]
    for name, (tokens, size, characters) in [
        *sorted(rows.items(), key=lambda item: -item[1][1]),
        ("all", total),
    ]:
        lines.append(f"  {name:<12}{tokens:>8,}{size / tokens:>13.2f}{characters / tokens:>18.2f}")
    return "\n".join(lines)


def merge_tree(tokenizer: BPETokenizer, word: str) -> str:
    """Show how merges build each piece of a word: one line per merge, with its rank.

    Raise ValueError for a lone surrogate, or a byte that encoding would drop.
    """
    tokenizer.encode_array(word, allowed_special="none", strict=True)
    ranks = {pair: rank for rank, pair in enumerate(tokenizer.merges)}
    if tokenizer.normalization:
        word = unicodedata.normalize(tokenizer.normalization, word)
    pieces = find_pieces(tokenizer.pattern)(word)
    ids = {token: id for id, token in _ordinary(tokenizer).items()}
    count = f"{len(pieces)} pieces" if len(pieces) > 1 else "1 piece"
    lines = [f"{word!r} is cut into {count}: {', '.join(map(repr, pieces))}"]
    for piece in pieces:
        parts: list[bytes] = []
        for parts, rank in merge_steps(piece.encode(), ranks):
            lines.append(_row("" if rank is None else f"merge {rank:,}", parts))
        if tokenizer.ignore_merges and len(parts) > 1 and piece.encode() in ids:
            parts = [piece.encode()]
            lines.append(_row("whole piece", parts))
        lines.append(f"{'ids':>13}  " + " ".join(str(ids[part]) for part in parts))
    return "\n".join(lines)


def merge_steps(
    data: bytes, ranks: dict[tuple[bytes, bytes], int]
) -> Iterable[tuple[list[bytes], int | None]]:
    """Yield the parts before any merge, then the parts after each merge, with the merge's rank.

    This is the definition of BPE's merging. `merge_word`, `merge_long_word` and `BatchMerger` give
    the same result in less time.
    """
    parts = [data[i : i + 1] for i in range(len(data))]
    yield parts[:], None
    while True:
        pairs = [(parts[i], parts[i + 1]) for i in range(len(parts) - 1)]
        known = [ranks[pair] for pair in pairs if pair in ranks]
        if not known:
            return
        rank = min(known)
        i = next(i for i, pair in enumerate(pairs) if ranks.get(pair) == rank)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
        yield parts[:], rank


def shown_token(token: bytes) -> str:
    """Return a token on one line: spaces as ␣, bytes that are not valid UTF-8 as \\x…"""
    return printable(token.decode("utf-8", "backslashreplace").replace(" ", "␣"))


def printable(text: str, unprintable: re.Pattern[str] = _NO_WAY_TO_PRINT) -> str:
    """Escape the characters that `unprintable` finds.

    The default finds line ends, control characters and other characters that can move a cursor.
    `CONTROLS` finds fewer characters.
    """
    return unprintable.sub(lambda match: ascii(match[0])[1:-1], text)


def _row(note: str, parts: Iterable[bytes]) -> str:
    return f"{note:>13}  " + " ".join(map(shown_token, parts))


def _size(tokenizer: BPETokenizer) -> str:
    specials = {special: tokenizer.token_to_id(special) for special in tokenizer.special_tokens}
    single = sum(len(token) == 1 for token in tokenizer.vocab.values())
    names = [name for name, pattern in PATTERNS.items() if pattern == tokenizer.pattern]
    holes = len(tokenizer) - len(tokenizer.vocab)
    lines = [
        f"ids             {len(tokenizer):,}" + (f" ({holes:,} without a token)" if holes else ""),
        f"single bytes    {single:,}",
        f"merges          {len(tokenizer.merges):,}",
        f"special tokens  {len(specials):,}",
        *(f"  {id:>8}  {special!r}" for special, id in list(specials.items())[:SPECIALS]),
        *([f"  and {len(specials) - SPECIALS:,} more"] if len(specials) > SPECIALS else []),
        f"pattern         {' = '.join(names) or 'custom'}",
        f"  {tokenizer.pattern!r}"[:97],
    ]
    if tokenizer.normalization:
        lines.append(f"normalization   {tokenizer.normalization}")
    if tokenizer.ignore_merges:
        lines.append("ignore_merges   a piece in the vocabulary is not merged")
    return "\n".join(lines)


def _ordinary(tokenizer: BPETokenizer) -> dict[int, bytes]:
    specials = {special.encode() for special in tokenizer.special_tokens}
    return {id: token for id, token in tokenizer.vocab.items() if token not in specials}


def _lengths(tokenizer: BPETokenizer) -> str:
    """Draw a histogram of bytes per token. One bar counts all tokens longer than 16 bytes."""
    counts = Counter(min(len(token), 17) for token in _ordinary(tokenizer).values())
    most = max(counts.values(), default=1)
    lines = ["bytes per token, without special tokens"]
    for length in range(1, max(counts, default=0) + 1):
        bar = "#" * -(-counts[length] * BAR // most)
        name = f"{length:>4}" if length < 17 else " >16"
        lines.append(f"{name}{counts[length]:>9,}  {bar}".rstrip())
    return "\n".join(lines)


def _longest(tokenizer: BPETokenizer) -> str:
    by_length = sorted(_ordinary(tokenizer).items(), key=lambda item: (-len(item[1]), item[0]))
    lines = [f"{'the longest tokens':<22}bytes"]
    for id, token in by_length[:LONGEST]:
        text = shown_token(token)
        lines.append(f"{id:>10}{len(token):>17}  {text[:60]}{'…' if len(text) > 60 else ''}")
    return "\n".join(lines)


def _kind(piece: str) -> str:
    """Return the most common kind of the characters: a script, digits, signs or space."""
    names = Counter(_character_kind(character) for character in piece if character != " ")
    return names.most_common(1)[0][0] if names else "space"


def _character_kind(character: str) -> str:
    category = unicodedata.category(character)
    if character.isspace():
        return "space"
    if category[0] == "N":
        return "digits"
    if category[0] not in "LM":
        return "signs"
    # The first word of a letter's name is its script, except in names such as MODIFIER LETTER.
    return unicodedata.name(character, "other").split()[0].lower()[:12]
