"""Measure the sizes of blocks for flash attention on this GPU, and write its rows of the table.

    python scripts/tune_flash.py

The script needs a GPU. For each kernel and width of a head, it compiles and times the candidates on
causal attention to 4,096 tokens in bfloat16, which takes about 20 minutes. Then it replaces the
rows of this GPU in `src/scratchlm/kernels/flash_blocks.py`. Commit the change: equal rows give
equal bits. A run that began with other rows does not continue to the bit.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

from scratchlm.kernels.flash_blocks import Blocks, Kernel

FILE = Path(__file__).parents[1] / "src" / "scratchlm" / "kernels" / "flash_blocks.py"
ROW = re.compile(r'^    \("([\d.]+)", "(\w+)", (\d+)\): Blocks\(.*\),\n', re.MULTILINE)
KERNELS: tuple[Kernel, ...] = ("forward", "grad_q", "grad_kv")
WIDTHS = (64, 128, 256)
CANDIDATES = [
    Blocks(queries, keys, warps, stages)
    for queries, keys, warps, stages in itertools.product(
        (32, 64, 128), (32, 64, 128), (4, 8), (1, 2, 3)
    )
    if queries * keys >= 2048
]
Best = dict[tuple[Kernel, int], Blocks]


def fastest(seconds: Callable[[Kernel, int, Blocks], float]) -> Best:
    """Return the fastest candidate for each kernel and width. `seconds` is inf for a candidate that
    does not fit on the GPU."""
    best: Best = {}
    for kernel, width in tqdm(list(itertools.product(KERNELS, WIDTHS)), disable=None):
        times = {blocks: seconds(kernel, width, blocks) for blocks in CANDIDATES}
        best[kernel, width] = min(times, key=times.__getitem__)
    return best


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
    gpu = "{}.{}".format(*torch.cuda.get_device_capability())
    best = fastest(measured)
    FILE.write_text(with_rows(FILE.read_text(encoding="utf-8"), gpu, best), encoding="utf-8")
    print(f"the rows of {gpu} are in {FILE}; write there what you measured, and commit it")


if __name__ == "__main__":
    main()
