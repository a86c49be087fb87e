"""The `pre_tokenizer` of a tokenizer.json: the steps that cut text, and ByteLevel as the last.

A Split step has a regular expression. "Isolated" makes pieces of its matches and of what lies
between them; "Removed" with `invert` keeps the matches alone. Digits is a Split by numbers, and
ByteLevel with `use_regex` begins with a Split by GPT-2's pattern. After ByteLevel a step would cut
bytes, not characters, so none may follow.
"""

from __future__ import annotations

from typing import Any

from scratchlm.tokenizer.formats.json_content import StrPath, only, refuse, shown
from scratchlm.tokenizer.pieces.patterns import GPT2, Pattern, canonical, is_known

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
_REMEDY = "use a byte-level BPE file whose steps are Split, Digits and ByteLevel"


def write_pre_tokenizer(pattern: Pattern) -> dict[str, Any]:
    """The JSON of a pattern. GPT-2's is the one that ByteLevel has built in.

    `tokenizers` leaves out what one expression of the user's does not match. Here that is an error.
    """
    if pattern == GPT2:
        return BYTE_LEVEL | {"use_regex": True}
    isolated = not isinstance(pattern, str) or is_known(pattern)
    behavior = "Isolated" if isolated else "Removed"
    cuts = (pattern,) if isinstance(pattern, str) else pattern
    splits = _splits(cuts, behavior)
    return {"type": "Sequence", "pretokenizers": [*splits, BYTE_LEVEL | {"use_regex": False}]}


def read_pre_tokenizer(path: StrPath, pre_tokenizer: Any) -> Pattern:
    """The pattern that cuts text as these steps do. FileFormatError where there is none."""
    *steps, last = _steps(pre_tokenizer) or [None]
    if not isinstance(last, dict) or last.get("type") != "ByteLevel":
        refuse(path, f"pre_tokenizer must end with ByteLevel ({shown(pre_tokenizer)})", _REMEDY)
    only(path, last, "add_prefix_space", False)
    only(path, last, "use_regex", None, False, True)
    if last.get("use_regex", True) is not False:
        steps += _splits((GPT2,), "Isolated")
    if not steps:
        refuse(path, "pre_tokenizer cuts no text (ByteLevel without use_regex)", "add a Split")
    cuts: list[str] = []
    kept_alone = False  # whether what lies between matches is left out
    for step in steps:
        match step:
            case {"type": "Digits", "individual_digits": bool(alone)}:
                cuts.append(r"\p{N}" if alone else r"\p{N}+")
            case {"type": "Split", "pattern": {"Regex": str(cut)}, "behavior": "Isolated",
                  "invert": bool()}:  # fmt: skip
                cuts.append(cut)  # `invert` changes nothing
            case {"type": "Split", "pattern": {"Regex": str(cut)}, "behavior": "Removed",
                  "invert": True} if len(steps) == 1 or is_known(cut):  # fmt: skip
                cuts.append(cut)
                kept_alone = True
            case _:
                refuse(path, f"pre_tokenizer has a step that is not read ({shown(step)})", _REMEDY)
    try:
        return canonical(cuts[0] if kept_alone and len(cuts) == 1 else tuple(cuts))
    except ValueError as error:
        what, remedy = str(error).rsplit("; ", 1)
        refuse(path, what, remedy)


def _splits(cuts: tuple[str, ...], behavior: str) -> list[dict[str, Any]]:
    flags = {"behavior": behavior, "invert": behavior == "Removed"}
    return [{"type": "Split", "pattern": {"Regex": cut}} | flags for cut in cuts]


def _steps(pre_tokenizer: Any) -> list[Any]:
    """The steps, those of a Sequence in a Sequence among them."""
    match pre_tokenizer:
        case {"type": "Sequence", "pretokenizers": [*steps]}:
            return [inner for step in steps for inner in _steps(step)]
    return [pre_tokenizer]
