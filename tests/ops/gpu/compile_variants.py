"""Compile Triton kernels for GPUs that are not there, and print what each needs of a multiprocessor.

`python -m tests.ops.gpu.compile_variants [MODULE ...]`: the variants of these modules of mmsec.ops.kernels.gpu, or of
all. A process of its own, because kernels that were imported for the interpreter do not compile.
"""

import argparse
import importlib
import json
import os
import pkgutil
import re
import subprocess
import tempfile
from concurrent.futures import ProcessPoolExecutor
from types import ModuleType
from typing import Any

os.environ.pop('TRITON_INTERPRET', None)

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mmsec.ops.kernels import gpu
from mmsec.ops.kernels.gpu.launch import Variant

ARCHITECTURES = (80, 90)
USAGE = re.compile(r'REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)')
SPILL = re.compile(r'\b(?:STL|LDL)\b')  # stores to and loads from local memory
TENSOR_CORES = re.compile(r'\b(?:HMMA|HGMMA)\b')
HALF_PRODUCT = re.compile(r'tt\.dot .*x(?:bf16|f16)> \*')


def modules(names: list[str]) -> list[ModuleType]:
    """Those of these names, or all that have variants."""
    names = names or [f'{gpu.__name__}.{module.name}' for module in pkgutil.iter_modules(gpu.__path__)]
    return [module for module in map(importlib.import_module, names) if hasattr(module, 'variants')]


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
    unknown = (variant.types | variant.constants).keys() - types.keys()
    if unknown:
        raise ValueError(f'{variant.kernel.fn.__name__} has no arguments {sorted(unknown)}')
    return ASTSource(variant.kernel, types, constants, multiples)


def examine(binary: bytes, option: str) -> str:
    """What Triton's copy of cuobjdump says of a binary."""
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(binary)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, option, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def compiled(module: str, place: int, architecture: int) -> dict[str, Any]:
    """What a variant needs: 'registers', 'stack' and 'local' in bytes of a thread, 'shared' in bytes of a block.

    'spills' are instructions on local memory, looked for where there is a stack; 'half_products' says whether matrices
    are multiplied in half precision, 'tensor_cores' whether tensor cores do it; 'seconds' are of processor time.
    'error' in place of these if it fails.
    """
    variant = importlib.import_module(module).variants()[place]
    said = dict(
        module=module.rpartition('.')[2],
        kernel=variant.kernel.fn.__name__,
        types=variant.types,
        constants={name: str(value) for name, value in variant.constants.items()},
        warps=variant.warps,
        architecture=architecture,
    )
    start = sum(os.times()[:4])
    options = {'num_warps': variant.warps, 'num_stages': variant.stages}
    try:
        kernel = triton.compile(source(variant), target=GPUTarget('cuda', architecture, 32), options=options)
    except Exception as error:  # of whatever kind, with the others' results
        return said | dict(error=f'{type(error).__name__}: {error}'[-1000:])
    seconds = sum(os.times()[:4]) - start  # with ptxas
    usage = USAGE.search(examine(kernel.asm['cubin'], '--dump-resource-usage'))
    assert usage is not None
    registers, stack, local = map(int, usage.groups())
    half_products = bool(HALF_PRODUCT.search(kernel.asm['ttir']))
    code = examine(kernel.asm['cubin'], '--dump-sass') if half_products or stack else ''  # which takes a while
    return said | dict(
        registers=registers,
        stack=stack,
        local=local,
        spills=len(SPILL.findall(code)),
        shared=kernel.metadata.shared,
        half_products=half_products,
        tensor_cores=bool(TENSOR_CORES.search(code)),
        seconds=round(seconds, 2),
    )


def main() -> None:
    """Print a list of what each variant needs on each architecture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('modules', nargs='*', metavar='MODULE')
    parser.add_argument('--processes', type=int, default=2)
    args = parser.parse_args()
    tasks = [
        (module.__name__, place, architecture)
        for module in modules(args.modules)
        for place in range(len(module.variants()))
        for architecture in ARCHITECTURES
    ]
    with ProcessPoolExecutor(args.processes) as pool:
        print(json.dumps(list(pool.map(compiled, *zip(*tasks, strict=True))) if tasks else []))


if __name__ == '__main__':
    main()
