"""Write the files of a folder that other programs read: one file of tensors, and files of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from scratchlm.files.atomic import replacing_directory, sync
from scratchlm.files.tensor_file import write_tensors


def write_folder(
    folder: Path, name: str, tensors: dict[str, Tensor], texts: Mapping[str, Any]
) -> None:
    """Write `tensors` to the file `name`, and each value of `texts` to the file of its key.

    After an error or a kill, no folder remains.
    """
    with replacing_directory(folder) as new:
        with (new / name).open("wb") as file:
            write_tensors(file, tensors, {"format": "pt"})
            sync(file)
        for each, content in texts.items():
            with (new / each).open("wb") as file:
                file.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
                sync(file)
