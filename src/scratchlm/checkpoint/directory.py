"""A checkpoint on disk has two forms: a verified directory, or one `.pt` file.

write_payload                      write one of the forms; the path's suffix selects it
write_directory, read_directory    model.safetensors, state.*, manifest.json (see save_and_load.py)

The module `single_file` reads a `.pt` file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from scratchlm.errors import FileFormatError
from scratchlm.files import plain_values
from scratchlm.files.atomic import is_taken, previous, replacing_directory, replacing_file, sync
from scratchlm.files.checksum import sha256_of
from scratchlm.files.file_kinds import check_downloaded, check_folder_name
from scratchlm.files.paths import StrPath
from scratchlm.files.strict_json import parse_json
from scratchlm.files.tensor_file import mmap_tensors, read_tensors, write_tensors

PathOrFile = StrPath | IO[bytes]
Payload = dict[str, Any]

MANIFEST = "manifest.json"
_FORMAT = 1


def is_single_file(path: StrPath) -> bool:
    return Path(path).suffix in (".pt", ".pth")


def write_payload(path_or_file: PathOrFile, payload: Payload) -> None:
    """Write plain data (a `plain_values.checked` dict with the key `model`).

    It replaces an existing checkpoint. If the process is killed at any moment, the old checkpoint
    or the new checkpoint remains.
    """
    if not isinstance(path_or_file, str | os.PathLike):
        _save(payload, path_or_file)
    elif is_single_file(path_or_file):
        with replacing_file(Path(path_or_file)) as file:
            _save(payload, file)
    else:
        path = Path(path_or_file)
        check_folder_name(path, "a checkpoint must be a folder or one .pt file")
        if is_taken(path) and not (path / MANIFEST).is_file():
            raise ValueError(
                f"the path exists and is not a checkpoint ({path}); choose another path"
            )
        with replacing_directory(path) as folder:
            write_directory(folder, payload)


def _save(payload: Payload, file: IO[bytes]) -> None:
    try:
        torch.save(payload, file)
    except RuntimeError as error:  # torch could not finish the archive; the context has the cause
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def write_directory(folder: Path, payload: Payload) -> None:
    """Write a payload into an empty folder and sync each file."""
    write_manifest(folder, write_files(folder, contents(payload)))


Files = dict[str, str | dict[str, Tensor]]
Entries = dict[str, dict[str, Any]]  # {name: {"size": bytes, "sha256": hex}}


def contents(payload: Payload, part: tuple[int, int] = (1, 1)) -> Files:
    """Return the files of a payload.

    part: (k, N) for part k of N. Tensors on the meta device belong to the files of other parts.
    Only the first part has the JSON files.
    """
    weights, shared = without_duplicates(payload["model"])
    tensors: dict[str, Tensor] = {}
    values = {
        key: value
        for key, value in payload.items()
        if key not in ("model", "config", "tokenizer") or (key == "tokenizer" and value is None)
    }
    state = plain_values.to_json({"shared": shared, "values": values}, tensors)
    ending = "" if part[1] == 1 else f"-{part[0]:05d}-of-{part[1]:05d}"
    files: Files = {
        f"{kind}{ending}.safetensors": {
            name: tensor for name, tensor in own.items() if not tensor.is_meta
        }
        for kind, own in (("model", weights), ("state", tensors))
    }
    if part[0] == 1:
        files["state.json"] = json.dumps(state) + "\n"
        if "config" in payload:
            files["config.json"] = json.dumps(payload["config"], indent=2) + "\n"
        if payload.get("tokenizer") is not None:
            files["tokenizer.json"] = payload["tokenizer"]
    return files


def write_files(folder: Path, files: Files) -> Entries:
    """Write the files, sync each, and return their entries for the manifest."""
    entries: Entries = {}
    for name, content in files.items():
        with (folder / name).open("wb") as file:
            sink = _Hashing(file)
            if isinstance(content, str):
                sink.write(content.encode())
            else:
                write_tensors(sink, content)
            sync(file)
        entries[name] = {"size": sink.size, "sha256": sink.digest.hexdigest()}
    return entries


def write_manifest(folder: Path, entries: Entries) -> None:
    """Write the manifest. It comes last and makes the folder a checkpoint."""
    with (folder / MANIFEST).open("wb") as file:
        manifest = {"format": _FORMAT, "files": entries}
        file.write((json.dumps(manifest, indent=2) + "\n").encode())
        sync(file)


def read_directory(path: Path, *, mapped: bool = False) -> Payload:
    """Check every byte against the manifest, then return what `write_directory` wrote.

    mapped: True maps the tensors. Then each tensor is read from the disk only when it is used.
    """
    path = _present(path)
    names = _verified(path)
    read = mmap_tensors if mapped else read_tensors
    with _fitting(path):
        state_names, model_names = (_parts(names, kind, path) for kind in ("state", "model"))
        tensors = _united([read(path / name) for name in state_names])
        state = plain_values.from_json(_read_json(path / "state.json"), tensors)
        weights = _united([read(path / name) for name in model_names])
        for alias, name in state["shared"].items():
            if alias in weights:
                raise ValueError(f"{alias} is stored twice")
            weights[alias] = weights[name]
        return state["values"] | {"model": weights} | _texts(path, names)


def read_directory_settings(path: Path) -> Payload:
    """Return `step`, and what else the checkpoint has of `recipe`, `template`, `end_ids`,
    `start_ids`, `config` and `tokenizer`.

    It checks and reads only the files without tensors.
    """
    path = _present(path)
    names = _verified(path, ("state.json", "config.json", "tokenizer.json"))
    with _fitting(path):
        values = _read_json(path / "state.json")["values"]
        keys = ("recipe", "step", "template", "end_ids", "start_ids")
        plainly = {key: plain_values.from_json(values.get(key), {}) for key in keys}
        return plainly | _texts(path, names)


def _present(path: Path) -> Path:
    """Return `path`, or the previous directory if a replacement stopped between its two renames."""
    return previous(path) if not path.exists() and previous(path).exists() else path


@contextlib.contextmanager
def _fitting(path: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(
            f"the checkpoint's files do not fit together ({path}: {error!r}); "
            "use an earlier checkpoint"
        ) from None


def _texts(path: Path, names: list[str]) -> Payload:
    """Return the model's config and the tokenizer if the checkpoint has them."""
    found: Payload = {}
    if "config.json" in names:
        found["config"] = _read_json(path / "config.json")
    if "tokenizer.json" in names:
        found["tokenizer"] = (path / "tokenizer.json").read_bytes().decode()
    return found


def _parts(names: list[str], kind: str, path: Path) -> list[str]:
    """Return the names of the files with the tensors of `kind`.

    One rank writes `model.safetensors`. Several ranks write `model-00001-of-00004.safetensors` etc.
    """
    whole = f"{kind}.safetensors"
    if whole in names:
        return [whole]
    total = max((name for name in names if name.startswith(f"{kind}-")), default="")[-17:-12]
    number = int(total) if total.isdigit() else 0
    wanted = [f"{kind}-{k:05d}-of-{total}.safetensors" for k in range(1, number + 1)]
    for name in wanted or [whole]:
        if name not in names:
            raise FileFormatError(
                f"the manifest does not list {name} ({path}); use another checkpoint"
            )
    return wanted


def _united(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    united: dict[str, Tensor] = {}
    for part in parts:
        for name in united.keys() & part.keys():
            raise ValueError(f"{name} is stored twice")
        united |= part
    return united


def _verified(path: Path, only: Collection[str] | None = None) -> list[str]:
    """Check the size and SHA-256 of all files, or of `only`; return the names in the manifest."""
    if not (path / MANIFEST).is_file():
        raise FileFormatError(
            f"the path is not a checkpoint ({path}: it has no {MANIFEST}); specify a "
            "checkpoint's folder, a .pt file, or a run's folder"
        )
    try:
        manifest = parse_json((path / MANIFEST).read_bytes())
        files = {
            name: (entry["size"], entry["sha256"]) for name, entry in manifest["files"].items()
        }
        known = manifest["format"] == _FORMAT
    except (ValueError, KeyError, TypeError, AttributeError):
        check_downloaded(path / MANIFEST)
        raise FileFormatError(
            f"the manifest is damaged ({path / MANIFEST}); use an earlier checkpoint"
        ) from None
    if not known:
        raise FileFormatError(
            f"this version reads only format {_FORMAT} of checkpoints ({path} has format "
            f"{manifest['format']!r:.40}); use the version that wrote the checkpoint"
        )
    if "state.json" not in files:
        raise FileFormatError(
            f"the manifest does not list state.json ({path}); use another checkpoint"
        )
    for name, (size, sha256) in files.items():
        if only is not None and name not in only:
            continue
        file = path / name
        if Path(name).name != name or not _is_plain_file(file):
            raise FileFormatError(
                f"a checkpoint's file is missing ({file}); use an earlier checkpoint"
            )
        if file.stat().st_size != size or sha256_of(file) != sha256:
            check_downloaded(file)
            raise FileFormatError(
                f"a checkpoint's file is damaged ({file}); use an earlier checkpoint"
            )
    for file in sorted(path.iterdir()):
        if file.suffix in (".json", ".safetensors") and file.name not in {MANIFEST, *files}:
            raise FileFormatError(
                f"the manifest does not list a file of the folder ({file}); use another checkpoint"
            )
    return list(files)


def _is_plain_file(path: Path) -> bool:
    """Return whether `path` is a regular file. A link is not; reading a pipe would block."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):
        return False


def _read_json(path: Path) -> Any:
    try:
        return parse_json(path.read_bytes())
    except ValueError as error:
        raise FileFormatError(
            f"a checkpoint's file is not valid JSON ({path}: {error}); use an earlier checkpoint"
        ) from None


def without_duplicates(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors with each tied weight once, and {dropped name: kept name}."""
    first: dict[tuple[Any, ...], str] = {}
    shared = {}
    for name, tensor in state.items():
        start = id(tensor) if tensor.is_meta else tensor.data_ptr()
        place = (start, tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if tensor.numel() and first.setdefault(place, name) != name:
            shared[name] = first[place]
    return {name: tensor for name, tensor in state.items() if name not in shared}, shared


class _Hashing:
    """A file that counts and hashes the bytes that it receives."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.size, self.digest = file, 0, hashlib.sha256()

    def write(self, data: Any) -> None:
        self.file.write(data)
        self.digest.update(data)
        self.size += memoryview(data).nbytes
