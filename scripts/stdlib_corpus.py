"""Make a corpus of real text without a download: the standard library's sources of this Python.

    python scripts/stdlib_corpus.py FOLDER      writes FOLDER/train.txt and FOLDER/val.txt

Tests, generated tables and installed packages are left out: about 8 MB remain. Whole files go
to one side or the other, by a hash of their path, so that nothing of a validation file is trained
on. `<|endoftext|>` stands between two files.
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
ONE_IN = 20  # files, for validation


def sources(root: Path) -> dict[str, str]:
    """{path inside the library: text} of every source worth reading."""
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
    """Both files, each appearing whole; train.txt last, so that its presence means both."""
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
