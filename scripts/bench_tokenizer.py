"""Compare the tokenizer with peers: `python scripts/bench_tokenizer.py [--data FOLDER] [--memory]`.

The script needs the extra `dev`, two cores, and a folder with books_train.txt.xz,
tang_poems.txt.xz, gpt2_vocab.json and gpt2_merges.txt (or $SCRATCHLM_DATA). Each measurement is its
own process. Ours and the peer's take turns, and the ratio is the median over the rounds, because
times on a shared machine are noise, and ratios within one round much less so. The time starts with
the text in a file, or in memory if the peer cannot read files. It ends with the tokenizer or the
ids. It does not include imports. --memory measures instead the peak of all our processes together
on a 1 GB file. --loading measures the CPU time from a file to the ids of a first line, for the real
tokenizers of scripts/fetch_real_files.py, in five rounds, each in a fresh process.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from peak_memory import growth_of, peak_of

ROUNDS = 3
THREADS = 2
Job = Callable[[], object]


def jobs(name: str, data: Path) -> tuple[Job, Job]:
    """Return two functions: one prepares a job, the other is timed."""
    from scratchlm import BPETokenizer, train_bpe

    kind, _, detail = name.partition(" ")
    corpus, _, argument = detail.partition(" ")
    path = data / corpus
    if kind == "ours-train":
        return _nothing, lambda: train_bpe(path, int(argument), num_workers=THREADS)
    if kind == "tokenizers-train":
        from tokenizers import ByteLevelBPETokenizer

        peer = ByteLevelBPETokenizer()
        return _nothing, lambda: peer.train(str(path), int(argument), show_progress=False)
    if kind == "rustbpe-train":
        import rustbpe

        from scratchlm.tokenizer.pieces.patterns import GPT2

        trainer = rustbpe.Tokenizer()
        return _nothing, lambda: trainer.train_from_iterator(
            _chunks(path), int(argument), pattern=GPT2
        )

    tokenizer = BPETokenizer.from_gpt2(data / "gpt2_vocab.json", data / "gpt2_merges.txt")
    text = path.read_text(encoding="utf-8")
    if kind == "ours-file":
        out = data / "out.bin"
        return _nothing, lambda: tokenizer.encode_file(path, out, num_workers=THREADS)
    if kind == "ours-cold":
        return _nothing, lambda: tokenizer.encode_array(text, allowed_special="none")
    if kind == "ours-warm":
        encode: Job = lambda: tokenizer.encode_array(text, allowed_special="none")  # noqa: E731
        return encode, encode
    if kind == "tiktoken":
        import tiktoken

        ranks = {token: id for id, token in tokenizer.vocab.items() if id < len(tokenizer) - 1}
        encoding = tiktoken.Encoding(
            "gpt2", pat_str=str(tokenizer.pattern), mergeable_ranks=ranks, special_tokens={}
        )
        return _nothing, lambda: encoding.encode_ordinary(text)
    assert kind == "tokenizers"
    from tokenizers import Tokenizer

    tokenizers = Tokenizer.from_str(tokenizer.to_json())
    documents = text.split("<|endoftext|>")
    return _nothing, lambda: tokenizers.encode_batch_fast(documents, add_special_tokens=False)


def _nothing() -> None:
    pass


def _chunks(path: Path) -> Iterator[str]:
    """Yield the text in the form that rustbpe reads fastest."""
    with path.open(encoding="utf-8") as file:
        while text := file.read(1 << 16):
            yield text


def seconds(name: str, data: Path) -> float:
    """Return the time of one job in a fresh process."""
    environment = os.environ | {
        "RAYON_NUM_THREADS": str(THREADS),
        "TOKENIZERS_PARALLELISM": "true",
    }
    command = [sys.executable, __file__, "--data", str(data), "--job", name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def row(task: str, ours: str, peer: str, asked: str, data: Path) -> None:
    times = [(seconds(ours, data), seconds(peer, data)) for _ in range(ROUNDS)]
    mine, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    if ours.startswith("ours-train"):
        ratio = statistics.median(a / b for a, b in times)
        what = "of its time"
    else:
        ratio = statistics.median(b / a for a, b in times)
        what = "its speed"
    name = peer.split("-")[0].split()[0]
    cells = (task, name, f"{mine:.2f} s", f"{theirs:.2f} s", f"{ratio:.2f}x {what}", asked)
    print("| " + " | ".join(cells) + " |", flush=True)


def compare(data: Path) -> None:
    print("| task | peer | ours | peer's | ratio (median of rounds) | asked for |")
    print("|---|---|---|---|---|---|", flush=True)
    books, poems, python = "books_train.txt", "tang_poems.txt", "python.txt"
    for size in (10_000, 32_000):
        task = f"train to {size:,} on books, 2 processes"
        row(task, f"ours-train {books} {size}", f"tokenizers-train {books} {size}", "≤ 0.45", data)
        row(task, f"ours-train {books} {size}", f"rustbpe-train {books} {size}", "≤ 0.95", data)
    row("train to 10,000 on Chinese, 2 processes", f"ours-train {poems} 10000",
        f"tokenizers-train {poems} 10000", "≤ 1.0", data)  # fmt: skip
    row("encode books, cold, 2 processes", f"ours-file {books}", f"tiktoken {books}", "≥ 1.0", data)
    row("the same", f"ours-file {books}", f"tokenizers {books}", "≥ 2.3", data)
    row("encode books, cold, 1 process", f"ours-cold {books}", f"tiktoken {books}", "≥ 0.55", data)
    row("encode books, warm, 1 process", f"ours-warm {books}", f"tiktoken {books}", "≥ 1.1", data)
    row("encode Chinese, cold, 1 process", f"ours-cold {poems}", f"tiktoken {poems}", "≥ 0.4", data)
    row("encode Python source, cold, 2 processes", f"ours-file {python}", f"tiktoken {python}",
        "≥ 0.8", data)  # fmt: skip


# Each tokenizer and its peer: the same file in `tokenizers`, or OpenAI's ranks.
LOADED = ("gpt2", "llama3", "gptoss", "gpt4o", "qwen3", "deepseek_v3", "o200k_base")
LINE = "Hello world, this is the 1st line of a text.\n"


def loading(name: str, real: Path) -> dict[str, Job]:
    """Return functions that load a real tokenizer and encode a line: ours and the peers'."""
    from tokenizers import Tokenizer

    from scratchlm import BPETokenizer
    from scratchlm.tokenizer.pieces.patterns import O200K

    path = real / "tokenizers" / name / "tokenizer.json"
    if name != "o200k_base":
        return {
            "ours": lambda: BPETokenizer.load(path).encode(LINE),
            "tokenizers": lambda: Tokenizer.from_file(str(path)).encode(LINE),
        }
    import tiktoken
    from tiktoken.load import load_tiktoken_bpe

    ranks = real / "ranks" / f"{name}.tiktoken"
    same = real / "tokenizers" / "gpt4o" / "tokenizer.json"
    return {
        "ours": lambda: BPETokenizer.from_tiktoken(ranks, pattern=O200K).encode(LINE),
        "tokenizers": lambda: Tokenizer.from_file(str(same)).encode(LINE),
        "tiktoken": lambda: tiktoken.Encoding(
            name, pat_str=O200K, mergeable_ranks=load_tiktoken_bpe(str(ranks)), special_tokens={}
        ).encode(LINE),
    }


def compare_loading(real: Path) -> None:
    print("| file | peer | ours | peer's | ratio (median of rounds) | asked for |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in LOADED:
        peers = ["tokenizers", "tiktoken"] if name == "o200k_base" else ["tokenizers"]
        rounds = [
            {who: seconds(f"load-{who} {name}", real) for who in ("ours", *peers)} for _ in range(5)
        ]
        for peer in peers:
            mine, theirs = (statistics.median(r[who] for r in rounds) for who in ("ours", peer))
            ratio = statistics.median(r["ours"] / r[peer] for r in rounds)
            cells = (name, peer, f"{mine:.2f} s", f"{theirs:.2f} s", f"{ratio:.2f}x", "≤ 1.5")
            print("| " + " | ".join(cells) + " |", flush=True)


def measure_memory(data: Path) -> None:
    """Measure the peak memory of all our processes on 1 GB, each shared page counted once."""
    large = data / "large.txt"
    books = (data / "books_train.txt").read_bytes()
    with large.open("wb") as file:
        while file.tell() < 1 << 30:
            file.write(books)
    (data / "tokenizer.json").write_text(_gpt2(data).to_json(), encoding="utf-8")
    program = "from scratchlm.cli.tokenize import main; import sys; sys.exit(main(sys.argv[1:]))"
    tasks = {
        "train to 10,000": ["--corpus", large, "--vocab_size", "10000", "--output_tokenizer",
                            data / "trained.json"],
        "encode to shards": ["--tokenizer_path", data / "tokenizer.json", "--encode", large,
                             "--output", data / "shards"],
        "encode to one file": ["--tokenizer_path", data / "tokenizer.json", "--encode", large,
                               "--output", data / "large.bin"],
    }  # fmt: skip
    print("| 1 GB of books, 2 processes | peak memory | time |\n|---|---|---|")
    for task, arguments in tasks.items():
        command = [sys.executable, "-c", program, *map(str, arguments)]
        peak, seconds = peak_of([*command, "--num_workers", str(THREADS)])
        print(f"| {task} | {peak / 1e6:,.0f} MB | {seconds:.0f} s |", flush=True)
    print(f"| `encode_iterable`, its growth | {_growth_of_encode_iterable(data):,.0f} MB | |")


def _gpt2(data: Path):  # type: ignore[no-untyped-def]
    from scratchlm import BPETokenizer

    return BPETokenizer.from_gpt2(data / "gpt2_vocab.json", data / "gpt2_merges.txt")


def _growth_of_encode_iterable(data: Path) -> float:
    """Return the MB by which a process grows while it reads the books' ids one by one."""
    tokenizer = _gpt2(data)
    tokenizer.encode("once, for the tables. " * 1000)

    def read() -> None:
        with (data / "books_train.txt").open(encoding="utf-8") as file:
            for _ in tokenizer.encode_iterable(file):
                pass

    return growth_of(read, os.getpid()) / 1e6


def unpack(source: Path, target: Path) -> None:
    """Write plain copies of the data, and the standard library's sources, into our folder."""
    for name in ("books_train.txt", "tang_poems.txt"):
        (target / name).write_bytes(lzma.decompress((source / f"{name}.xz").read_bytes()))
    for name in ("gpt2_vocab.json", "gpt2_merges.txt"):
        (target / name).write_bytes((source / name).read_bytes())
    sources = sorted(Path(json.__file__).parents[1].rglob("*.py"))
    chosen = [path for path in sources if "site-packages" not in path.parts]
    text = "".join(path.read_text(encoding="utf-8", errors="ignore") for path in chosen)
    (target / "python.txt").write_text(text[:24_000_000], encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    default = Path(__file__).parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=os.environ.get("SCRATCHLM_DATA", default))
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--loading", action="store_true")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    real = os.environ.get("SCRATCHLM_REAL", Path(__file__).parents[1] / "build" / "real")
    if args.loading:
        compare_loading(Path(real))
        return
    if args.job and args.job.startswith("load-"):
        who, _, name = args.job.removeprefix("load-").partition(" ")
        load = loading(name, args.data)[who]
        start = time.process_time()
        load()
        print(time.process_time() - start)
        return
    if args.job:
        prepare, timed = jobs(args.job, args.data)
        prepare()
        start = time.perf_counter()
        timed()
        print(time.perf_counter() - start)
        return
    with tempfile.TemporaryDirectory() as folder:
        unpack(args.data, Path(folder))
        (measure_memory if args.memory else compare)(Path(folder))


if __name__ == "__main__":
    main()
