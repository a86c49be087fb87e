"""The `pre_tokenizer` of a tokenizer.json: steps that cut text, and ByteLevel as the last step.

A Split step has a regular expression. With "Isolated", the matches and the text between them become
pieces. With "Removed" and `invert`, only the matches become pieces. Digits is a Split by numbers.
ByteLevel with `use_regex` starts with a Split by GPT-2's pattern. No step may follow ByteLevel,
because it would cut bytes, not characters.
"""

from __future__ import annotations

from typing import Any

from scratchlm.errors import FileFormatError
from scratchlm.files.paths import StrPath
from scratchlm.tokenizer.formats.json_content import in_file, only, refuse, shown
from scratchlm.tokenizer.pieces.patterns import GPT2, Pattern, canonical, is_known

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
_REMEDY = "choose a byte-level BPE file whose steps are Split, Digits and ByteLevel"


def write_pre_tokenizer(pattern: Pattern) -> dict[str, Any]:
    """Return the JSON of a pattern. ByteLevel has GPT-2's pattern built in.

    With a single custom expression, `tokenizers` drops the text that the expression does not match.
    Our encoder raises an error instead.
    """
    if pattern == GPT2:
        return BYTE_LEVEL | {"use_regex": True}
    isolated = not isinstance(pattern, str) or is_known(pattern)
    behavior = "Isolated" if isolated else "Removed"
    cuts = (pattern,) if isinstance(pattern, str) else pattern
    splits = _splits(cuts, behavior)
    return {"type": "Sequence", "pretokenizers": [*splits, BYTE_LEVEL | {"use_regex": False}]}


def read_pre_tokenizer(path: StrPath, pre_tokenizer: Any) -> Pattern:
    """Return the pattern that cuts text as these steps do. Raise FileFormatError if none does."""
    *steps, last = _steps(pre_tokenizer) or [None]
    if not isinstance(last, dict) or last.get("type") != "ByteLevel":
        refuse(path, f"pre_tokenizer must end with ByteLevel ({shown(pre_tokenizer)})", _REMEDY)
    only(path, last, "add_prefix_space", False)
    only(path, last, "use_regex", None, False, True)
    if last.get("use_regex", True) is not False:
        steps += _splits((GPT2,), "Isolated")
    if not steps:
        what = "pre_tokenizer must cut the text (ByteLevel without use_regex)"
        refuse(path, what, "add a Split step")
    cuts: list[str] = []
    kept_alone = False  # whether only matches become pieces
    for step in steps:
        match step:
            case {"type": "Digits", "individual_digits": bool(alone)}:
                cuts.append(r"\p{N}" if alone else r"\p{N}+")
            case {"type": "Split", "pattern": {"Regex": str(cut)}, "behavior": "Isolated",
                  "invert": bool()}:  # fmt: skip
                cuts.append(cut)  # `invert` has no effect here
            case {"type": "Split", "pattern": {"Regex": str(cut)}, "behavior": "Removed",
                  "invert": True} if len(steps) == 1 or is_known(cut):  # fmt: skip
                cuts.append(cut)
                kept_alone = True
            case _:
                refuse(path, f"pre_tokenizer has an unsupported step ({shown(step)})", _REMEDY)
    try:
        return canonical(cuts[0] if kept_alone and len(cuts) == 1 else tuple(cuts))
    except ValueError as error:
        raise FileFormatError(in_file(path, str(error))) from None


def _splits(cuts: tuple[str, ...], behavior: str) -> list[dict[str, Any]]:
    flags = {"behavior": behavior, "invert": behavior == "Removed"}
    return [{"type": "Split", "pattern": {"Regex": cut}} | flags for cut in cuts]


def _steps(pre_tokenizer: Any) -> list[Any]:
    """Return the steps, with nested Sequences flattened."""
    match pre_tokenizer:
        case {"type": "Sequence", "pretokenizers": [*steps]}:
            return [inner for step in steps for inner in _steps(step)]
    return [pre_tokenizer]
