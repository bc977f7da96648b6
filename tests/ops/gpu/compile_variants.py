"""Compile the Triton kernels of modules for GPUs that are not there, and print what is wrong with them as JSON.

`python -m tests.ops.gpu.compile_variants MODULE... [--all]`: on an H100 a variant for each way through the code of a
kernel; `--all` for every tile that may be chosen, and on an A100, too. It is a process of its own, because kernels that
were imported for the interpreter do not compile.
"""

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile

os.environ.pop('TRITON_INTERPRET', None)

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mmsec.ops.kernels.gpu.launch import Variant

SHARED = {90: 227 << 10, 80: 163 << 10}  # bytes that a block may have on an architecture
STACK = 32  # bytes of a thread: a few values that are indexed, not registers that were spilled
USAGE = re.compile(r'STACK:(\d+) SHARED:\d+ LOCAL:(\d+)')
HALF_PRODUCT = re.compile(r'tt\.dot .*x(?:bf16|f16)> \*')
TENSOR_CORES = re.compile(r'\b(?:HMMA|HGMMA)\b')


def way(variant: Variant) -> tuple:
    """What decides the way through the code: the kernel and its constants that are no sizes."""
    return variant.kernel.fn, *((name, c) for name, c in variant.constants.items() if type(c) is not int)


def source(variant: Variant) -> ASTSource:
    """A variant as Triton would specialise it: pointers and sizes that may be specialised are multiples of 16."""
    types, constants, multiples = {}, {}, {}
    for place, parameter in enumerate(variant.kernel.params):
        name = parameter.name
        if name in variant.constants:
            types[name] = 'constexpr'
            constants[place,] = variant.constants[name]
            continue
        types[name] = variant.types[name]
        fixed = parameter.do_not_specialize or parameter.do_not_specialize_on_alignment
        if types[name].startswith(('*', 'i')) and not fixed:
            multiples[place,] = [['tt.divisibility', 16]]
    assert not (variant.types | variant.constants).keys() - types.keys(), 'arguments that the kernel does not have'
    return ASTSource(variant.kernel, types, constants, multiples)


def examine(binary: bytes, option: str) -> str:
    """What Triton's copy of cuobjdump says of a binary."""
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(binary)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, option, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def complaint(variant: Variant, architecture: int) -> str | None:
    """What is wrong with a compiled kernel, or None."""
    options = {'num_warps': variant.warps, 'num_stages': variant.stages}
    try:
        kernel = triton.compile(source(variant), target=GPUTarget('cuda', architecture, 32), options=options)
    except Exception as error:  # of whatever kind, with the others' results
        return f'{type(error).__name__}: {error}'[-1000:]
    usage = USAGE.search(examine(kernel.asm['cubin'], '--dump-resource-usage'))
    assert usage is not None
    stack, local = map(int, usage.groups())
    if local or stack > STACK:
        return f'spills registers: {stack} bytes of stack'
    if kernel.metadata.shared > SHARED[architecture]:
        return f'needs {kernel.metadata.shared} bytes of shared memory'
    if HALF_PRODUCT.search(kernel.asm['ttir']) and not TENSOR_CORES.search(examine(kernel.asm['cubin'], '--dump-sass')):
        return 'multiplies matrices without tensor cores'
    return None


def main(modules: list[str], all_of_them: bool) -> None:
    """Print a list with a line for each variant that is wrong."""
    variants = [each for module in modules for each in importlib.import_module(module).variants()]
    if not all_of_them:
        variants = list({way(each): each for each in reversed(variants)}.values())  # of each, the first
    architectures = list(SHARED)[: None if all_of_them else 1]
    wrong = [
        f'{each.kernel.fn.__name__} sm_{architecture} {each.types} {each.constants} {each.warps} warps: {said}'
        for each in variants
        for architecture in architectures
        if (said := complaint(each, architecture))
    ]
    print(json.dumps(wrong))


if __name__ == '__main__':
    main([each for each in sys.argv[1:] if each != '--all'], '--all' in sys.argv)
