"""Token files in HDF5: the ids are the 1-D dataset `tokens`.

Our own files store the ids in one piece (a contiguous dataset). So a reader maps the ids into
memory, as it maps a `.bin`. The dataset's attributes are the fields of a `.bin`'s sidecar, without
`mtime_ns`. Files of other programs may store the ids in chunks, which h5py reads.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scratchlm.data.extra import extra
from scratchlm.data.joined import TokenArray
from scratchlm.errors import FileFormatError
from scratchlm.files.atomic import naming, replacing_file
from scratchlm.files.file_kinds import check_downloaded
from scratchlm.tokenizer.token_files import DTYPES, ShardInfo, info_of

DATASET = "tokens"
ENDINGS = (".h5", ".hdf5")


class ChunkedTokens:
    """The ids of a chunked dataset. Each process opens the file for itself at its first read.

    With some builds of HDF5, two processes read wrong values through one descriptor. A fork
    inherits the descriptor, and the library would use it again, so the child closes it first.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], count: int) -> None:
        self.path, self.dtype, self._count = path, dtype, count
        self._owner = -1
        self._dataset: Any = None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, key: slice) -> npt.NDArray[Any]:
        if self._owner != os.getpid():
            if self._dataset is not None:
                self._dataset.file.close()
            self._dataset = extra("h5py", self.path).File(self.path, "r")[DATASET]
            self._owner = os.getpid()
        try:
            return self._dataset[key]
        except OSError as error:
            raise _damaged(self.path, error) from None

    def __reduce__(self) -> tuple[Any, ...]:
        return ChunkedTokens, (self.path, self.dtype, self._count)


def open_hdf5(path: Path) -> tuple[TokenArray, ShardInfo | None]:
    """Return the ids of an HDF5 file, and their description if scratchlm wrote the file.

    Raise FileFormatError if the file is damaged, or has no 1-D dataset `tokens` of integers.
    """
    h5py = extra("h5py", path)
    try:
        with h5py.File(path, "r") as file:
            dataset = file.get(DATASET)
            if not isinstance(dataset, h5py.Dataset):
                raise FileFormatError(
                    f"the HDF5 file must have a dataset {DATASET!r} ({path} has "
                    f"{', '.join(map(str, file)) or 'nothing'}); save the ids in {DATASET!r}"
                )
            shape, dtype, offset = dataset.shape, dataset.dtype, dataset.id.get_offset()
            fields = dict(dataset.attrs)
    except (OSError, RuntimeError, KeyError) as error:
        if isinstance(error, PermissionError | FileNotFoundError):
            raise
        check_downloaded(path)
        raise _damaged(path, error) from None
    if shape is None or len(shape) != 1 or dtype.kind not in "iu":
        raise FileFormatError(
            f"the ids must be a 1-D array of integers ({path}: shape {shape}, {dtype}); save the "
            "ids in a 1-D array of integers"
        )
    if shape[0] == 0:
        raise FileFormatError(f"the token file is empty ({path}); encode its text again")
    if offset is None:
        return ChunkedTokens(path, dtype, shape[0]), _info(fields, path)
    return np.memmap(path, dtype, "r", offset, shape), _info(fields, path)


def _info(fields: Mapping[str, Any], path: Path) -> ShardInfo | None:
    if "tokenizer_hash" not in fields:  # another program wrote the file
        return None
    plain = {key: each.item() if hasattr(each, "item") else each for key, each in fields.items()}
    plain = {k: each.decode() if isinstance(each, bytes) else each for k, each in plain.items()}
    return info_of({"tokenizer": None, "mtime_ns": path.stat().st_mtime_ns} | plain, path)


def write_hdf5(parts: Sequence[Path], info: ShardInfo, path: Path) -> None:
    """Write the ids of `.bin` files to an HDF5 file. `info` describes the joined ids.

    h5py writes the description and reserves the space. Then this function copies the ids to that
    space, so a full disk gives the usual error. The same ids give the same bytes.
    """
    h5py = extra("h5py", path)
    fields = {key: value for key, value in asdict(info).items() if value is not None}
    del fields["mtime_ns"]
    with replacing_file(path) as target:
        with naming(path), h5py.File(target.name, "w", libver="v110") as file:
            shape, dtype = (info.count,), DTYPES[info.dtype]
            dataset = file.create_dataset(DATASET, shape, dtype, track_times=False)
            for key, value in fields.items():
                # HDF5 has a checksum for the attributes, except for text of variable length.
                length = len(str(value).encode())
                kind = h5py.string_dtype(length=length) if isinstance(value, str) else None
                dataset.attrs.create(key, value, dtype=kind)
            dataset[-1:] = 0  # the first write reserves the space
            offset = dataset.id.get_offset()
        target.seek(offset)
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, target, 1 << 20)


def _damaged(path: Path, error: Exception) -> FileFormatError:
    reason = str(error).replace("\n", " ")
    return FileFormatError(
        f"the file is not an HDF5 file of ids, or it is damaged ({path}: {reason}); copy the file "
        "again from the source, or encode its text again"
    )
