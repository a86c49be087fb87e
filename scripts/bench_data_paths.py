"""The paths from documents to token files that bench_data.py compares, and their ids.

Each peer gets its fastest setting on two cores that we found. All use the same tokenizer.json, and
write the id of the separator after each document.
"""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scratchlm import BPETokenizer
from scratchlm.data.cleaning.kinds import read_steps
from scratchlm.data.cleaning.pipeline import clean
from scratchlm.data.corpora import encode_corpus, encode_item, items_of
from scratchlm.data.corpus_writer import CorpusSettings
from scratchlm.data.distributed.merging import merge_parts
from scratchlm.data.distributed.parts import write_part
from scratchlm.data.documents import read_documents
from scratchlm.data.reading.rejects import Rejects
from scratchlm.data.shards import open_shard
from scratchlm.data.sources import find_files
from scratchlm.tokenizer.workers import parallel_map

END = "<|endoftext|>"
CORES = 2
FILES = 4
DOCUMENT = 4_000  # characters in a document of the benchmark
Job = Callable[[], object]
Ids = npt.NDArray[Any]


def write_documents(data: Path, folder: Path) -> str:
    """Write the tokenizer and four files of documents into the folder. Return what they are."""
    import zstandard

    books = data / "books_train.txt.xz"
    if books.exists():
        tokenizer = BPETokenizer.from_gpt2(data / "gpt2_vocab.json", data / "gpt2_merges.txt")
        text, name = lzma.decompress(books.read_bytes()).decode(), "English books, GPT-2's ids"
    else:
        from stdlib_corpus import write_corpus

        from scratchlm import train_bpe

        path = write_corpus(folder)["train"]
        tokenizer, text = train_bpe(path, 10_000), path.read_text(encoding="utf-8")
        text *= -(-24_000_000 // len(text))
        name = "Python's library, repeated to 24 MB, 10,000 ids"
    (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    documents = list(cut(text))
    (folder / "source").mkdir()
    for number in range(FILES):
        # A contiguous part, so that the order of the files is the order of the text.
        first, last = (len(documents) * (number + i) // FILES for i in range(2))
        lines = "".join(
            json.dumps({"text": document, "id": str(i)}, ensure_ascii=False) + "\n"
            for i, document in enumerate(documents[first:last])
        )
        packed = zstandard.ZstdCompressor(3).compress(lines.encode())
        (folder / "source" / f"{number}.jsonl.zst").write_bytes(packed)
    size = sum(path.stat().st_size for path in (folder / "source").iterdir())
    return (
        f"{name}: {len(documents):,} documents, {len(text.encode()) / 1e6:.1f} MB of text, "
        f"{size / 1e6:.1f} MB of .jsonl.zst, {sum(END in each for each in documents):,} documents "
        f"with {END} in their text"
    )


def cut(text: str) -> Iterator[str]:
    """Cut a text at empty lines into documents of about the same size."""
    start = 0
    while start < len(text):
        end = text.find("\n\n", start + DOCUMENT)
        end = len(text) if end < 0 else end + 2
        yield text[start:end]
        start = end


def job(name: str, folder: Path) -> Job:
    """Prepare a path, and return the function to measure."""
    output = folder / name
    output.mkdir()
    make = {
        "ours": _ours,
        "encoder": _encoder,
        "datatrove": _datatrove,
        "datatrove-threads": _datatrove_threads,
        "datasets": _datasets,
        "datasets-tiktoken": _datasets_tiktoken,
    }[name]
    return make(folder, output)


def _ours(folder: Path, output: Path) -> Job:
    tokenizer = BPETokenizer.load(folder / "tokenizer.json")
    return lambda: encode_corpus(tokenizer, folder / "source", output / "shards", num_workers=CORES)


def _encoder(folder: Path, output: Path) -> Job:
    """Encode documents that are in memory, and write nothing: the encoder alone."""
    tokenizer = BPETokenizer.load(folder / "tokenizer.json")
    pretokenizer = tokenizer.pretokenizer("none")
    items = list(items_of(read_documents(folder / "source"), pretokenizer, CorpusSettings()))
    end = tokenizer.token_to_id(END)

    def encode(number: int) -> int:
        return len(encode_item(tokenizer, end, items[number])[1])

    return lambda: sum(parallel_map(encode, range(len(items)), CORES))


def _datatrove(folder: Path, output: Path, tasks: int = CORES) -> Job:
    os.environ["RAYON_NUM_THREADS"] = str(CORES // tasks)
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer
    from loguru import logger

    logger.remove()
    pipeline = [
        JsonlReader(str(folder / "source")),
        DocumentTokenizer(
            str(output / "ids"), str(folder / "tokenizer.json"), eos_token=END,
            shuffle_documents=False,
        ),
    ]  # fmt: skip
    return LocalPipelineExecutor(
        pipeline, tasks=tasks, workers=tasks, logging_dir=str(output / "logs"), start_method="fork"
    ).run


def _datatrove_threads(folder: Path, output: Path) -> Job:
    return _datatrove(folder, output, tasks=1)


def _datasets(folder: Path, output: Path) -> Job:
    os.environ["RAYON_NUM_THREADS"] = "1"  # in each of two processes
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    end = tokenizer.token_to_id(END)

    def encode(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        ids = [[*each.ids, end] for each in tokenizer.encode_batch_fast(batch["text"])]
        return {"ids": ids, "len": list(map(len, ids))}

    return lambda: _map(folder, output, encode)


def _datasets_tiktoken(folder: Path, output: Path) -> Job:
    """As nanoGPT prepares OpenWebText, with batches."""
    encoding, end = _tiktoken(folder)

    def encode(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        ids = [
            [*each, end] for each in encoding.encode_ordinary_batch(batch["text"], num_threads=1)
        ]
        return {"ids": ids, "len": list(map(len, ids))}

    return lambda: _map(folder, output, encode)


def _map(folder: Path, output: Path, encode: Callable[..., dict[str, list[Any]]]) -> None:
    """Map a dataset in two processes, and write the ids to a memory-mapped file, as nanoGPT."""
    import datasets

    datasets.disable_progress_bars()
    files = sorted(map(str, (folder / "source").iterdir()))
    dataset = datasets.load_dataset(
        "json", data_files=files, split="train", cache_dir=str(output / "cache")
    ).map(encode, batched=True, remove_columns=["text", "id"], num_proc=CORES)
    total, start = sum(dataset["len"]), 0
    ids = np.memmap(output / "train.bin", np.uint16, "w+", shape=(total,))
    pieces = 1024
    for number in range(min(pieces, len(dataset))):
        piece = dataset.shard(min(pieces, len(dataset)), number, contiguous=True)
        written = np.concatenate(piece.with_format("numpy")["ids"])
        ids[start : start + len(written)] = written
        start += len(written)
    ids.flush()


def _tiktoken(folder: Path) -> tuple[Any, int]:
    import tiktoken

    tokenizer = BPETokenizer.load(folder / "tokenizer.json")
    end = tokenizer.token_to_id(END)
    ranks = {token: id for id, token in tokenizer.vocab.items() if id != end}
    pattern = str(tokenizer.pattern)
    return tiktoken.Encoding(
        "same", pat_str=pattern, mergeable_ranks=ranks, special_tokens={END: end}
    ), end


def ids_of(name: str, folder: Path) -> Ids:
    """Return the ids that a path wrote, in the order of the documents."""
    output = folder / name
    if name == "ours":
        shards = sorted((output / "shards").glob("*.bin"))
        return np.concatenate([open_shard(path).tokens for path in shards])
    if name.startswith("datasets"):
        return np.fromfile(output / "train.bin", np.uint16)
    tasks = sorted((output / "ids").glob("*.ds"))
    # Task number r of n read the files r, r + n, … one after the other.
    found: dict[int, list[Ids]] = {}
    lines = [
        sum(chunk.last for chunk in read_documents(path)) for path in find_files(folder / "source")
    ]
    for task, path in enumerate(tasks):
        ids = np.fromfile(path, np.uint16)
        ends = np.fromfile(f"{path}.index", np.uint64).astype(int)
        document = 0
        for number in range(task, FILES, len(tasks)):
            start = ends[document - 1] if document else 0
            document += lines[number]
            found[number] = [ids[start : ends[document - 1]]]
    return np.concatenate([ids for number in sorted(found) for ids in found[number]])


def expected_ids(folder: Path, *, obeyed: bool) -> Ids:
    """Return tiktoken's ids. If `obeyed` is true, a separator in a text is a special token."""
    encoding, end = _tiktoken(folder)
    ids: list[Ids] = []
    for chunk in read_documents(folder / "source"):
        assert chunk.last
        if obeyed:
            encoded = encoding.encode(chunk.text, allowed_special={END})
        else:
            encoded = encoding.encode_ordinary(chunk.text)
        ids.append(np.array([*encoded, end], np.uint16))
    return np.concatenate(ids)


# The checks that FineWeb makes of English text, without its classifier of languages.
CLEAN = """
[[step]]
kind = "strip_returns"
[[step]]
kind = "nfc"
[[step]]
kind = "gopher_quality"
[[step]]
kind = "repetition"
[[step]]
kind = "fineweb_quality"
"""
COPIES = 8  # of each part, so that a merge takes seconds


def rates_of(folder: Path) -> dict[str, tuple[float, Job]]:
    """Return the steps of a run on many machines: the MB of text, and a function to measure."""
    tokenizer = BPETokenizer.load(folder / "tokenizer.json")
    files, parts = find_files(folder / "source"), folder / "parts"
    copies = [folder / "copies" / f"{i}-{file.name}" for i in range(COPIES) for file in files]
    copies[0].parent.mkdir()
    for number, copy in enumerate(copies):
        copy.write_bytes(files[number % FILES].read_bytes())
    settings = CorpusSettings()
    size = sum(len(chunk.text.encode()) for chunk in read_documents(files)) / 1e6
    (folder / "clean.toml").write_text(CLEAN, encoding="utf-8")
    checks = read_steps(folder / "clean.toml")

    def encode(numbers: range) -> None:
        for number in numbers:
            account = Rejects()
            texts = (chunk.text for chunk in read_documents(copies[number], rejects=account))
            write_part(tokenizer, texts, account, copies[number], number, parts, settings)

    def merge() -> None:
        merge_parts(tokenizer, copies, parts, folder / "merged", settings)

    steps: dict[str, tuple[float, Job]] = {
        "clean": (size, lambda: clean(files, folder / "clean", checks, num_workers=1)),
        "read and encode": (COPIES * size, lambda: encode(range(len(copies)))),
        "merge": (COPIES * size, merge),
    }  # fmt: skip
    return steps
