"""Steps before ByteLevel, added tokens of two kinds, and vocabularies that lack a byte, as real
files have them: `tokenizers` trains a small tokenizer with them, and ours gives its ids."""

from __future__ import annotations

import json
import random
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, trainers
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split

from helpers.tokenizer_texts import END, texts
from scratchlm.data.corpora import encode_corpus
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.pieces.patterns import GPT2, LLAMA3, STARCODER, TEKKEN, Pattern
from scratchlm.tokenizer.train import train_bpe_from_texts

RAW = ByteLevel(add_prefix_space=False, use_regex=False)
WORDS = ByteLevel(add_prefix_space=False)
SPACES = ["  ", "   ", " \n 5", "\t\t", " 7", "12345", "a9 b", "\r\n", "½²", "\U0001d7d8\U0001d7d9"]
SPACES += ["中文テスト", "\uff13\uff14", "·", " \U0001d7d8", "  \U0001d7d9"]
ODD = [
    "\x00",
    "\x00\x01",
    "\u200d",
    "\u0301",
    "\u30a0・",
    "!abc",
    "(x",
    "।",
    "…",
    "e\u0301",
    "\u212b",
]


def isolated(pattern: str) -> PreTokenizer:
    return Split(Regex(pattern), "isolated")


DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ\u30a0-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}")
BLOOM = " ?[^(\\s|[.,!?…。\uff0c、।\u06d4،])]+"
STEPS: dict[str, tuple[PreTokenizer, Pattern]] = {
    "smollm2": (Sequence([Digits(individual_digits=True), WORDS]), STARCODER),
    "runs of digits": (Sequence([Digits(individual_digits=False), WORDS]), (r"\p{N}+", GPT2)),
    "gpt4": (Sequence([Split(Regex(LLAMA3), "removed", invert=True), RAW]), LLAMA3),
    "nemo": (Sequence([isolated(TEKKEN), RAW]), TEKKEN),
    "deepseek3": (Sequence([*map(isolated, DEEPSEEK3), RAW]), DEEPSEEK3),
    "deepseek coder": (
        Sequence([Sequence([*map(isolated, DEEPSEEK_CODER[:-1])]), Digits(True), RAW]),
        DEEPSEEK_CODER,
    ),
    "bloom": (Sequence([isolated(BLOOM), RAW]), (" ?[^(\\s|.,!?…。\uff0c、।\u06d4،)]+",)),
    "split and words": (Sequence([isolated("[0-9]{2}"), WORDS]), ("[0-9]{2}", GPT2)),
}


def corpus() -> list[str]:
    rng = random.Random(0)
    strange = [*SPACES, *ODD]
    return [text + "".join(rng.choices(strange, k=6)) + text for text in texts(0, 400)]


def trained(steps: PreTokenizer, learned_from: list[str] | None = None) -> Tokenizer:
    theirs = Tokenizer(models.BPE())
    theirs.pre_tokenizer = steps
    trainer = trainers.BpeTrainer(
        vocab_size=700, show_progress=False, initial_alphabet=ByteLevel.alphabet()
    )
    theirs.train_from_iterator(learned_from or corpus(), trainer)
    return theirs


def check_ids(theirs: Tokenizer, ours: BPETokenizer, extra: list[str] | None = None) -> None:
    """One by one, as a stream of chunks, and as one text long enough for the fast paths."""
    rng = random.Random(1)
    strange = [*SPACES, *ODD, *(extra or [])]
    samples = [text + "".join(rng.choices(strange, k=6)) for text in texts(3, 50)]
    samples += ["".join(rng.choices([*strange, "a", " ", "\n"], k=12)) for _ in range(80)]
    samples += [chr(rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)]))
                + rng.choice(strange) for _ in range(50)]  # fmt: skip
    samples.append(" ".join(samples))
    samples.append("".join(rng.choices([*SPACES, " word", " of", "  a"], k=4000)))  # has stretches
    samples.append("中".join(samples[:-1]))
    for text in samples:
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == ids, repr(text)
        cuts = sorted(rng.choices(range(len(text) + 1), k=3))
        chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert list(ours.encode_iterable(chunks)) == ids, repr(text)


@pytest.mark.parametrize("name", STEPS)
def test_steps_before_byte_level_cut_as_in_tokenizers(name: str) -> None:
    steps, pattern = STEPS[name]
    theirs = trained(steps)
    ours = BPETokenizer.from_json(theirs.to_str())
    assert ours.pattern == pattern
    check_ids(theirs, ours)
    again = BPETokenizer.from_json(ours.to_json())
    assert again.parts == ours.parts
    assert again.hash == ours.hash
    check_ids(Tokenizer.from_str(ours.to_json()), ours)


@pytest.mark.parametrize("pattern", [STARCODER, DEEPSEEK3], ids=["known", "cuts"])
def test_learning_and_encoding_a_file_cut_at_every_step(pattern: Pattern, tmp_path: Path) -> None:
    ours = train_bpe_from_texts(corpus(), 600, pattern=pattern)
    text = END.join(corpus())
    (tmp_path / "text").write_bytes(text.encode())
    ours.encode_file(tmp_path / "text", tmp_path / "ids.bin")
    ids = Tokenizer.from_str(ours.to_json()).encode(text).ids
    assert ours.encode(text) == ids
    assert (tmp_path / "ids.bin").read_bytes() == np.array(ids, ours.dtype).tobytes()


EMAIL = "|||EMAIL_ADDRESS|||"


def neox(form: Any = None) -> Tokenizer:
    """As EleutherAI/gpt-neox-20b has it: runs of spaces are added tokens, and normalized ones. The
    merges make some of the same runs, which have ids of their own."""
    theirs = trained(WORDS, [text + "    x  y" * 9 for text in corpus()])
    theirs.normalizer = form
    theirs.add_special_tokens([AddedToken(END, normalized=False)])
    runs = [" " * n for n in range(24, 1, -1)]
    added = [*runs, EMAIL]
    theirs.add_tokens([AddedToken(token, normalized=True, special=False) for token in added])
    return theirs


@pytest.mark.parametrize("form", [None, normalizers.NFC()], ids=["as it is", "NFC"])
def test_runs_of_spaces_are_found_in_normalized_text(form: Any) -> None:
    theirs = neox(form)
    ours = BPETokenizer.from_json(theirs.to_str())
    assert list(ours.vocab.values()).count(b"  ") == 2
    assert ours.encode("  ", "none") != ours.encode("  ") == theirs.encode("  ").ids
    assert ours.normalized_tokens == ((*(" " * n for n in range(24, 1, -1)), EMAIL) if form else ())
    stream = ours.pretokenizer("all").blocks(["some words "] * 9)
    assert len(list(stream)) > 1  # in bounded memory
    extra = [
        END,
        EMAIL,
        EMAIL[:9],
        EMAIL + " ",
        "e\u0301" + EMAIL + "\u0301",
        " " * 3,
        " " * 30,
        "\n    x",
        f"    {END}     ",
        "e\u0301  \u0301",
    ]
    check_ids(theirs, ours, extra)
    again = BPETokenizer.from_json(ours.to_json())
    assert again.parts == ours.parts
    assert again.hash == ours.hash
    check_ids(Tokenizer.from_str(ours.to_json()), ours, extra)
    # `tokenizers` reads our file, and keeps the spaces when it leaves out special tokens.
    assert Tokenizer.from_str(ours.to_json()).decode(ours.encode("a     b")) == "a     b"


def test_normalized_tokens_are_found_where_normalizing_makes_them() -> None:
    theirs = trained(WORDS)
    theirs.normalizer = normalizers.NFKC()
    theirs.add_special_tokens([AddedToken("<A>", normalized=False)])
    theirs.add_tokens([AddedToken("A>", normalized=True), AddedToken("<b>", normalized=True)])
    ours = BPETokenizer.from_json(theirs.to_str())
    check_ids(theirs, ours, ["<A>", "<\uff21>", "<b\uff1e", "<b>", "<A", "A>", "<"])


@pytest.mark.parametrize(("unknown", "fuse"), [(None, False), ("<unk>", False), ("<unk>", True)])
def test_bytes_without_a_token(unknown: str | None, fuse: bool, tmp_path: Path) -> None:
    """Who trains `tokenizers` without an initial alphabet gets such a file."""
    theirs = Tokenizer(models.BPE(unk_token=unknown, fuse_unk=fuse))
    theirs.pre_tokenizer = WORDS
    special = [unknown] if unknown else []
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    theirs.train_from_iterator(["the quick brown fox", "jumps over the lazy dog the the"], trainer)
    ours = BPETokenizer.from_json(theirs.to_str())
    samples = ["the fox 7", "Über the dog", "77 the", "t7h7e", "éé中", "the <unk> fox", "777"]
    warned = pytest.warns(UserWarning, match="no token for a byte")
    with warned if unknown is None else nullcontext():
        for text in [*samples, "the fox 7 é " * 1000]:
            assert ours.encode(text) == theirs.encode(text).ids, text
    again = BPETokenizer.from_json(ours.to_json())
    assert again.parts == ours.parts
    assert again.hash == ours.hash
    text = tmp_path / "text.txt"
    text.write_text("the fox\n7 dogs", encoding="utf-8")
    if unknown is None:
        with pytest.raises(ValueError, match=r"no token for a byte of the text \(0x0a in"):
            ours.encode_file(text, tmp_path / "out.bin")
        specials = BPETokenizer(ours.vocab, ours.merges, [END])
        with pytest.raises(ValueError, match=r"no token for a byte of the text \(0x0a in"):
            encode_corpus(specials, [text], tmp_path / "shards")
    else:
        assert ours.encode_file(text, tmp_path / "out.bin") == len(theirs.encode("the fox\n7 dogs"))


def test_a_name_that_is_no_byte_leaves_its_id_without_a_token() -> None:
    """Command R has hundreds of emoji in its vocabulary, which no text becomes."""
    theirs = trained(STEPS["smollm2"][0])
    content = json.loads(theirs.to_str())
    content["model"]["vocab"] |= {"\u200d": 700, "⏏": 701}
    theirs = Tokenizer.from_str(json.dumps(content))
    ours = BPETokenizer.from_json(json.dumps(content))
    check_ids(theirs, ours, ["\u200d", "⏏"])
    assert 700 not in ours.vocab
