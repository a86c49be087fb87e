"""Real tokenizer files and OpenAI's rank files: the ids of `tokenizers` and tiktoken."""

from __future__ import annotations

import hashlib
import lzma
import random
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import tokenizers
from tiktoken.load import load_tiktoken_bpe

from helpers.text_generators import ADVERSARIAL, random_chunks, random_texts, sentences
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.pieces.patterns import CL100K, GPT2, O200K

pytestmark = pytest.mark.real

NAMES = [
    *("gpt2", "gpt35turbo", "gpt4", "gpt4o", "gptoss", "llama3", "llama3_1", "llama3_2"),
    *("mistral_nemo", "qwen2_5", "qwen3", "deepseek_v3", "command_r_plus", "claude"),
    *("allenai_dolma2", "allenai_eleuther-ai-gpt-neox-20b-pii-special"),
    "allenai_gpt-neox-olmo-dolma-v1_5",
]
RANKS = {  # with the SHA-256 in tiktoken_ext.openai_public, where it has one
    "r50k_base": (GPT2, "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"),
    "p50k_base": (GPT2, "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069"),
    "cl100k_base": (CL100K, "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"),
    "o200k_base": (O200K, "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"),
}


def samples(specials: list[str]) -> list[str]:
    """Sentences of all scripts, random texts with runs of spaces and special tokens, long texts."""
    rng = random.Random(0)
    some = [*specials[:5], *specials[-5:], "  ", "     ", "\n   ", " 12 345", "\u200d", "e\u0301"]
    texts = [*sentences(), *random_texts(0, 600)]
    texts += ["".join(rng.choices([*some, *texts], k=8)) for _ in range(200)]
    texts += [make(300) for make in ADVERSARIAL.values()]
    return [*texts, " ".join(texts)]


def excerpts(data: Path) -> list[str]:
    with lzma.open(data / "tang_poems.txt.xz", "rt", encoding="utf-8") as file:
        poems = file.read(60_000)
    return [poems, (data / "shakespeare.txt").read_text(encoding="utf-8")[:300_000]]


@pytest.mark.parametrize("name", NAMES)
def test_a_real_tokenizer_gives_the_ids_of_tokenizers(
    name: str, real_files: Path, shared_data: Path
) -> None:
    path = real_files / "tokenizers" / name / "tokenizer.json"
    theirs = tokenizers.Tokenizer.from_file(str(path))
    ours = BPETokenizer.load(path)
    again = BPETokenizer.from_json(ours.to_json())
    assert again.parts == ours.parts
    assert again.hash == ours.hash
    written = tokenizers.Tokenizer.from_str(ours.to_json())
    rng = random.Random(1)
    for text in [*samples(ours.special_tokens), *excerpts(shared_data)]:
        form: Any = ours.normalization
        if form and theirs.normalizer.normalize_str(text) != unicodedata.normalize(form, text):
            continue  # under NFKC `tokenizers` has an older Unicode: 72 characters differ
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == ids, repr(text[:200])
        assert list(ours.encode_iterable(random_chunks(rng, text))) == ids, repr(text[:200])
        assert written.encode(text, add_special_tokens=False).ids == ids, repr(text[:200])
        if not form:
            assert ours.decode(ids) == text


@pytest.mark.parametrize("name", RANKS)
def test_real_ranks_give_the_ids_of_tiktoken(
    name: str, real_files: Path, shared_data: Path, tmp_path: Path
) -> None:
    path = real_files / "ranks" / f"{name}.tiktoken"
    pattern, sha256 = RANKS[name]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    ours = BPETokenizer.from_tiktoken(path, pattern=pattern)
    ranks = load_tiktoken_bpe(str(path))
    theirs = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    for text in [*samples([]), *excerpts(shared_data)]:
        assert ours.encode(text) == theirs.encode_ordinary(text), repr(text[:200])
    ours.save_tiktoken(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
