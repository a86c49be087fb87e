"""Make a corpus of real text without a download: the standard library's sources of this Python.

    python scripts/stdlib_corpus.py FOLDER      writes FOLDER/train.txt and FOLDER/val.txt

The corpus leaves out tests, generated tables and installed packages, and has about 8 MB. A hash of
its path puts a whole file into training or validation, so that no part of a validation file is in
the training data. `<|endoftext|>` separates two files.
"""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from pathlib import Path

SEPARATOR = "<|endoftext|>"
LEFT_OUT = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idle_test",
    "encodings",  # generated tables
    "pydoc_data",  # one string of half a megabyte
    "_bundled",
    "lib-dynload",
}
ONE_IN = 20  # one file in 20 is for validation


def sources(root: Path) -> dict[str, str]:
    """Return {path inside the library: text} of every source that the corpus keeps."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if LEFT_OUT.intersection(name.parts) or name.name.startswith("_sysconfigdata"):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if len(text) >= 200 and SEPARATOR not in text:
            found[name.as_posix()] = text
    return found


def held_out(name: str) -> bool:
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % ONE_IN == 0


def write_corpus(folder: Path) -> dict[str, Path]:
    """Write both files, whole or not at all. train.txt comes last, so that it implies val.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    found = sources(Path(sysconfig.get_paths()["stdlib"]))
    paths = {}
    for part, side in (("val", True), ("train", False)):
        texts = [text for name, text in found.items() if held_out(name) == side]
        temporary = folder / f".{part}.tmp"
        temporary.write_text(SEPARATOR.join(texts), encoding="utf-8", newline="")
        paths[part] = temporary.replace(folder / f"{part}.txt")
        print(f"{paths[part]}: {len(texts)} files, {paths[part].stat().st_size / 1e6:.1f} MB")
    return paths


if __name__ == "__main__":
    write_corpus(Path(sys.argv[1]))
