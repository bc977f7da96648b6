"""Imports point one way: ops <- models <- datasets, visualization, evaluation, engine <- cli <- tools."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import ROOT

# To each room what it may import. All but ops may also import the modules at the root (registry, errors).
ROOMS = {
    '__init__.py': {'models', 'datasets', 'visualization'},  # each when it is first used
    'ops': {'compat'},
    'models': {'ops'},
    'datasets': {'ops', 'models'},
    'evaluation': {'ops', 'models', 'datasets'},
    'visualization': {'ops', 'models', 'datasets', 'evaluation'},
    'engine': {'ops', 'models', 'datasets', 'visualization', 'evaluation'},
    'export': {'ops', 'models'},
    '__main__.py': {'engine', 'cli'},
    'cli': {'ops', 'models', 'datasets', 'visualization', 'evaluation', 'engine', 'export'},
}
OF_INNER_ROOMS = {'kernels': 'triton', 'merging': 'scipy'}  # of ops, beside torch
OF_DEVICES = re.compile(r'is_compiling|onednn|mkldnn|cuda|device\.type|ops\.kernels|hooked|overwrit', re.IGNORECASE)


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, anywhere in it; of ``from a import b`` both ``a`` and ``a.b``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            name = '.' * node.level + (node.module or '')
            yield name
            yield from (f'{name}.{alias.name}' for alias in node.names)


def wrong_imports(package: Path) -> list[str]:
    """A line for each import that points the wrong way."""
    modules = {path.stem for path in package.glob('*.py')}
    wrong = []
    for path in sorted(package.rglob('*.py')):
        room = path.relative_to(package).parts[0]
        allowed = ROOMS.get(room, set()) | {room} | (set() if room == 'ops' else modules)
        for name in imports(path):
            first, *rest = name.split('.')
            if first == package.name and rest:
                right = rest[0] in allowed
            elif room == 'ops':
                ours = (package.name, 'torch', *(of for inner, of in OF_INNER_ROOMS.items() if inner in path.parts))
                right = first in sys.stdlib_module_names or first in ours
            else:
                right = first not in ('', 'tools', 'tests')  # the first for relative imports
            if not right:
                wrong.append(f'{path.relative_to(package.parent)} imports {name}')
    return wrong


def test_imports_point_one_way():
    rooms = {path.parent.name for path in (ROOT / 'mmsec').glob('*/__init__.py')}
    assert rooms <= ROOMS.keys(), 'a room of mmsec that the table in this file does not know; say what it may import'
    assert wrong_imports(ROOT / 'mmsec') == []


def circles(package: Path) -> list[str]:
    """Rooms, inner rooms and modules beside them that import each other, directly or through others."""

    def node(name: str) -> str:
        """The innermost folder that a dotted name lies in; the module itself where folders stand beside it."""
        parts = name.split('.')
        while not (path := package.parent.joinpath(*parts)).is_dir():
            if path.with_suffix('.py').exists() and [*path.parent.glob('*/__init__.py')]:
                break
            parts.pop()
        return '.'.join(parts)

    graph: dict[str, set[str]] = {}
    for path in package.rglob('*.py'):
        own = node('.'.join(path.relative_to(package.parent).with_suffix('').parts))
        if path.name != '__init__.py':  # which imports what its room offers
            found = {node(name) for name in imports(path) if name.startswith(f'{package.name}.')}
            graph.setdefault(own, set()).update(each for each in found if not f'{own}.'.startswith(f'{each}.'))
    while free := [each for each, needed in graph.items() if not needed & graph.keys()]:
        for each in free:
            del graph[each]
    return sorted(graph)


def test_no_circle_also_inside_a_room():
    assert circles(ROOT / 'mmsec') == []


def test_tools_do_not_import_tests():
    assert not [f'{path} imports {name}' for path in (ROOT / 'tools').rglob('*.py') for name in imports(path)
                if name.split('.')[0] == 'tests']  # fmt: skip


def test_models_have_no_word_of_devices_and_compilers():
    said = [
        f'{path.relative_to(ROOT)}:{number}: {line.strip()}'
        for path in sorted((ROOT / 'mmsec/models').rglob('*.py'))
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if OF_DEVICES.search(line)
    ]
    assert said == [], 'what is faster where stands in mmsec/ops/kernels'


def run(code: str, *absent: str) -> str:
    """What a new Python prints in which some modules cannot be imported."""
    code = f'import sys\nsys.modules.update(dict.fromkeys({absent}))\n{code}'
    result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_importing_mmsec_imports_no_host():
    assert run("import mmsec\nprint({'mmdet', 'mmseg', 'mmpretrain', 'mmcv'} & {*sys.modules})") == 'set()\n'


def test_no_part_of_mmsec_needs_a_host_or_onnx_to_be_imported():
    code = """
import importlib, pkgutil, mmsec
for module in pkgutil.walk_packages(mmsec.__path__, 'mmsec.'):
    importlib.import_module(module.name)
print(sorted(name for name in sys.modules if name.startswith('mmsec.'))[-1])
"""
    absent = ('mmdet', 'mmseg', 'mmpretrain', 'onnx', 'onnxscript', 'onnxruntime', 'onnx_ir')
    assert run(code, *absent).startswith('mmsec.visualization')


def test_a_backbone_needs_torch_mmengine_and_the_pure_python_part_of_mmcv():
    code = """
import torch
from mmsec.registry import MODELS
print(len(MODELS.build(dict(type='mmsec.SecViT', arch='tiny')).eval()(torch.zeros(1, 3, 32, 32))))
"""
    absent = ('mmdet', 'mmseg', 'mmpretrain', 'mmcv._ext', 'torchvision', 'timm', 'einops', 'pycocotools', 'scipy')
    assert run(code, *absent) == '4\n'


def test_what_torch_2_1_lacks_is_asked_for_in_one_module():
    """Names of newer versions, and what may use them because it says beforehand which version it needs."""
    newer = r'custom_op\(|register_flop|is_(?:exporting|compiling)\(|get_autocast_dtype|nn\.attention|torch\.export'
    says_so = {'compat.py', 'export/onnx.py'}
    for path in sorted((ROOT / 'mmsec').rglob('*.py')):
        if str(path.relative_to(ROOT / 'mmsec')) not in says_so:
            code = re.sub(r'"""[\s\S]*?"""|#.*', '', path.read_text())
            assert re.findall(rf'(?<!compat\.)(?:torch\.[\w.]*)?(?:{newer})', code) == [], path
