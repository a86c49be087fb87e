"""Compile flash attention for GPUs that are not here, and print what the compiler made of it.

    python scripts/compile_kernels.py
    python scripts/compile_kernels.py --gpu 9.0 --width 64
    python scripts/compile_kernels.py --gpu 10.0    # the rows that a GPU without own rows uses

Triton contains NVIDIA's assembler, so the script needs no GPU and no driver. It compiles each row
of the table in `kernels/flash_blocks.py`, and prints the table of docs/kernels.md. It ends with
exit code 1 if a row breaks a limit: shared memory above that of the GPU; and for 16-bit numbers,
more than 64 bytes of stack up to heads of 128, no tensor cores, or no asynchronous copies in a
pipeline; and for fp32, TF32. It measures no time: only a GPU can.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from tqdm import tqdm

try:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
except ModuleNotFoundError:
    raise SystemExit(
        "the script needs triton (not installed); run pip install 'scratchlm[gpu]' on Linux x86-64"
    ) from None

from scratchlm.kernels import flash_kernels as kernels
from scratchlm.kernels.flash_blocks import FP32, TABLE, Blocks, Kernel, blocks_of

# KB of shared memory that a program can have
SHARED = {"8.0": 163, "8.6": 99, "8.9": 99, "9.0": 227, "10.0": 227, "12.0": 99}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
STACK = 64  # bytes
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
POINTERS = {"first": "*i32", "until": "*i32", "log_sums": "*fp32", "deltas": "*fp32"}
MULTIPLE_OF_16 = [["tt.divisibility", 16]]


Keys = Literal["causal", "window, first", "all keys"]


class Job(NamedTuple):
    """`keys` is what a query attends to. With "window, first", the kernel is causal too."""

    gpu: str
    kernel: Kernel
    width: int
    dtype: str
    keys: Keys

    @property
    def blocks(self) -> Blocks:
        major, minor = map(int, self.gpu.split("."))
        return blocks_of(self.kernel, self.width, DTYPES[self.dtype], (major, minor))


class Compiled(NamedTuple):
    """A thread's registers and its bytes of stack, which contain spilled registers; a program's
    bytes of shared memory; and numbers of instructions."""

    registers: int
    stack: int
    shared: int
    tensor_cores: int
    copies: int
    tf32: bool

    def broken_limits(self, job: Job) -> list[str]:
        found = []
        if self.shared > SHARED[job.gpu] * 1024:
            found.append(f"shared memory is above {SHARED[job.gpu]} KB")
        if job.dtype == "fp32":
            return [*found, "TF32"] if self.tf32 else found
        if job.width <= 128 and self.stack > STACK:
            found.append(f"stack is above {STACK} bytes")
        if not self.tensor_cores:
            found.append("no tensor cores")
        if not self.copies and job.blocks.stages > 1:
            found.append("no asynchronous copies")
        return found


def jobs(others: Sequence[str] = ()) -> Iterator[Job]:
    """Yield the rows of the page, and those of `others`: GPUs that the table does not list."""
    rows = [*TABLE, *((gpu, kernel, width) for gpu in others for kernel, width in FP32)]
    for gpu, kernel, width in rows:
        for dtype in ("bf16", "fp16"):
            yield Job(gpu, kernel, width, dtype, "causal")
            yield Job(gpu, kernel, width, dtype, "window, first")
    for kernel, width in FP32:
        yield from (Job(gpu, kernel, width, "fp32", "causal") for gpu in ("8.0", "9.0"))


def source(job: Job) -> ASTSource:
    """Return the kernel with the types of a launch: aligned tensors, and sizes that may change."""
    function = getattr(kernels, job.kernel)
    types: dict[str, Any] = {}
    aligned: dict[tuple[int, ...], Any] = {}
    constants: dict[str, Any] = {"D": job.width, "DV": job.width, "CAUSAL": job.keys != "all keys"}
    constants |= {"M": job.blocks.queries, "N": job.blocks.keys}
    if job.keys != "window, first":
        constants |= dict.fromkeys(("window", "first", "until"))
    constants = {name: value for name, value in constants.items() if name in function.arg_names}
    for place, name in enumerate(function.arg_names):
        if name in constants:
            types[name] = "constexpr"
        elif name in POINTERS:
            types[name] = POINTERS[name]
            aligned[place,] = MULTIPLE_OF_16
        elif name == "sizes":
            types[name] = kernels.Sizes("i32", "i32", "i32", "i32")
        elif name in ("window", "scale"):
            types[name] = "i32" if name == "window" else "fp32"
        else:
            types[name] = kernels.Heads(f"*{job.dtype}", "i32", "i32", "i32")
            aligned.update({(place, part): MULTIPLE_OF_16 for part in range(4)})
    return ASTSource(function, types, constants, aligned)


def compiled(job: Job) -> Compiled:
    built = triton.compile(
        source(job),
        target=GPUTarget("cuda", int(job.gpu.replace(".", "")), 32),
        options={
            "num_warps": job.blocks.warps,
            "num_stages": job.blocks.stages,
            "enable_fp_fusion": True,
        },
    )
    ptx, cubin = built.asm["ptx"], built.asm["cubin"]
    usage = re.search(r"REG:(\d+) STACK:(\d+)", printed("-res-usage", cubin))
    assert usage is not None
    assembly = printed("-sass", cubin)
    return Compiled(
        int(usage[1]),
        int(usage[2]),
        built.metadata.shared,
        len(re.findall(r"\b(?:HG?MMA\.\d|UTCHMMA)", assembly)),
        len(re.findall(r"cp\.async\.c[ga]", ptx)),
        ".tf32" in ptx,
    )


def printed(flag: str, cubin: bytes) -> str:
    """Return what NVIDIA's cuobjdump prints about a compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(TOOLS / "cuobjdump"), flag, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gpu", choices=SHARED, help="only this compute capability")
    parser.add_argument("--width", type=int, choices=(64, 128, 256), help="only this head size")
    parser.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), help="only this dtype")
    args = parser.parse_args()
    listed = {gpu for gpu, _, _ in TABLE}
    chosen = [
        job
        for job in jobs([args.gpu] if args.gpu and args.gpu not in listed else [])
        if args.gpu in (None, job.gpu)
        and args.width in (None, job.width)
        and args.dtype in (None, job.dtype)
    ]
    print("| kernel | GPU | head | dtype | intervals | queries × keys | warps | stages | "
          "registers | stack, bytes | shared, KB | tensor cores | copies |\n"
          "|---|---|---:|---|---|---|---:|---:|---:|---:|---:|---:|---:|")  # fmt: skip
    broken = []
    for job in tqdm(chosen, disable=None):
        found, blocks = compiled(job), job.blocks
        print(
            f"| {job.kernel} | {job.gpu} | {job.width} | {job.dtype} | "
            f"{job.keys} | {blocks.queries} × {blocks.keys} | {blocks.warps} | {blocks.stages} | "
            f"{found.registers} | {found.stack} | {found.shared / 1024:.0f} | "
            f"{found.tensor_cores} | {found.copies} |",
            flush=True,
        )
        broken += [f"{job}: {limit}" for limit in found.broken_limits(job)]
    if broken:
        raise SystemExit("\n".join(broken))


if __name__ == "__main__":
    main()
