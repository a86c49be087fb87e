"""Measure the sizes of blocks for flash attention on this GPU, and write its rows of the table.

    python scripts/tune_flash.py

The script needs a GPU and the extra `dev`. For each kernel and width of a head, it compiles and
times the candidates on causal attention to 4,096 tokens in bfloat16. Then it compares the kernels
with float64, and replaces the rows of this GPU in `src/scratchlm/kernels/flash_blocks.py`. It does
not tune the rows of float32. Commit the change: equal rows give equal bits. A run that began with
other rows does not continue to the bit, and reports this.
"""

from __future__ import annotations

import itertools
import math
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from scratchlm.kernels.flash_blocks import TABLE, Blocks, Kernel, blocks_for

ROOT = Path(__file__).parents[1]
FILE = ROOT / "src" / "scratchlm" / "kernels" / "flash_blocks.py"
ROW = re.compile(r'^    \("([\d.]+)", "(\w+)", (\d+)\): Blocks\(.*\),\n', re.MULTILINE)
KERNELS: tuple[Kernel, ...] = ("forward", "grad_q", "grad_kv")
WIDTHS = (64, 128, 256)
Best = dict[tuple[Kernel, int], Blocks]


def candidates(kernel: Kernel, width: int, now: Blocks, shared: int) -> list[Blocks]:
    """Return the row `now`, and the sizes that may fit into `shared` bytes of a program's memory.

    Wide heads have small blocks too.
    """
    sizes = (16, 32, 64, 128)
    every = (Blocks(*each) for each in itertools.product(sizes, sizes, (4, 8), (1, 2, 3)))
    return [now] + [
        blocks
        for blocks in every
        if blocks != now
        and blocks.queries * blocks.keys * width >= 2**17
        and least_shared(kernel, width, blocks) <= shared
    ]


def least_shared(kernel: Kernel, width: int, blocks: Blocks) -> int:
    """Return a lower bound of a program's bytes of shared memory, in 16 bits: the two blocks of
    each next stage. A stage has keys and values, or queries and gradients."""
    rows = blocks.queries if kernel == "grad_kv" else blocks.keys
    return (blocks.stages - 1) * 2 * rows * width * 2


def fastest(
    seconds: Callable[[Kernel, int, Blocks], float], device: torch.device, shared: int
) -> Best:
    """Return the fastest candidate for each kernel and width. `seconds` is inf for a candidate that
    does not fit on the GPU. Raise SystemExit if none fits."""
    best: Best = {}
    for kernel, width in tqdm(list(itertools.product(KERNELS, WIDTHS)), disable=None):
        now = blocks_for(kernel, width, torch.bfloat16, device)
        every = candidates(kernel, width, now, shared)
        times = {blocks: seconds(kernel, width, blocks) for blocks in every}
        best[kernel, width] = winner = min(times, key=times.__getitem__)
        if not math.isfinite(times[winner]):
            raise SystemExit(
                f"a kernel must fit on the GPU ({kernel}, heads of {width}: none of {len(times)} "
                "candidates does); add smaller blocks to `candidates`"
            )
    return best


def check(
    best: Best, gpu: str, errors_of: Callable[[Any, torch.dtype], Mapping[str, float]]
) -> None:
    """Use the rows in this process, and raise SystemExit if a result is not near float64.

    errors_of: case, dtype -> {result: error / bound}.
    """
    from helpers.flash_cases import Case  # type: ignore[import-not-found]

    TABLE.update({(gpu, *key): blocks for key, blocks in best.items()})
    for width, length, window, dtype in itertools.product(
        WIDTHS, (129, 1000), (None, 100), (torch.bfloat16, torch.float16)
    ):
        case = Case(2, 4, 2, length, length, width, width, window=window, blocks=None)
        errors = errors_of(case, dtype)
        if not all(error <= 1 for error in errors.values()):  # NaN is wrong too
            raise SystemExit(
                f"the kernels must be near float64 ({case}, {dtype}: {dict(errors)} of the bound); "
                "the table did not change"
            )


def with_rows(text: str, gpu: str, best: Best) -> str:
    """Return the text of flash_blocks.py with these rows for `gpu`, in the order of the table."""
    rows = {match.groups(): match[0] for match in ROW.finditer(text)}
    for (kernel, width), blocks in best.items():
        row = f'    ("{gpu}", "{kernel}", {width}): Blocks({", ".join(map(str, blocks))}),\n'
        rows[gpu, kernel, str(width)] = row
    places = list(ROW.finditer(text))

    def order(key: tuple[str, ...]) -> tuple[float, int, int]:
        return float(key[0]), KERNELS.index(key[1]), int(key[2])

    table = "".join(rows[key] for key in sorted(rows, key=order))
    return text[: places[0].start()] + table + text[places[-1].end() :]


def measured(kernel: Kernel, width: int, blocks: Blocks) -> float:
    """Return the milliseconds of a kernel on this GPU."""
    import triton

    from scratchlm.kernels import flash_launch

    heads = 2048 // width
    q, k, v, output, grad, dq, dk, dv = torch.randn(
        8, 2, heads, 4096, width, dtype=torch.bfloat16, device="cuda"
    )
    log_sums, deltas = torch.zeros(2, 2, heads, 4096, device="cuda")
    x = flash_launch.Inputs(q, k, v, None, True, None)
    runs: dict[Kernel, Callable[[], None]] = {
        "forward": lambda: flash_launch.forward(x, output, log_sums, blocks),
        "grad_q": lambda: flash_launch.grad_q(x, grad, log_sums, deltas, dq, blocks),
        "grad_kv": lambda: flash_launch.grad_kv(x, grad, log_sums, deltas, dk, dv, blocks),
    }
    try:
        return triton.testing.do_bench(runs[kernel])
    except triton.runtime.errors.OutOfResources:  # shared memory or registers
        return math.inf


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("tune_flash.py needs a GPU (none found); run it where one is")
    import triton

    sys.path.insert(0, str(ROOT / "tests"))
    from helpers.flash_cases import errors

    device = torch.device("cuda")
    gpu = "{}.{}".format(*torch.cuda.get_device_capability())
    properties = triton.runtime.driver.active.utils.get_device_properties
    shared = properties(torch.cuda.current_device())["max_shared_mem"]
    best = fastest(measured, device, shared)
    check(best, gpu, lambda case, dtype: errors(case, dtype, "cuda"))
    FILE.write_text(with_rows(FILE.read_text(encoding="utf-8"), gpu, best), encoding="utf-8")
    print(f"the rows of {gpu} are in {FILE}; write there what you measured, and commit it")


if __name__ == "__main__":
    main()
