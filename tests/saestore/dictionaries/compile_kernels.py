"""Compile every kernel for real devices, without one: `python compile_kernels.py fp32 bf16`.

Prints a line for each: its name, what it was compiled for, and how many bytes of stack it spills.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from saestore.dictionaries.backends import triton_backend as backend, triton_kernels as kernels


NUMBERS = {"values", "vectors", "rows", "scores", "limits", "out"}
COUNTS = {"width", "stride", "n_bags", "count"}
KERNELS = [
    each
    for name, each in vars(kernels).items()
    if isinstance(each, triton.JITFunction) and not name.startswith("_")
]
CASES = {
    "fp32": (torch.float32, 80),
    "bf16": (torch.bfloat16, 90),
    "fp16": (torch.float16, 80),
    "fp64": (torch.float64, 90),
}
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


def compiled(kernel, short, dtype, capability):
    how = backend.sizes(768, torch.empty(0, dtype=dtype))
    how |= {
        "PIECE": backend.PIECE,
        "LINES": backend.LINES,
        "WIDE": backend.LINE if "above" in kernel.__name__ else how["WIDE"],
    }
    if kernel.__name__ == "maxima":
        how |= {"WIDE": 32, "TILE": backend.MAXIMA // 32}
    kinds, chosen = {}, {}
    for each in kernel.params:
        if each.is_constexpr:
            kinds[each.name], chosen[each.name] = "constexpr", how[each.name]
        elif each.name in NUMBERS:
            kinds[each.name] = f"*{short}"
        elif each.name == "parts":
            kinds[each.name] = "*fp64" if short == "fp64" else "*fp32"
        else:
            kinds[each.name] = "i32" if each.name in COUNTS else "*i64"
    source = ASTSource(fn=kernel, signature=kinds, constexprs=chosen)
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options=backend.OPTIONS).asm["cubin"]


def stack(code):
    """Return the bytes of stack that machine code uses: registers that did not suffice."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        said = subprocess.run(
            [CUOBJDUMP, "-res-usage", file.name], check=True, capture_output=True, text=True
        ).stdout
    return said.split("STACK:")[1].split()[0]


for kernel in KERNELS:
    for short in sys.argv[1:]:
        dtype, capability = CASES[short]
        spilled = stack(compiled(kernel, short, dtype, capability))
        sys.stdout.write(f"{kernel.__name__} {short} sm_{capability} {spilled}\n")
