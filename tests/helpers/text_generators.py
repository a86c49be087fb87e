"""Difficult texts for a tokenizer: random texts of every script, and long texts that may be slow.
Also the three implementations that the tests compare on these texts."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import random
from collections.abc import Callable
from pathlib import Path

import tiktoken
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.train import train_bpe_from_texts

END = "<|endoftext|>"
# No two of them can overlap in a text: tiktoken and `tokenizers` agree on where they are.
SPECIALS = [END, "<|end|>", "<fim prefix>", "⟦中🙂⟧"]
SOME = {END, SPECIALS[3]}
# Several of these may start at one place, or overlap.
OVERLAPPING = [
    *("<a>", "<a><a>", "a><", "<a><a><b>", "'s t", "é", "e\u0301", "  ", " \n", "\r\n", "😀😀"),
]  # fmt: skip

WHITE_SPACE = (
    "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009"
    "\u200a\u2028\u2029\u202f\u205f\u3000"
)
NEARLY_WHITE_SPACE = "\x1c\x1d\x1e\x1f\u180e\u200b\u200c\u2060\ufeff"
CONTROLS = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0)]))
SCRIPTS = [
    (0x20, 0x7F), (0x80, 0xFF), (0x100, 0x24F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x52F),
    (0x530, 0x58F), (0x590, 0x5FF), (0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F),
    (0x1100, 0x11FF), (0x1C80, 0x1C8F), (0x1E00, 0x1FFF), (0x2000, 0x206F), (0x2070, 0x218F),
    (0x2190, 0x23FF), (0x2C00, 0x2DFF), (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xA640, 0xA7FF),
    (0xAC00, 0xD7A3), (0xE000, 0xF8FF), (0xFB00, 0xFDFF), (0xFE00, 0xFE2F), (0xFF00, 0xFFEF),
    (0xFFF0, 0xFFFF), (0x10000, 0x103FF), (0x10400, 0x104FF), (0x10D00, 0x10FFF),
    (0x16E40, 0x16EAF), (0x1D400, 0x1D7FF), (0x1E900, 0x1E95F), (0x1F000, 0x1FAFF),
    (0x20000, 0x2A6DF), (0x30000, 0x323AF), (0xE0000, 0xE01EF), (0xF0000, 0xF00FF),
    (0x10FF00, 0x10FFFF),
]  # fmt: skip
PHRASES = [
    *(" the", " and", "The", "hello world", " don't", "I'LL", "tokenization", "HTTPServer"),
    *("iPhone", "camelCaseWord", "snake_case_word", "__init__", "e\u0301\u0323", "\u0301"),
    *(" \u0301", "1\u0301", "👩‍👩‍👧‍👦", "👍🏽", "🇫🇷🇩🇪", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "❤️", "1️⃣"),
    *("हिन्दी", "ไทย", "中文字符", " 日本語です", "カタカナ", "한국어", "שלום עולם", "العربية"),
    *("\u202eabc\u202c", "ﬁ", "İ", "ß", "ẞ", "ǅ", "ʰ", "²", "½", "Ⅷ", "٣٤٥"),
    *("\U0001d7d8\U0001d7d9", "3.14", "1,000,000", "1e-10", "0xFF", "\\n", "\\u00e9", "-->"),
    *("!!!", "...", "/* */", "//\n", "http://a.b/c?d=e&f#g", "a@b.cd", "#include <x>\r\n"),
    *("</div>\n\n", "def f(x):\n    return x\n", "\tif (a == b) {\r\n\t\tc += 1;\r\n\t}\r\n"),
    *("\ufffd", "\x00\x01"),
]  # fmt: skip
SUFFIXES = ["s", "t", "re", "ve", "m", "ll", "d", "x", "", "\u017f", "lL", "Re", "VE"]


def random_text(rng: random.Random) -> str:
    """Up to some twenty parts of every kind; mostly one or two lines."""
    return "".join(_random_part(rng) for _ in range(rng.choice([1, 2, 4, 8, 20])))


def _random_part(rng: random.Random) -> str:
    kind = rng.randrange(12)
    if kind <= 2:
        return rng.choice(PHRASES)
    if kind <= 4:  # a run of one script, unassigned code points too
        first, last = rng.choice(SCRIPTS)
        return "".join(chr(rng.randint(first, last)) for _ in range(rng.randrange(1, 9)))
    if kind == 5:  # any plane
        return "".join(map(chr, (_no_surrogate(rng) for _ in range(rng.randrange(1, 4)))))
    if kind == 6:
        return "".join(rng.choices(WHITE_SPACE + NEARLY_WHITE_SPACE, k=rng.randrange(1, 7)))
    if kind == 7:
        return rng.choice([" ", " ", "  ", "    ", "\n", "\n\n", "\r\n", "\r\n \r\n", "\t", " \n "])
    if kind == 8:
        suffix = rng.choice(SUFFIXES)
        suffix = rng.choice([suffix, suffix.upper()])
        return rng.choice(["I", "we", "É", "", "7", " "]) + rng.choice("''\u2019") + suffix
    if kind == 9:
        return "".join(
            rng.choices(rng.choice(["0123456789", "٠١٢٣", "0²Ⅷ½"]), k=rng.randrange(1, 9))
        )
    if kind == 10:
        return rng.choice(CONTROLS) * rng.randrange(1, 3)
    special = rng.choice([*SPECIALS, *OVERLAPPING])
    cut = rng.randrange(len(special) + 1)
    return rng.choice([special, special * 2, special[:cut], special[cut:], special[cut:] + special])


def _no_surrogate(rng: random.Random) -> int:
    code_point = rng.randrange(0x110000 - 0x800)
    return code_point if code_point < 0xD800 else code_point + 0x800


def random_texts(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    return [random_text(rng) for _ in range(count)]


def random_chunks(rng: random.Random, text: str) -> list[str]:
    cuts = sorted(rng.randrange(len(text) + 1) for _ in range(rng.randrange(8)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


_PARTS = [*PHRASES, *SPECIALS, "'", "s", " ", "\n", "é"]

# hypothesis finds small examples of what fails, and characters that nobody thought of.
TEXTS = st.one_of(
    st.text(),
    st.text(st.sampled_from(WHITE_SPACE + NEARLY_WHITE_SPACE + "a1'!"), max_size=30),
    st.lists(st.sampled_from(_PARTS), max_size=12).map("".join),
    st.lists(st.one_of(st.text(max_size=3), st.sampled_from(SPECIALS)), max_size=8).map("".join),
)


def _words(letters: str, seed: int, between: str = " ") -> Callable[[int], str]:
    """Return `n` characters of words that almost never repeat."""

    def make(n: int) -> str:
        rng = random.Random(seed)
        text = "".join(rng.choices(letters, k=n))
        return between.join(text[i : i + 9] for i in range(0, n, 9 + len(between)))

    return make


def _signs(signs: str, seed: int) -> Callable[[int], str]:
    return lambda n: "".join(random.Random(seed).choices(signs, k=n))


def _repeated(unit: str, end: str = "") -> Callable[[int], str]:
    return lambda n: unit * (n // len(unit)) + end


def _any_code_points(n: int) -> str:
    rng = random.Random(11)
    return "".join(chr(_no_surrogate(rng)) for _ in range(n))


_CHINESE = "".join(map(chr, range(0x4E00, 0x9FA6)))
_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

# Texts of n characters.
ADVERSARIAL: dict[str, Callable[[int], str]] = {
    "equal letters": _repeated("a"),
    "alternating letters": _repeated("ab"),
    "letters of a common word": _repeated("the"),
    "accented letters": _repeated("é"),
    "upper-case letters": _repeated("A"),
    "upper-case letters, then lower-case": lambda n: "A" * (n // 2) + "a" * (n // 2),
    "upper and lower case": _repeated("AaAAb"),
    "random letters": _signs("etaoinshrdlu", 1),
    "spaces": _repeated(" "),
    "spaces, then a letter": _repeated(" ", "a"),
    "newlines, then a letter": _repeated("\n", "a"),
    "mixed white space, then a letter": _signs(" \n\t\r\xa0\u3000\x85", 2),
    "newlines and spaces": _repeated("\n" + " " * 40),
    "spaces and one newline": lambda n: " " * (n // 2) + "\n" + " " * (n // 2) + "a",
    "a letter and a space": _repeated("a "),
    "unique words": _words("etaoinshrdlucmfwypvbgkjqxz", 3),
    "unique upper-case words": _words("ETAOINSHRDLU", 4),
    "Chinese": _signs(_CHINESE, 5),
    "Chinese with spaces": _words(_CHINESE, 6),
    "digits": _signs("0123456789", 7),
    "equal digits": _repeated("1"),
    "apostrophes": _repeated("'"),
    "contractions": _repeated("'ll"),
    "a letter and an apostrophe": _repeated("a'"),
    "punctuation": _signs("!?.,;:-_()[]{}*/\\+=#@$%^&~`|<>", 8),
    "equal punctuation": _repeated("-"),
    "slashes and newlines": _repeated("/\n"),
    "emoji": _signs("".join(map(chr, range(0x1F600, 0x1F650))), 9),
    "joined emoji": _repeated("👩\u200d👩\u200d👧"),
    "combining marks": _repeated("\u0301"),
    "a letter, then marks": lambda n: "a" + "\u0301" * n,
    "base64": _signs(_BASE64, 10),
    "any code points": _any_code_points,
    "special tokens": _repeated(END),
    "beginnings of special tokens": _repeated("<|endoftext"),
    "beginnings of special tokens, no letters": _repeated("<|"),
    "one line of code": _repeated("f(x)=y[i];"),
    "lines of signs": _repeated("};\n"),
    "white space between signs": _words("!#$%&*+-./:;<=>?@^_|~", 12, "\t "),
    "one long word in a text": lambda n: "so it is " * (n // 18) + "x" * (n // 2),
}  # fmt: skip


def sentences() -> list[str]:
    """Many scripts, to learn merges from."""
    return [
        "The quick brown fox jumps over the lazy dog; it doesn't care, and THEY'RE not amused.",
        "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich, daß es Freude ist.",
        "Dès Noël, où un zéphyr haï me vêt de glaçons würmiens, je dîne d\u2019exquis rôtis.",
        "Съешь же ещё этих мягких французских булок, да выпей чаю. Широкая электрификация.",
        "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Γαζέες καὶ μυρτιὲς δὲν θὰ βρῶ πιὰ στὸ ξέφωτο.",
        "דג סקרן שט בים מאוכזב ולפתע מצא לו חברה. نص حكيم له سر قاطع وذو شأن عظيم ١٢٣٤.",
        "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश। เป็นมนุษย์สุดประเสริฐ",
        "春眠不覺曉,處處聞啼鳥。夜來風雨聲,花落知多少。",
        "いろはにほへと ちりぬるを。키스의 고유조건은 입술끼리 만나야 하고.",
        "👍🏽 great 😀😀 👩‍👩‍👧‍👦 ok 🇫🇷 é e\u0301 ² №5 €9.99 100% — “quoted” … «guillemets»",
    ]


def python_sources(*names: str) -> list[str]:
    """The sources of standard modules, wherever this Python is."""
    folder = Path(argparse.__file__).parent
    return [(folder / f"{name}.py").read_text(encoding="utf-8") for name in names]


# The same vocabulary in three implementations


def printable(token: bytes) -> str:
    """A token as GPT-2's files write it: bytes that cannot be seen are moved to U+0100 and on."""
    return "".join(_printable_bytes()[byte] for byte in token)


@functools.cache
def _printable_bytes() -> list[str]:
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = iter(range(0x100, 0x200))
    return [chr(byte if byte in seen else next(moved)) for byte in range(256)]


@dataclasses.dataclass
class Trio:
    """One vocabulary in three implementations. `theirs(text, "all" | "some" | "none")` are ids of
    `tokenizers`, built of a vocabulary, merges and a pattern, from no file of ours."""

    ours: BPETokenizer
    tiktoken: tiktoken.Encoding
    theirs: Callable[[str, str], list[int]]


def trio(ours: BPETokenizer, vocab: dict[str, int], merges: list[tuple[str, str]]) -> Trio:
    """Build the trio. `vocab` and `merges` have the form that `tokenizers` needs, without special
    tokens."""
    specials = {special: ours.token_to_id(special) for special in ours.special_tokens}
    ranks = {token: id for id, token in ours.vocab.items() if id not in specials.values()}
    twin = tiktoken.Encoding(
        "twin", pat_str=ours.pattern, mergeable_ranks=ranks, special_tokens=specials
    )

    def tokenizer(allowed: set[str]) -> Tokenizer:
        assert {*vocab.values(), *specials.values()} == set(ours.vocab)
        model = models.BPE(vocab | specials, merges, ignore_merges=ours.ignore_merges)
        tokenizer = Tokenizer(model)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(ours.pattern), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in allowed])
        return tokenizer

    tokenizers = {
        "all": tokenizer(set(specials)),
        "some": tokenizer(SOME & set(specials)),
        "none": tokenizer(set()),
    }

    def theirs(text: str, allowed: str) -> list[int]:
        return tokenizers[allowed].encode_batch_fast([text], add_special_tokens=False)[0].ids

    return Trio(ours, twin, theirs)


def trained_trio(pattern: str, specials: list[str], ignore_merges: bool = False) -> Trio:
    plain = learned(pattern)
    ours = BPETokenizer(plain.vocab, plain.merges, specials, pattern, ignore_merges=ignore_merges)
    vocab = {printable(token): id for id, token in plain.vocab.items()}
    return trio(ours, vocab, [(printable(a), printable(b)) for a, b in plain.merges])


@functools.cache
def learned(pattern: str) -> BPETokenizer:
    """3,000 tokens of code and of sentences in many scripts."""
    corpus = python_sources("argparse", "inspect", "datetime", "typing", "tarfile")
    corpus += [*sentences() * 20, *random_texts(99, 500)]
    return train_bpe_from_texts(corpus, 3000, [], pattern=pattern, num_workers=1)
