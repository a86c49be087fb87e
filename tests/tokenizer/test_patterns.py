"""The frozen categories and the patterns, compared with the regular expressions of tiktoken and
`tokenizers` for each code point; and the translation of patterns, piece by piece."""

from __future__ import annotations

import functools
import itertools
import random
import re
import unicodedata
from collections.abc import Callable, Iterable

import pytest
import regex
import tiktoken
from tokenizers import Regex, pre_tokenizers

from scratchlm.tokenizer.pieces.character_classes import (
    category,
    complement,
    translate,
    white_space,
)
from scratchlm.tokenizer.pieces.patterns import (
    CL100K,
    GPT2,
    LLAMA3,
    O200K,
    PATTERNS,
    PieceFinder,
    canonical,
    find_pieces,
    is_known,
    stand_in_of,
)

CATEGORIES = [
    *("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe"),
    *("Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Co", "Cn"),
]
CLASSES = [*CATEGORIES, "L", "M", "N", r"\s"]
CODE_POINTS = [*range(0xD800), *range(0xE000, 0x110000)]  # no surrogates: no UTF-8 has them
EVERYTHING = "".join(map(chr, CODE_POINTS))
# A character after and before letters, digits, contractions, spaces, itself and a line's end.
CONTEXT = "a{c}b 1{c}'s{c} {c}A{c}'LL {c}{c}  {c}\n{c}/!{c}\r\n\n"
# tiktoken's own spellings (tiktoken_ext.openai_public).
TIKTOKEN_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
TIKTOKEN_CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)


def ranges_of(name: str) -> list[tuple[int, int]]:
    return white_space() if name == r"\s" else category(name)


def as_pattern(name: str) -> str:
    return name if name == r"\s" else rf"\p{{{name}}}"


def members(name: str, text: str) -> str:
    """The characters of the text that our table puts into the class."""
    inside = set(itertools.chain.from_iterable(range(a, b + 1) for a, b in ranges_of(name)))
    return "".join(character for character in text if ord(character) in inside)


def seen_by_tiktoken(pattern: str, text: str) -> str:
    """tiktoken leaves out of a text what its pattern does not match."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding("sweep", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return encoding.decode(encoding.encode_ordinary(text))


def seen_by_tokenizers(pattern: str, text: str) -> str:
    others = pre_tokenizers.Split(Regex(f"(?!{pattern})[\\s\\S]"), "removed")
    return "".join(piece for piece, _ in others.pre_tokenize_str(text))


@functools.cache
def split_of(pattern: str) -> pre_tokenizers.Split:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def pieces_of_tokenizers(pattern: str, text: str) -> list[str]:
    return [piece for piece, _ in split_of(pattern).pre_tokenize_str(text)]


@functools.cache
def edges() -> list[int]:
    """The first and last code point of every run of one category, and their neighbours."""
    near = {
        code_point + step
        for name in CATEGORIES
        for code_point in itertools.chain.from_iterable(category(name))
        for step in (-1, 0, 1)
    }
    return sorted(near.intersection(CODE_POINTS))


def first_difference(pattern: str, text: str) -> str | None:
    """Return the first place where our pieces differ from the pieces of `tokenizers`, or None."""
    ours, theirs = find_pieces(pattern)(text), pieces_of_tokenizers(pattern, text)
    for i, (a, b) in enumerate(itertools.zip_longest(ours, theirs)):
        if a != b:
            return f"after {ours[max(0, i - 3) : i]} comes {a!r}, in tokenizers {b!r}"
    return None


def in_context(code_points: Iterable[int]) -> str:
    return "".join(CONTEXT.replace("{c}", chr(code_point)) for code_point in code_points)


# The table


@pytest.mark.parametrize("name", ["L", "M", "N", "Lu", "Ll", "Lt", "Lm", "Lo", r"\s"])
def test_every_code_point_is_in_the_class_that_tiktoken_sees(name: str) -> None:
    assert members(name, EVERYTHING) == seen_by_tiktoken(as_pattern(name), EVERYTHING)


@pytest.mark.parametrize("name", CLASSES)
def test_the_edges_of_all_runs_are_in_the_class_that_tokenizers_sees(name: str) -> None:
    text = "".join(map(chr, edges()))
    assert len(text) > 5000
    assert members(name, text) == seen_by_tokenizers(as_pattern(name), text)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_every_code_point_is_in_the_class_that_both_see(name: str) -> None:
    expected = members(name, EVERYTHING)
    assert expected == seen_by_tiktoken(as_pattern(name), EVERYTHING)
    assert expected == seen_by_tokenizers(as_pattern(name), EVERYTHING)


def test_every_code_point_has_one_category() -> None:
    runs = [run for name in [*CATEGORIES, "Cs"] for run in category(name)]
    assert sum(last - first + 1 for first, last in runs) == 0x110000
    ends = sorted(runs)
    assert all(a[1] + 1 == b[0] for a, b in itertools.pairwise(ends))
    assert category("Cs") == [(0xD800, 0xDFFF)]


def test_python_agrees_on_what_its_older_unicode_knows() -> None:
    """Categories of assigned characters hardly ever change: all but a few are Python's."""
    ours = {c: name for name in CATEGORIES for a, b in category(name) for c in range(a, b + 1)}
    known = [c for c in CODE_POINTS if unicodedata.category(chr(c)) != "Cn"]
    assert len(known) > 280_000
    changed = [c for c in known if unicodedata.category(chr(c)) != ours[c]]
    assert len(changed) < 20


def test_complement() -> None:
    assert complement([(0, 5), (7, 7)]) == [(6, 6), (8, 0x10FFFF)]
    assert complement([(3, 0x10FFFF)]) == [(0, 2)]
    assert complement(complement(category("L"))) == category("L")


# The pieces


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_pieces_around_edges_and_samples_equal_tokenizers(pattern: str) -> None:
    sample = random.Random(0).sample(CODE_POINTS, 3000) + edges()[::5] + list(range(0x500))
    assert first_difference(pattern, in_context(sample)) is None
    for code_point in [*range(0x180), *range(0x2000, 0x2070), 0x3000, 0x1F600, 0x10FFFF]:
        # each text ends otherwise: the look-ahead for a sign that is no white space fails there
        for end in ("{c}", "a{c}", " {c}", "{c} ", "\n{c}", "{c}{c}", "'{c}", "1{c}'s"):
            assert first_difference(pattern, end.replace("{c}", chr(code_point))) is None


@pytest.mark.slow
@pytest.mark.parametrize("pattern", dict.fromkeys(PATTERNS.values()))
def test_pieces_around_every_code_point_equal_tokenizers(pattern: str) -> None:
    for start in range(0, len(CODE_POINTS), 1 << 14):
        text = in_context(CODE_POINTS[start : start + (1 << 14)])
        assert first_difference(pattern, text) is None


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_pieces_of_all_short_texts_equal_tokenizers(pattern: str) -> None:
    texts = map("".join, itertools.product("aAsS1'!/ \n\r\u3000\u0301\U0001d7d8", repeat=3))
    for text in texts:
        assert first_difference(pattern, text) is None, repr(text)


def test_tiktokens_spelling_of_gpt2_gives_the_same_pieces() -> None:
    assert canonical(TIKTOKEN_GPT2) == GPT2
    assert is_known(TIKTOKEN_GPT2)
    rng = random.Random(1)
    for _ in range(3000):
        text = "".join(rng.choices("aS1'tldv!é中\u0301😀 \n\r\t\u3000", k=rng.randrange(20)))
        assert find_pieces(GPT2)(text) == pieces_of_tokenizers(TIKTOKEN_GPT2, text), repr(text)


def pieces_of_tiktoken(pattern: str) -> Callable[[str], list[str]]:
    """It gives ids only: 256 bytes, and so many merges that every piece of these texts is one
    token."""
    signs = [sign.encode() for sign in "aS1' \n\t!"]
    strings = [b"".join(parts) for n in (2, 3, 4) for parts in itertools.product(signs, repeat=n)]
    tokens = [*(bytes([byte]) for byte in range(256)), *strings]
    encoding = tiktoken.Encoding(
        "pieces",
        pat_str=pattern,
        mergeable_ranks={token: id for id, token in enumerate(tokens)},
        special_tokens={},
    )
    return lambda text: [tokens[id].decode() for id in encoding.encode_ordinary(text)]


@pytest.mark.parametrize(
    ("pattern", "same"), [(TIKTOKEN_GPT2, GPT2), (TIKTOKEN_CL100K, CL100K), (O200K, O200K)]
)
def test_tiktokens_spelling_gives_the_pieces_that_tiktoken_gives(pattern: str, same: str) -> None:
    assert canonical(pattern) == same
    assert is_known(pattern)
    find, theirs = find_pieces(same), pieces_of_tiktoken(pattern)
    for n in range(1, 5):
        for text in map("".join, itertools.product("aS1' \n\t!", repeat=n)):
            assert find(text) == theirs(text), repr(text)


def test_only_the_end_of_a_text_tells_gpt4s_pieces_from_llama3s() -> None:
    for text in ("a\n  ", "a \n\n \t"):
        assert find_pieces(CL100K)(text) == ["a", text[1:]]
        assert find_pieces(LLAMA3)(text) != find_pieces(CL100K)(text)
        assert find_pieces(LLAMA3)(text + "b") == find_pieces(CL100K)(text + "b")


# Translation


def test_classes_are_written_as_ranges_inside_and_outside_brackets() -> None:
    def written(ranges: list[tuple[int, int]]) -> str:
        return "".join(
            f"\\x{a:02x}-\\x{b:02x}" if a < b else f"\\x{a:02x}"
            for a, b in ((a, min(b, 0x7F)) for a, b in ranges if a <= 0x7F)
        )

    cases = {
        r"\p{N}": f"[{written([(48, 57)])}]",
        r"\pN": f"[{written([(48, 57)])}]",
        r"\d": f"[{written([(48, 57)])}]",
        r"[\p{N}x]": f"[{written([(48, 57)])}x]",
        r"[^\p{Lu}\d]": f"[^{written([(65, 90)])}{written([(48, 57)])}]",
        r"\P{N}": f"[{written([(0, 47), (58, 127)])}]",
        r"\p{^N}": f"[{written([(0, 47), (58, 127)])}]",
        r"\P{^N}": f"[{written([(48, 57)])}]",
        r"\D": f"[{written([(0, 47), (58, 127)])}]",
        r"\s": f"[{written([(9, 13), (32, 32)])}]",
        r"\S": f"[{written([(0, 8), (14, 31), (33, 127)])}]",
        r"[]\p{N}]": f"[]{written([(48, 57)])}]",  # brackets that come first are members
        r"[^]\p{N}]\d": f"[^]{written([(48, 57)])}][{written([(48, 57)])}]",
        r"[\]\d]": f"[\\]{written([(48, 57)])}]",
        r"\[\d]": f"\\[[{written([(48, 57)])}]]",
        r"\\d": r"\\d",
        r"\r\n\t|a{2}(?=b)": r"\r\n\t|a{2}(?=b)",
    }
    for pattern, expected in cases.items():
        assert translate(pattern, 0x7F) == (expected, True), pattern


@pytest.mark.parametrize(
    "pattern",
    [
        r"\p{L}|\P{L}", r"\p{^L}|\p{L}", r"\s+|\S+", r"\d+|\D+", r"[\s\d]+|[^\s\d]+",
        r"[\S]+|\s", r"[\P{L}]+|\p{L}", r"[]\p{N}]+|[^]\p{N}]+", r"[\]\[]|[^\]\[]+",
        r"[^\P{L}]+|[\s\S]", r"[\p{Lu}-]+|[\s\S]", r"\$|\.|[^.$]+", r"(?i:'S)|[\s\S]",
        r"\p{Lu}\p{Ll}*|[\s\S]", r"\s*+[\r\n]|\s++|\S{1,3}?", r"(?>\p{L}+)\p{M}?|[\s\S]",
    ],
)  # fmt: skip
def test_pieces_of_other_patterns_equal_tokenizers(pattern: str) -> None:
    rng = random.Random(3)
    signs = [*"aZé中1²٣'s-.$][! \n\u3000\x1c\u0301\u017f\U0001d7d8😀\U0001e900\U00010350"]
    for _ in range(300):
        text = "".join(rng.choices(signs, k=rng.randrange(20)))
        assert first_difference(pattern, text) is None, repr(text)
        assert find_pieces(r"\pL+|\PL")(text) == find_pieces(r"\p{L}+|\P{L}")(text)


@pytest.mark.parametrize(
    "pattern",
    [r"\p{Han}+|\P{Han}", r"[\p{L}é]+|[^\p{L}é]+", r"[\U0001F600-\U0001F64F]+|[\s\S]",
     r"\w+|\W", r"\X"],
)  # fmt: skip
def test_patterns_that_say_more_of_characters_are_left_to_regex(pattern: str) -> None:
    assert translate(pattern)[1] is False
    text = "Hi 漢字é1 😀😁 e\u0301🇫🇷Ü"
    assert find_pieces(pattern)(text) == regex.compile(pattern).findall(text)
    assert "".join(find_pieces(pattern)(text)) == text


def test_scripts_and_named_characters_give_pieces_by_hand() -> None:
    assert find_pieces(r"\p{Han}+|\P{Han}+")("ab漢字c") == ["ab", "漢字", "c"]
    assert find_pieces("[\U0001f600-\U0001f64f]+|[^\U0001f600-\U0001f64f]+")("a😀😁🚀") == [
        *("a", "😀😁", "🚀")
    ]
    assert find_pieces("é|[^é]+")("aéb") == ["a", "é", "b"]


@pytest.mark.parametrize(
    "pattern",
    [
        r"[\p{Han}]+|[\p{L}&&[^\p{Han}]]+|[\s\S]",  # as in Kimi K2's
        r"[\p{L}&&\p{Lu}]+|[\s\S]",
        r"[\p{L}\d&&[^\p{Han}\u0061]x]+|[\s\S]",
        r"[a-c[x-z]]+|[\s\S]",
        r"[[a-c]x]+|[\s\S]",
        r"[|||a]+|[\s\S]",
    ],
)
def test_set_operations_give_the_pieces_of_tokenizers(pattern: str) -> None:
    assert translate(pattern)[1] is (pattern[0:2] == "[|")
    for text in ("abcXYxyz漢字1 &[]-é|||", "|a||", "\U000323b0漢\U000323b1"):
        assert first_difference(pattern, text) is None


@pytest.mark.parametrize(
    "name",
    [
        r"\w",
        r"\p{Han}",
        *(pytest.param(rf"\p{{{name}}}", marks=pytest.mark.slow)
          for name in ("Latin", "Alphabetic", "Emoji")),
    ],
)  # fmt: skip
def test_other_classes_know_no_character_that_tiktoken_does_not(name: str) -> None:
    seen = seen_by_tiktoken(name, EVERYTHING)
    others = "".join(sorted(set(EVERYTHING).difference(seen)))
    negatives = [name.replace("p{", "P{").replace("w", "W"), f"[^{name}]"]
    for pattern, inside, outside in [(name, seen, others), *((n, others, seen) for n in negatives)]:
        assert PieceFinder(pattern)(inside) == list(inside), pattern
        assert PieceFinder(pattern).cut(outside) == [outside], pattern  # one gap, no match


@pytest.mark.parametrize("pattern", [r"(\p{L})+|.", r"(?P<name>a)|b", "(a)"])
def test_capturing_groups_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"capturing groups .*; write \(\?:…\)"):
        find_pieces(pattern)


@pytest.mark.parametrize(
    "pattern", [r"(?i:[a-z]+)|[\s\S]", "(?i:'i)|.", r"(?is)\p{Lu}|.", "(?i:ss)|.", "(?x). # x"]
)
def test_flags_that_engines_read_in_several_ways_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"a flag that engines read differently .*; write both"):
        find_pieces(pattern)


def test_a_pattern_goes_by_its_name_too() -> None:
    assert [canonical(name) for name in PATTERNS] == list(PATTERNS.values())
    with pytest.raises(
        ValueError, match=r"no pattern has this name \(gpt9\); choose one of gpt2, cl100k, "
    ):
        find_pieces("gpt9")


@pytest.mark.parametrize("pattern", ["[a-z]+", r"\w+", r"[a-z]+|."])
@pytest.mark.parametrize("text", ["ab, cd\n", "😀ab, cd\n"])
def test_a_pattern_that_leaves_text_out_is_an_error(pattern: str, text: str) -> None:
    for find in (find_pieces(pattern), find_pieces(pattern).lengths):
        with pytest.raises(ValueError, match=r"does not match every character of the text .*; add"):
            find(text)


@pytest.mark.parametrize("pattern", ["(", "[a", r"\p{Nonsense}", "a**", "*", "(?<=a"])
def test_broken_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"must be a regular expression .*; correct the pattern"):
        find_pieces(pattern)


def test_stand_ins_have_the_category_and_no_case_of_ascii() -> None:
    astral = [c for c in edges() if c > 0xFFFF]
    assert len(astral) > 1000
    for code_point in astral:
        stand_in = ord(stand_in_of(code_point))
        assert 0x17F < stand_in <= 0xFFFF
        same = [name for name in CATEGORIES for a, b in category(name) if a <= code_point <= b]
        assert any(a <= stand_in <= b for a, b in category(same[0]))
        assert not re.fullmatch("[a-z]", chr(stand_in), re.IGNORECASE)
