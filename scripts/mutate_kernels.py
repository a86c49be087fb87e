"""Plant faults in flash attention, and check that the tests' cases catch each of them.

    python scripts/mutate_kernels.py

Each fault of the table changes a line of a kernel, in a copy of its file. Triton's interpreter then
runs a check of `tests/helpers/flash_cases.py`: cases, from cheap to dear, until one fails; which
blocks are skipped; or offsets past 2³¹. The script prints what failed. Of all errors, only a failed
assertion counts. The end of the process counts only for offsets past 2³¹, because a wrong address
ends the process.

The script first runs each check without a fault. It ends with exit code 1 if a check fails then, or
if a fault passes its check. It needs the extra `dev`.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported, also in the child processes

from tqdm import tqdm

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from helpers.lesson_runs import in_child  # type: ignore[import-not-found]  # noqa: E402

KERNELS, LAUNCH = "flash_kernels", "flash_launch"
CASES = 80


Check = Literal["cases", "skipped blocks", "far memory"]


class Fault(NamedTuple):
    """In a module of `scratchlm.kernels`, `old` becomes `new` everywhere. Then `check` must
    fail. Without a module, nothing changes."""

    name: str
    module: str
    old: str
    new: str
    check: Check = "cases"
    mended: bool = True  # the interpreter


FAULTS = [
    Fault("a query does not attend to its own key", KERNELS,
          "        last_key = position\n", "        last_key = position - 1\n"),
    Fault("causal attention aligns the first query with the first key", KERNELS,
          "position = row + sizes.keys - sizes.queries", "position = row"),
    Fault("a window has one key too many", KERNELS,
          "position - window + 1", "position - window"),
    Fault("a window loses queries in the gradients of keys", KERNELS,
          "stop = tl.minimum(stop, last_key - shift + window)",
          "stop = tl.minimum(stop, start_key - shift + window)"),
    Fault("a window's edge has no mask in the gradients of keys", KERNELS,
          "full_stop = tl.minimum(full_stop, start_key - shift + window)",
          "full_stop = tl.minimum(full_stop, last_key - shift + window)"),
    Fault("causal queries begin one block late in the gradients of keys", KERNELS,
          "tl.maximum(start_key - shift, 0) // M * M",
          "tl.cdiv(tl.maximum(start_key - shift, 0), M) * M"),
    Fault("the causal edge has no mask in the gradients of keys", KERNELS,
          "full_start = tl.maximum(last_key - shift, 0)", "full_start = start"),
    Fault("blocks without a mask reach one block too far", KERNELS,
          "full_stop = (tl.min(tl.where(real, last_key, LAST_INT), 0) + 1) // N * N",
          "full_stop = tl.cdiv(tl.min(tl.where(real, last_key, LAST_INT), 0) + 1, N) * N"),
    Fault("blocks without a mask begin one block too early", KERNELS,
          "full_start = tl.cdiv(tl.max(tl.where(real, first_key, 0), 0), N) * N",
          "full_start = tl.max(tl.where(real, first_key, 0), 0) // N * N"),
    Fault("the masked loop does not jump", KERNELS,
          "return i + tl.where(i < blocks.full_start, 0, blocks.full_stop - blocks.full_start)",
          "return i"),
    Fault("the running output is not rescaled", KERNELS,
          "y = y * rescale[:, None]", "y = y"),
    Fault("the running sum is not rescaled", KERNELS,
          "total = total * rescale + tl.sum(p, 1)", "total = total + tl.sum(p, 1)"),
    Fault("-inf minus -inf, before the first key of a query", KERNELS,
          'base = tl.where(new_peak == float("-inf"), 0.0, new_peak)', "base = new_peak"),
    Fault("a query without a key divides by 0", KERNELS,
          "    total = tl.where(empty, 1.0, total)\n", ""),
    Fault("the log-sum has the base e", KERNELS,
          "peak + tl.log2(total)", "peak + tl.log(total)"),
    Fault("the scores of the gradient of q have the base e", KERNELS,
          "sizes.keys, scale * LOG2_E", "sizes.keys, scale"),
    Fault("probabilities are rounded to fp16, whatever v is", KERNELS,
          "tl.dot(p.to(v.dtype), v, y", "tl.dot(p.to(tl.float16).to(v.dtype), v, y"),
    Fault("delta is missing in the gradient of k", KERNELS,
          "ds = p * (dp - delta[None, :])", "ds = p * dp"),
    Fault("delta is missing in the gradient of q", KERNELS,
          "ds = p * (dp - delta[:, None])", "ds = p * dp"),
    Fault("delta comes from another block of rows", KERNELS,
          "y = load(one_head(output, batch, head), start_row",
          "y = load(one_head(output, batch, head), 0"),
    Fault("the scale is missing in the gradient of q", KERNELS,
          "sum_q * scale", "sum_q"),
    Fault("the scale is missing in the gradient of k", KERNELS,
          "sum_k * scale", "sum_k"),
    Fault("the gradient of v has no mask", KERNELS,
          "            p = tl.where(inside, p, 0.0)\n        sum_v = tl.dot(p.to",
          "            unmasked = p\n            p = tl.where(inside, p, 0.0)\n        else:\n"
          "            unmasked = p\n        sum_v = tl.dot(unmasked.to"),
    Fault("query heads use heads of keys in turn, not in groups", KERNELS,
          "head // sizes.group)", "head % (sizes.heads // sizes.group))"),
    Fault("the gradients of keys contain one head of the group", KERNELS,
          "for member in range(sizes.group):", "for member in range(1):"),
    Fault("v is read with the stride of k", KERNELS,
          "v_head = one_head(v, batch, head // sizes.group)",
          "v_head = Rows(one_head(v, batch, head // sizes.group).memory, k.row)"),
    Fault("columns after the width are read and written", KERNELS,
          "row[:, None] & (tl.arange(0, padded(D)) < D)[None, :]",
          "row[:, None] & (tl.arange(0, padded(D)) < padded(D))[None, :]"),
    Fault("a row after the end is read and written", KERNELS,
          "row = start + tl.arange(0, M) < rows", "row = start + tl.arange(0, M) < rows + 1"),
    Fault("the last row is neither read nor written", KERNELS,
          "row = start + tl.arange(0, M) < rows", "row = start + tl.arange(0, M) < rows - 1"),
    Fault("each row of a batch has the documents of the first", KERNELS,
          "first + batch * sizes.queries + row", "first + row"),
    Fault("a document loses its last query in the gradients of keys", LAUNCH,
          "right=True", "right=False"),
    Fault("documents that are not sorted lose queries in the gradients of keys", LAUNCH,
          "(first.cummax(-1).values, later)", "(first.cummax(-1).values, first.cummax(-1).values)"),
    Fault("an offset of rows has 32 bits", KERNELS,
          "tl.cast(start, tl.int64) * x.row", "start * x.row", "far memory"),
    Fault("an offset of heads has 32 bits", KERNELS,
          "head = (tl.program_id(0) // blocks).to(tl.int64)", "head = tl.program_id(0) // blocks",
          "far memory"),
    Fault("an offset of heads of keys has 32 bits", KERNELS,
          "kv_head = (tl.program_id(0) // programs).to(tl.int64)",
          "kv_head = tl.program_id(0) // programs", "far memory"),
    Fault("the sum adds the rounded probabilities", KERNELS,
          "tl.sum(p, 1)", "tl.sum(p.to(v_head.memory.dtype.element_ty).to(tl.float32), 1)"),
    Fault("rows after the end move the first block of keys", KERNELS,
          "start = tl.min(tl.where(real, first_key, LAST_INT), 0)", "start = tl.min(first_key, 0)",
          "skipped blocks"),
    Fault("each block of queries begins at the first key", KERNELS,
          "start = tl.min(tl.where(real, first_key, LAST_INT), 0) // N * N", "start = 0",
          "skipped blocks"),
    Fault("each block of keys begins at the first query", KERNELS,
          "start = tl.maximum(start_key - shift, 0) // M * M", "start = 0", "skipped blocks"),
    Fault("keys after the end move the last query", KERNELS,
          "up_to = tl.load(at + sizes.keys, mask=real, other=0)",
          "up_to = tl.load(at + sizes.keys, mask=real, other=LAST_INT)", "skipped blocks"),
    Fault("the interpreter is not mended", "", "", "", mended=False),
]  # fmt: skip


def caught(fault: Fault, folder: Path) -> tuple[bool, str]:
    """Return whether the check of the fault fails, and by what.

    The fault must be planted before its module is imported, so this runs in a child process.
    """
    if fault.module:
        plant(fault, folder)
    from helpers import interpreter  # type: ignore[import-not-found]

    if fault.mended:
        interpreter.mend()
    for place, wrong in steps(fault.check):
        try:
            found = wrong()
        except Exception as error:
            by = f"{place}: {type(error).__name__}: {error}"
            return isinstance(error, AssertionError), by[:200]
        if found:
            return True, place
    return False, ""


def steps(check: Check) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the parts of a check, from cheap to dear: a name, and a function whose result is true
    if the kernels are wrong."""
    import torch

    from helpers import flash_cases

    match check:
        case "far memory":
            yield "offsets past 2³¹", lambda: max(flash_cases.errors_of_far_memory()) > 1
        case "skipped blocks":
            for name in flash_cases.SKIPS:
                yield name, partial(flash_cases.wrong_visits, name)
        case "cases":

            def is_wrong(case: Any, dtype: torch.dtype) -> bool:
                return max(flash_cases.errors(case, dtype).values()) > 1

            found = sorted(flash_cases.cases(CASES), key=lambda c: c.heads * c.queries * c.keys)
            for number, case in enumerate(found, 1):
                for dtype in (torch.float32, torch.bfloat16):
                    yield f"case {number}, {dtype}", partial(is_wrong, case, dtype)


def plant(fault: Fault, folder: Path) -> None:
    """Import the module with the fault. Triton reads the source of a kernel from its file."""
    source = (ROOT / "src" / "scratchlm" / "kernels" / f"{fault.module}.py").read_text("utf-8")
    if fault.old not in source:
        raise ValueError(f"{fault.module} must contain the line to break ({fault.old!r})")
    path = folder / f"{fault.module}.py"
    path.write_text(source.replace(fault.old, fault.new), encoding="utf-8")
    name = f"scratchlm.kernels.{fault.module}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def result(fault: Fault, folder: Path) -> tuple[bool, str]:
    """Return what `caught` does. A process that ended returned nothing."""
    try:
        found: tuple[bool, str] = in_child(caught, fault, folder)
    except EOFError:
        return fault.check == "far memory", "the process ended"
    return found


def main() -> None:
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        for check in get_args(Check):
            failed, by = result(Fault("no fault", "", "", "", check), Path(folder))
            if failed or by:
                raise SystemExit(f"the {check} fail without a fault: {by}")
        for fault in tqdm(FAULTS, disable=None):
            is_caught, by = result(fault, Path(folder))
            missed += not is_caught
            verdict = "caught" if is_caught else "MISSED"
            tqdm.write(f"{verdict}  {fault.name}  {by}", file=sys.stdout)
    print(f"the checks catch {len(FAULTS) - missed} of {len(FAULTS)} faults")
    if missed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
