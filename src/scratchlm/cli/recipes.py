"""Find the recipes of configs/ by name, and list them with their sizes."""

from __future__ import annotations

import difflib
import importlib.resources
import shlex
from pathlib import Path

from scratchlm.files.file_kinds import check_downloaded


def find_config(word: str) -> Path:
    """Return the TOML file that `--config` means: a file by its path, or a recipe by its name.

    In a name, `-` and `_` are equal. Raise ValueError with similar names if neither exists.
    """
    path, names, hyphened = Path(word), _recipes(), word.replace("_", "-")
    if path.is_file():
        check_downloaded(path)
        return path
    if hyphened in names:
        return names[hyphened]
    if (path / "config.toml").is_file():
        inside = shlex.quote(str(path / "config.toml"))
        raise ValueError(f"a config must be a file, not a folder ({word}); set --config {inside}")
    stem = path.stem.replace("_", "-")
    if stem in names:
        raise ValueError(f"no such file ({word}); for the recipe, write only its name: {stem}")
    close = difflib.get_close_matches(stem, names, n=3, cutoff=0.7)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise ValueError(
        f"no such config ({word}); {hint}scratchlm-train --config list shows all recipes"
    )


def is_recipe(word: str) -> bool:
    """Return whether a recipe, but no file or folder, has this name."""
    return word.replace("_", "-") in _recipes() and not Path(word).exists()


def check_model(path: str) -> None:
    """Raise ValueError if the path of a model is the name of a recipe."""
    if is_recipe(path):
        raise ValueError(
            f"a recipe is not a model ({path}); train a model: scratchlm-train --config {path} "
            "--train_data book.txt"
        )


def listing() -> str:
    """Return one line per recipe with its size and its purpose, the smallest first."""
    from scratchlm.config import build, read_toml  # --help does not need it
    from scratchlm.costs.model_costs import count_parameters
    from scratchlm.model.config import ModelConfig

    rows = []
    for name, path in _recipes().items():
        first, tree = path.read_text(encoding="utf-8").partition("\n")[0], read_toml(path)
        total, size = 0, "any model"
        if "d_model" in tree.get("model", {}):  # other recipes begin from weights
            total = count_parameters(build(ModelConfig, tree["model"], "model.")).total
            size = f"{total / 1e6:,.1f}M"
        rows.append((total, f"{name:<13} {size:>10}  {first.removeprefix('# ')}"))
    return "\n".join(["name          parameters  purpose", *(row for _, row in sorted(rows))])


def _recipes() -> dict[str, Path]:
    """Return {name: path}. A checkout has configs/ beside src/, a wheel in the package."""
    package = Path(str(importlib.resources.files("scratchlm")))
    inside = package / "configs"
    folder = inside if inside.is_dir() else package.parents[1] / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}
