"""Steps: what each of them does to texts, with verdicts computed by hand."""

from __future__ import annotations

import hashlib
import random
import re
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from helpers.web_pages import page
from scratchlm.data.cleaning.characters import count
from scratchlm.data.cleaning.edits import AddSuffix, Nfc, Separator, StripReturns
from scratchlm.data.cleaning.filters import Length, Ratio, Sample, Script
from scratchlm.data.cleaning.fineweb import FineWebQuality
from scratchlm.data.cleaning.gopher import GopherQuality, Repetition
from scratchlm.data.cleaning.kinds import KINDS, described, read_steps
from scratchlm.data.cleaning.words import words_of

EDITS = [
    (StripReturns(), "a\r\nb\rc\r\r\nd", "a\nb\nc\n\nd"),
    (StripReturns(), "a\n", "a\n"),
    (Nfc(), "e\u0301 A\u030a \ufb01", "\u00e9 \u00c5 \ufb01"),  # the ligature fi stays
    (AddSuffix(), "a", "a\n"),
    (AddSuffix(), "a\n", "a\n"),
    (AddSuffix("<end>"), "a\n", "a\n<end>"),
    (Separator(), "a<|endoftext|>b<|endoftext|>", "ab"),
    (Separator(), "a<|endof<|endoftext|>text|>b", "ab"),
    (Separator("§", "\n"), "a§b", "a\nb"),
    (Separator(), "a" + "<|endof" * 20_000 + "text|>" * 20_000 + "b", "ab"),  # in linear time
]


@pytest.mark.parametrize(("step", "text", "edited"), EDITS)
def test_edits(step, text, edited):
    assert step.edit(text) == edited
    assert step.edit(edited) == edited


FILTERS = [
    (Length(3, 5), "ab", "too short"),
    (Length(3, 5), "abc", None),
    (Length(3, 5), "abcde", None),
    (Length(3, 5), "abcdef", "too long"),
    (Length(2), "é", "too short"),  # characters, not bytes
    (Ratio("alpha", min=0.5), "ab12", None),
    (Ratio("alpha", min=0.5), "ab123", "too little alpha"),
    (Ratio("alpha", min=0.5), "中é12", None),
    (Ratio("digit", max=0.25), "abc1", None),
    (Ratio("digit", max=0.25), "ab12", "too much digit"),
    (Ratio("digit", max=0.25), "ab٣٤", "too much digit"),  # Arabic digits
    (Ratio("symbol", max=0.25), "ab #", None),
    (Ratio("symbol", max=0.25), "a##…", "too much symbol"),
    (Ratio("space", max=0.5), "a \n\u3000", "too much space"),
    (Script(("latin",)), "hello 123 …", None),
    (Script(("latin",)), "ab中文", None),
    (Script(("latin",)), "ab中文字", "other script"),
    (Script(("latin",)), "123", "other script"),
    (Script(("han", "hiragana"), min=1.0), "中ひ", None),
    (Script(("han", "hiragana"), min=1.0), "中ひカ", "other script"),
    (Script(("cyrillic",), min=0.9), "привет мир", None),
]


@pytest.mark.parametrize(("step", "text", "reason"), FILTERS)
def test_filters(step, text, reason):
    assert step.reason(text) == reason


def test_characters_are_counted_as_unicode_has_them():
    rng = random.Random(0)
    for _ in range(200):
        top = rng.choice([128, 0x3000, 0x20000])
        codes = [rng.randrange(top) for _ in range(50)]
        text = "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)
        letters = sum(unicodedata.category(c).startswith("L") for c in text)
        digits = sum(unicodedata.category(c) == "Nd" for c in text)
        # The tables of `regex` may be of a newer Unicode version than those of `unicodedata`.
        new = sum(unicodedata.category(c) == "Cn" for c in text)
        assert 0 <= count(text, r"\p{L}") - letters <= new
        assert 0 <= count(text, r"\p{Nd}") - digits <= new


def test_sampling_depends_on_the_text_and_the_seed_alone():
    texts = [f"text {number}" for number in range(4000)]
    kept = {text for text in texts if Sample(0.25, seed=7).reason(text) is None}
    assert abs(len(kept) - 1000) < 4 * (4000 * 0.25 * 0.75) ** 0.5
    by_hand = {
        text for text in texts
        if int(hashlib.blake2b(f"7 {text}".encode(), digest_size=6).hexdigest(), 16) < 2**46
    }  # fmt: skip
    assert kept == by_hand
    assert kept < {text for text in texts if Sample(0.5, seed=7).reason(text) is None}
    assert kept != {text for text in texts if Sample(0.25, seed=8).reason(text) is None}
    assert all(Sample(1.0).reason(text) is None for text in texts)
    assert all(Sample(0.0).reason(text) == "not sampled" for text in texts)


# --- Gopher and FineWeb ---------------------------------------------------------------------------


def prose(words: int, *, per_line: int = 12) -> str:
    """Return `words` different words of 4 letters, and stop words."""
    made = [f"{a}{b}{c}e" for a in "bcdfg" for b in "aiou" for c in "klmnp"][: words - 2]
    words_in_order = ["the", "and", *made]
    lines = [words_in_order[i : i + per_line] for i in range(0, words, per_line)]
    return "\n".join(" ".join(line) for line in lines)


def test_words_are_as_in_spacy():
    assert words_of("Don't stop: it's 3.5 well-known... «né»") == (
        "Do", "n't", "stop", ":", "it", "'s", "3", ".", "5", "well", "-", "known", "...", "«", "né",
        "»",
    )  # fmt: skip
    whole = re.compile(r"\w+(?=n't\b)|n't\b|'\w+|\w+|\.+|[^\w\s]")
    rng = random.Random(0)
    for _ in range(2000):
        text = "".join(rng.choice("ab'n't.-_ \n\x1c\u2003é中!…0") for _ in range(60))
        assert list(words_of(text)) == whole.findall(text)


GOPHER = [
    (prose(49), "too few words"),
    (prose(50), None),
    (prose(50) + " " + "- " * 12, None),  # 50 of 62 words have letters
    (prose(50) + " " + "- " * 13, "too few words with letters"),  # 50 of 63: 0.794
    (prose(50).replace("the", "thy"), "too few stop words"),
    (prose(50).replace("a", "").replace("e", "").replace("i", ""), "short words"),
    (re.sub(r"(\w{4})", r"\1uuuuuuu", prose(50)), "long words"),  # 48 of 11 letters
    (prose(50) + " #" * 5, None),  # 5 of 55
    (prose(50) + " #" * 6, "too many #"),  # 6 of 56: 0.107
    (prose(50) + " … " * 6, "too many ellipses"),
    (prose(50, per_line=5).replace("\n", "\n- "), None),  # 9 of 10 lines
    ("- " + prose(50, per_line=5).replace("\n", "\n- "), "too many bullets"),
    ("• " + prose(50, per_line=5).replace("\n", "\n  • "), "too many bullets"),
    (prose(50, per_line=5).replace("\n", "...\n", 3), None),  # 3 of 10 lines
    (prose(50, per_line=5).replace("\n", "...\n", 4), "too many lines with an ellipsis"),
    ("", "too few words"),
]


@pytest.mark.parametrize(("text", "reason"), GOPHER)
def test_gopher_quality(text, reason):
    assert GopherQuality().reason(text) == reason


def test_repetition_by_hand():
    assert Repetition().reason(prose(90)) is None
    assert Repetition().reason(f"{prose(90)}\n\nend\n\nend") == "repeated paragraphs"  # 1 of 3
    letters = "\n".join("abcdefghij")
    assert Repetition().reason(letters + "\nend" * 6) == "repeated lines"  # 5 of 16
    line = "one two three four five six seven"  # 33 characters
    text = "\n".join([line, *prose(60).split("\n"), line])
    share = 33 / len(text)  # a line of 7 occurs twice
    assert 0.05 < share < 0.2
    for most, reason in ((share - 0.001, "characters in repeated lines"), (share + 0.001, None)):
        assert Repetition(dup_line_chars=most, dup_ngram=(1,) * 6).reason(text) == reason
    # 28 characters in words of 5 to 7 words that occur before.
    found = {n: Repetition(dup_ngram=tuple(0.01 if k == n else 1 for k in range(5, 11)))
             for n in range(5, 11)}  # fmt: skip
    reasons = {n: step.reason(text) for n, step in found.items()}
    assert reasons == {5: "repeated 5-grams", 6: "repeated 6-grams", 7: "repeated 7-grams",
                       8: None, 9: None, 10: None}  # fmt: skip
    # Five words of 5 letters occur twice: 25 of 150 characters are above 15%.
    text = "alpha gamma delta theta kappa " * 2 + prose(19, per_line=99)[:90]
    assert len(text) == 150
    assert Repetition(top_ngram=(1, 1, 1)).reason(text) == "repeated 5-grams"
    assert Repetition(top_ngram=(1, 1, 1)).reason(text + " and the tail of it") is None  # of 169
    assert Repetition().reason("a b c d") == "frequent 2-gram"  # 3 of 7 characters
    assert Repetition().reason(" ".join(["very big"] * 15)) == "frequent 2-gram"


def slow_repetition(step: Repetition, text: str) -> str | None:
    """The rules as Gopher's paper has them, without shortcuts."""
    for what, pattern, whole, most, most_chars in (
        ("paragraph", r"\n{2,}", text.strip(), step.dup_paragraphs, step.dup_paragraph_chars),
        ("line", r"\n+", text, step.dup_lines, step.dup_line_chars),
    ):
        parts = re.split(pattern, whole)
        again = [part for index, part in enumerate(parts) if part in parts[:index]]
        if len(again) / len(parts) > most:
            return f"repeated {what}s"
        if len("".join(again)) / len(text) > most_chars:
            return f"characters in repeated {what}s"
    words = words_of(text)
    for n, limit in zip((2, 3, 4), step.top_ngram, strict=True):
        counts = Counter(" ".join(words[i : i + n]) for i in range(len(words) - n + 1))
        if counts:
            ((top, times),) = counts.most_common(1)
            if len(top) * times / len(text) > limit:
                return f"frequent {n}-gram"
    for n, limit in zip(range(5, 11), step.dup_ngram, strict=True):
        seen, chars, at = set(), 0, 0
        while at <= len(words) - n:
            ngram = words[at : at + n]
            chars += len("".join(ngram)) * (ngram in seen)
            at += n if ngram in seen else 1
            seen.add(ngram)
        if chars / len(text) > limit:
            return f"repeated {n}-grams"
    return None


def test_repetition_has_the_verdicts_of_the_slow_rules():
    step, reasons = Repetition(), set()
    loose = Repetition(1, 1, 1, 1, (0.06, 0.05, 0.05), (0.03, 0.025, 0.02, 0.015, 0.01, 0.005))
    for seed in range(400):
        for each in (step, loose):
            reasons.add(reason := each.reason(page(seed)))
            assert reason == slow_repetition(each, page(seed)), page(seed)
    assert len(reasons) >= 10


LINE = "a sentence of more than thirty letters."
FINEWEB = [
    ("\n \n", "empty"),
    ("\n".join(f"{n} {LINE}" for n in range(6)), None),
    ("\n".join(f"{n} {LINE}"[: None if n == 0 else -1] for n in range(8)), None),  # 1 of 8
    ("\n".join(f"{n} {LINE}"[: None if n == 0 else -1] for n in range(9)), "too few sentences"),
    ("\n".join([f"{LINE} 0."] + [f"short {n}." for n in range(2)]), None),  # 2 of 3: 0.667
    ("\n".join([f"{LINE} 0."] + [f"short {n}." for n in range(3)]), "short lines"),  # 3 of 4
    ("\n".join([LINE] + [f"{n} {LINE}" for n in range(6)] + [LINE]), "repeated lines"),
    ("\n\n".join([f"{n} {'long' * 9}." for n in range(3)]), "too many line breaks"),  # 4 of 9
    ("\n".join(["中文句子。" * 7, "第二句话。" * 7]), None),
]


@pytest.mark.parametrize(("text", "reason"), FINEWEB)
def test_fineweb_quality(text, reason):
    assert FineWebQuality().reason(text) == reason


# --- the config -----------------------------------------------------------------------------------


def test_a_config_lists_the_steps_in_order(tmp_path):
    path = tmp_path / "clean.toml"
    path.write_text(
        '[[step]]\nkind = "nfc"\n[[step]]\nkind = "length"\nmin_chars = 10\n'
        '[[step]]\nkind = "script"\nscripts = ["han", "latin"]\nmin = 0.6\n'
        '[[step]]\nkind = "repetition"\ntop_ngram = [0.3, 0.2, 0.1]\n'
    )
    steps = [
        Nfc(),
        Length(10),
        Script(("han", "latin"), 0.6),
        Repetition(top_ngram=(0.3, 0.2, 0.1)),
    ]
    assert read_steps(path) == steps
    assert described(steps[2]) == {"kind": "script", "scripts": ["han", "latin"], "min": 0.6}


def test_the_example_has_every_kind_that_needs_no_file():
    path = Path(__file__).parents[2] / "docs" / "clean.toml"
    kinds = {described(step)["kind"] for step in read_steps(path)}
    assert {"strip_returns", "nfc", "length", "repetition"} <= kinds <= KINDS.keys()


BAD = [
    ("", "must contain a [[step]] table"),
    ("[step]\nkind = 'nfc'", "step must be a list of tables"),
    ("step = 3", "step must be a list of tables"),
    ("seed = 3\n[[step]]\nkind = 'nfc'", "a key must be below a table ({path}: seed); write"),
    ("[[step]]\nkind = 'nfc'\n[model]\na = 1", "must contain only [[step]] tables"),
    ("[[step]]\nmin_chars = 3", "a step has no kind; valid kinds: strip_returns, nfc,"),
    (
        "[[step]]\nkind = 'lenght'",
        "unknown kind of step (lenght); did you mean length? valid",
    ),
    ("[[step]]\nkind = 3", "unknown kind of step (3); valid kinds: strip_returns"),
    (
        "[[step]]\nkind = 'length'\nmin_char = 3",
        "unknown config key (length.min_char); did you mean length.min_chars? valid keys: "
        "length.min_chars, length.max_chars",
    ),
    ("[[step]]\nkind = 'length'\nmin_chars = 'x'", "length.min_chars must be a number ('x')"),
    ("[[step]]\nkind = 'length'\nmin_chars = -1", "length.min_chars must be at least 0 (-1)"),
    ("[[step]]\nkind = 'length'\nmax_chars = 0", "length.max_chars must be at least 1"),
    ("[[step]]\nkind = 'length'\nmin_chars = '5'", "length.min_chars must be a number ('5')"),
    (
        "[[step]]\nkind = 'nfc'\n[[step]]\nkind = 'sample'",
        "{path}, step 2: a config value is missing (sample.rate); set this value",
    ),
    ("[[step]]\nkind = 'sample'\nrate = 2", "sample.rate must be between 0 and 1 (2.0)"),
    ("[[step]]\nkind = 'ratio'\nwhat = 'vowels'", "choose one of: alpha, digit, symbol, space"),
    ("[[step]]\nkind = 'ratio'\nwhat = 'alpha'\nmin = 0.9\nmax = 0.1", "ratio.min must be at most"),
    ("[[step]]\nkind = 'script'\nscripts = ['klingon']", "scripts ('klingon'); choose from: latin"),
    ("[[step]]\nkind = 'script'\nscripts = []", "script.scripts must not be empty ([])"),
    ("[[step]]\nkind = 'repetition'\ntop_ngram = [0.1]", "repetition.top_ngram must have 3"),
    (
        "[[step]]\nkind = 'repetition'\ndup_lines = 3",
        "repetition.dup_lines must be between",
    ),
    ("[[step]]\nkind = 'gopher_quality'\nmin_alpha = -1", "gopher_quality.min_alpha must be"),
    ("[[step]]\nkind = 'gopher_quality'\nmin_words = -5", "gopher_quality.min_words must be at"),
    ("[[step]]\nkind = 'gopher_quality'\nmax_symbols = nan", "gopher_quality.max_symbols must"),
    ("[[step]]\nkind = 'gopher_quality'\nmin_stop_words = 9", "must be at most 8 (9)"),
    (
        "[[step]]\nkind = 'gopher_quality'\nmin_mean_length = 20",
        "gopher_quality.min_mean_length must be at most gopher_quality.max_mean_length (20.0 and "
        "10.0); exchange them",
    ),
    ("[[step]]\nkind = 'fineweb_quality'\nchar_dup = 1.5", "fineweb_quality.char_dup must be"),
    ("[[step]]\nkind = 'fineweb_quality'\nlist = -1", "fineweb_quality.list must be at least 0"),
    ("[[step]]\nkind = 'add_suffix'\ntext = ''", "add_suffix.text must not be empty"),
    ("[[step]]\nkind = 'separator'\ntext = 'a'\nreplacement = 'ba'", "must not contain the sep"),
    ("[[step]\n", "a config must be TOML"),
]


@pytest.mark.parametrize(("text", "told"), BAD)
def test_a_config_that_is_wrong(tmp_path, text, told):
    path = tmp_path / "clean.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(told.replace("{path}", str(path)))) as error:
        read_steps(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value).rstrip()
