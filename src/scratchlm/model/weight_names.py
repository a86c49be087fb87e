"""Weight names without the prefixes of wrappers, and tied weights under each of their names.

    torch.compile(model)                   _orig_mod.layers.0.…
    DistributedDataParallel(model)         module.layers.0.…
    model.layers[0] = torch.compile(…)     layers.0._orig_mod.…

A checkpoint contains the plain names, so a user can save and load a model with different wrappers.
FSDP and activation checkpointing already use plain names.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from scratchlm.errors import FileFormatError, Notice
from scratchlm.files.paths import StrPath

_ALWAYS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_WRAPPERS = re.compile(rf"(?<![^.])(?:{'|'.join(_ALWAYS)})\.")
_WRAPPERS_IN_FILES = re.compile(rf"(?<![^.])(?:{'|'.join(_ALWAYS)}|module)\.")
_PARALLEL = (nn.parallel.DistributedDataParallel, nn.DataParallel)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model without torch.compile, DDP, FSDP 1 and activation checkpointing."""
    while True:
        inner = [model.get_submodule(name) for name in _ALWAYS if hasattr(model, name)]
        if isinstance(model, _PARALLEL):
            inner.append(model.module)
        if not inner:
            return model
        model = inner[0]


def plain_names(model: nn.Module, names: Mapping[str, object]) -> dict[str, str]:
    """Return {a name in the model's state: this name without wrapper prefixes}."""
    parallel = [
        _WRAPPERS.sub("", f"{path}.module." if path else "module.")
        for path, module in model.named_modules()
        if isinstance(module, _PARALLEL)
    ]
    plain = {}
    for name in names:
        short = _WRAPPERS.sub("", name)
        for prefix in reversed(parallel):  # the innermost first
            if short.startswith(prefix):
                short = prefix.removesuffix("module.") + short.removeprefix(prefix)
        plain[name] = short
    return plain


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's state with plain names."""
    state = model.state_dict()
    plain = plain_names(model, state)
    return {plain[name]: tensor for name, tensor in state.items()}


def without_wrappers(weights: Mapping[str, Tensor], path: StrPath) -> dict[str, Tensor]:
    """Return stored weights with plain names. Warn with a Notice if a name changes.

    Raise FileFormatError if two weights have the same plain name.
    """
    plain = {_WRAPPERS_IN_FILES.sub("", name): name for name in weights}
    changed = [old for new, old in plain.items() if new != old]
    if len(plain) < len(weights):
        raise FileFormatError(
            f"two weights have the same name without their prefixes ({os.fspath(path)}: "
            f"{', '.join(sorted(weights.keys() - plain.values()))[:100]}); save the model without "
            "its wrapper"
        )
    if changed:
        warnings.warn(
            "scratchlm reads the weights without the prefixes of a compiled or parallel model "
            f"({os.fspath(path)}: {changed[0]})",
            Notice,
            stacklevel=2,
        )
    return {new: weights[old] for new, old in plain.items()}


def fitted(weights: Mapping[str, Tensor], model: nn.Module, path: StrPath) -> dict[str, Tensor]:
    """Return stored weights with the names of the model's state.

    A tied weight appears with all its names. A name that the model does not have stays unchanged.
    """
    plain = plain_names(model, model.state_dict())
    known = set(plain.values())
    if not weights.keys() <= known:
        # A user's module may be called `module`, so shorten only if more names then fit.
        short = {_WRAPPERS_IN_FILES.sub("", name) for name in weights}
        if len(short & known) > len(weights.keys() & known):
            weights = without_wrappers(weights, path)
    found = dict(weights)
    for group in tied_names(model):
        first = next((name for name in group if name in weights), None)
        if first is not None:
            found |= {name: weights[first] for name in group if name not in weights}
    own = {short: name for name, short in plain.items()}
    return {own.get(name, name): tensor for name, tensor in found.items()}


def check_tied(weights: Mapping[str, Tensor], model: nn.Module, path: StrPath) -> None:
    """Raise FileFormatError if weights that the model ties have different values."""
    for first, *others in tied_names(model):
        for other in others:
            if first not in weights or other not in weights:
                continue
            one, two = weights[first], weights[other]
            if one.data_ptr() != two.data_ptr() and not torch.equal(one, two):
                raise FileFormatError(
                    f"weights that the model ties must be equal ({os.fspath(path)}: {other} is not "
                    f"{first}); load these weights into a model that does not tie them, such as a "
                    "Transformer with tie_embeddings=False"
                )


def check_shapes(model: nn.Module, theirs: Mapping[str, Tensor], name: str) -> None:
    """Raise FileFormatError if a name, a shape or a kind (float or not) differs."""
    ours = model.state_dict()
    for key in [*ours, *theirs]:
        here, there = (tuple(d[key].shape) if key in d else "absent" for d in (ours, theirs))
        if here != there:
            raise FileFormatError(
                f"the checkpoint must fit the model ({name}: {key} is {there} in the checkpoint, "
                f"{here} in the model); use the config of the checkpoint"
            )
        if ours[key].is_floating_point() != theirs[key].is_floating_point():
            raise FileFormatError(
                f"the checkpoint must fit the model ({name}: {key} is {theirs[key].dtype} in the "
                f"checkpoint, {ours[key].dtype} in the model); use the config of the checkpoint"
            )


def tied_names(model: nn.Module) -> list[list[str]]:
    """Return the plain names of each parameter that has several names."""
    groups: dict[int, list[str]] = {}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    plain = plain_names(model, parameters)
    for name, parameter in parameters.items():
        groups.setdefault(id(parameter), []).append(plain[name])
    return [names for names in groups.values() if len(names) > 1]
