"""Damage a folder of files at random, from a seed, and describe the damage in words."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Mutation:
    """`files`: the changed files. `forged`: whether sizes and checksums fit the changed files."""

    what: str
    files: list[Path]
    forged: bool = False


class Folder:
    """A folder whose files can be put back as they were."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}

    def restore(self) -> None:
        for path in sorted(self.path.rglob("*"), reverse=True):
            if path in self.files and path.is_dir():
                shutil.rmtree(path)
            elif path not in self.files and not path.is_dir():
                path.unlink()
        for path, content in self.files.items():
            path.parent.mkdir(exist_ok=True)
            if not path.exists() or path.read_bytes() != content:
                path.write_bytes(content)


def mutate(folder: Folder, seed: int) -> Mutation:
    """Use each kind of damage in turn. The seed determines everything else."""
    rng = random.Random(seed)
    kinds = [flip, truncate, extend, swap, remove, replace_by_folder, add, overwrite, edit_json,
             edit_manifest, forge_json, forge_header, forge_tensor, forge_meaning]  # fmt: skip
    return kinds[seed % len(kinds)](rng, sorted(folder.files))


def flip(rng: random.Random, files: list[Path]) -> Mutation:
    path = rng.choice(files)
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data))
    data[at] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return Mutation(f"a bit of byte {at} of {path} flipped", [path])


def truncate(rng: random.Random, files: list[Path]) -> Mutation:
    path = rng.choice(files)
    data = path.read_bytes()
    size = rng.choice([0, 1, len(data) - 1, rng.randrange(len(data))])
    path.write_bytes(data[:size])
    return Mutation(f"{path} cut at {size} of {len(data)}", [path])


def extend(rng: random.Random, files: list[Path]) -> Mutation:
    path = rng.choice(files)
    more = rng.choice([b"\n", b"\0", b"}", rng.randbytes(rng.randrange(1, 5000))])
    path.write_bytes(path.read_bytes() + more)
    return Mutation(f"{path} longer by {more[:20]!r}", [path])


def overwrite(rng: random.Random, files: list[Path]) -> Mutation:
    path = rng.choice(files)
    data = bytearray(path.read_bytes())
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.randrange(1, 5000))
    data[start:end] = rng.choice([bytes(end - start), rng.randbytes(end - start)])
    path.write_bytes(data)
    return Mutation(f"bytes {start} to {end} of {path} overwritten", [path])


def swap(rng: random.Random, files: list[Path]) -> Mutation:
    first, second = rng.sample(files, 2)
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    return Mutation(f"{first} and {second} swapped", [first, second])


def remove(rng: random.Random, files: list[Path]) -> Mutation:
    path = rng.choice(files)
    path.unlink()
    return Mutation(f"{path} removed", [path])


def replace_by_folder(rng: random.Random, files: list[Path]) -> Mutation:
    path = rng.choice(files)
    path.unlink()
    path.mkdir()
    return Mutation(f"{path} a folder", [path])


def add(rng: random.Random, files: list[Path]) -> Mutation:
    source = rng.choice(files)
    names = ["notes.txt", "extra.json", "model-00001-of-00002.safetensors", f"{source.name}.tmp"]
    path = source.with_name(rng.choice(names))
    path.write_bytes(rng.choice([b"", b"{}", source.read_bytes()]))
    return Mutation(f"{path} added", [path])


def edit_json(rng: random.Random, files: list[Path]) -> Mutation:
    path = rng.choice([file for file in files if file.suffix == ".json"])
    text, what = edited(rng, path.read_text(encoding="utf-8"))
    path.write_text(text, encoding="utf-8")
    return Mutation(f"{path}: {what}", [path])


def edit_manifest(rng: random.Random, files: list[Path]) -> Mutation:
    return edit_json(rng, [file for file in files if file.name == "manifest.json"])


def forge_json(rng: random.Random, files: list[Path]) -> Mutation:
    names = {"state.json", "config.json", "tokenizer.json"}
    mutation = edit_json(rng, [file for file in files if file.name in names])
    return sealed(mutation)


def forge_meaning(rng: random.Random, files: list[Path]) -> Mutation:
    """Values of the right kind in the wrong place."""
    path = rng.choice([file for file in files if file.name == "config.json"])
    config = json.loads(path.read_text())
    key = rng.choice(list(config))
    value = rng.choice([0, 1, 2, 3, 7, 64, 10**6, 10**9, 10**12, 10**30, 0.5, True, "rope", "300",
                        {}, {"num_experts": 10**9, "num_active": 1}])  # fmt: skip
    path.write_text(json.dumps(config | {key: value}))
    return sealed(Mutation(f"{path}: {key} is {value!r}", [path]))


def forge_header(rng: random.Random, files: list[Path]) -> Mutation:
    path = rng.choice([file for file in files if file.suffix == ".safetensors"])
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header, what = json.loads(data[8 : 8 + length]), "the header"
    one, other = (header[rng.choice(list(header))] for _ in range(2))
    match rng.randrange(7):
        case 0:
            text, what = edited(rng, data[8 : 8 + length].decode())
        case 1:
            one["dtype"] = rng.choice(["I32", "U8", "F64", "BF16", "I64", "BOOL", "F8_E4M3", ""])
        case 2:
            one["shape"].reverse()
        case 3:
            one["data_offsets"], other["data_offsets"] = other["data_offsets"], one["data_offsets"]
        case 4:
            name = rng.choice(list(header))
            header[rng.choice([name + "x", "__metadata__", ""])] = header.pop(name)
        case 5:
            one["shape"] = rng.choice([[1 << 40, 1 << 40], [-1], [0], {}, "", [1] * 100, [2.0]])
        case 6:
            one["data_offsets"][rng.randrange(2)] += rng.choice([-8, 8, 1, 1 << 62])
    if what == "the header":
        text = json.dumps(header)
    header_bytes = text.encode()
    path.write_bytes(struct.pack("<Q", len(header_bytes)) + header_bytes + data[8 + length :])
    return sealed(Mutation(f"{path}: {what} edited", [path]))


def forge_tensor(rng: random.Random, files: list[Path]) -> Mutation:
    return sealed(flip(rng, [file for file in files if file.suffix == ".safetensors"]))


def sealed(mutation: Mutation) -> Mutation:
    """Write the sizes and checksums of the mutated files into the manifest."""
    for path in mutation.files:
        manifest = path.with_name("manifest.json")
        content = json.loads(manifest.read_bytes())
        data = path.read_bytes()
        entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        content["files"][path.name] = entry
        manifest.write_text(json.dumps(content))
        assert path.exists()
    return Mutation(mutation.what + ", forged", mutation.files, forged=True)


def forge_pickle(rng: random.Random, files: list[Path]) -> Mutation:
    """Change a few bytes in the pickle of a `.pt`, and compute a new checksum."""
    path = rng.choice(files)
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    name = next(name for name in entries if name.endswith("data.pkl"))
    data = bytearray(entries[name])
    for _ in range(rng.randrange(1, 4)):
        data[rng.randrange(len(data))] = rng.choice([*b"(}]){tR0u.QhK\x85", rng.randrange(256)])
    entries[name] = bytes(data)
    with zipfile.ZipFile(path, "w") as archive:
        for each, content in entries.items():
            archive.writestr(each, content)
    return Mutation(f"the pickle of {path} edited, forged", [path], forged=True)


# JSON values that replace a right value.
WILD = [
    "null", "true", "-1", "0", "1.5", "1e999", "NaN", "-Infinity", "1" + "0" * 400, "7" * 5000,
    '""', '"x"', f'"{"y" * 100_000}"', '"\\u0000"', '"\\ud800"', '"../../etc/passwd"',
    "[]", "[[]]", "{}", '{"": {}}', "[" * 500 + "]" * 500, "[" * 100_000 + "]" * 100_000,
    '{"a":' * 100_000 + "1" + "}" * 100_000,
    '{"__tensor__": "absent"}', '{"__tensor__": []}', '{"__tensor__": "rng.torch", "a": 1}',
    '{"__tuple__": 3}', '{"__tuple__": {}}', '{"__dict__": [[[], 1]]}', '{"__dict__": [[1.5, 1]]}',
    '{"__dict__": 1}', '{"__float__": "x"}', '{"__float__": "nan"}', '{"__new__": 1}', "",
]  # fmt: skip


def edited(rng: random.Random, text: str) -> tuple[str, str]:
    """Change a value in JSON, or remove, add or repeat a key. Also return a description."""
    tree = json.loads(text)
    parent, key = _somewhere(rng, tree)
    what = rng.choice(["changed", "changed", "removed", "added", "twice"])
    wild = rng.choice(WILD)
    where = f"{key!r} {what}"
    if what == "removed":
        del parent[key]
    elif what == "changed":
        parent[key] = "@wild@"
        where += f" to {wild[:40]}"
    elif isinstance(parent, dict):
        parent["@key@"] = "@wild@" if what == "added" else parent[key]
    else:
        parent.append("@wild@")
    second = json.dumps(key) if what == "twice" else '"added"'
    return json.dumps(tree).replace('"@wild@"', wild).replace('"@key@"', second), where


def _somewhere(rng: random.Random, tree: Any) -> tuple[Any, Any]:
    """Choose a container in the tree, and a key or an index in it. The choice goes down level by
    level, so a level with many values is not likelier."""
    while True:
        keys = list(tree) if isinstance(tree, dict) else range(len(tree))
        key = rng.choice(keys)
        if not isinstance(tree[key], dict | list) or not tree[key] or rng.random() < 0.25:
            return tree, key
        tree = tree[key]
