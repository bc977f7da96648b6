import importlib
import sys

import pytest

from tests.conftest import ROOT

TOOLS = sorted(path.relative_to(ROOT / 'tools') for path in (ROOT / 'tools').rglob('*.py'))


@pytest.mark.parametrize('tool', [path for path in TOOLS if 'def main' in (ROOT / 'tools' / path).read_text()], ids=str)
def test_every_tool_says_how_it_is_used(tool, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str((ROOT / 'tools' / tool).parent))
    module = importlib.import_module('.'.join(['tools', *tool.with_suffix('').parts]))
    monkeypatch.setattr(sys, 'argv', [tool.name, '--help'])
    with pytest.raises(SystemExit) as leaving:
        module.main()
    assert leaving.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f'usage: {tool.name} ')
    assert module.__doc__.splitlines()[0].split()[0] in shown
