"""``python -m mmsec train CONFIG ...`` runs tools/train.py from any folder."""

import re
import runpy
import sys
from pathlib import Path

from mmsec.cli.installation import files, find_config
from mmsec.engine.processes import run
from mmsec.errors import InputError

COMMANDS = {
    'train': 'train.py',
    'test': 'test.py',
    'infer': 'infer.py',
    'check': 'check_data.py',
    'visualize': 'analysis_tools/visualize_clusters.py',
    'explore': 'explore.py',
}


def copy(name: str, out: str) -> None:
    """Write a config to a file whose bases are the installed ones."""
    path = Path(find_config(name)).resolve()
    if Path(out).exists():
        raise InputError(f"'{out}' is there already; name another file")
    bases = re.compile(r"'(\.{1,2}/[^']+\.py)'")
    Path(out).write_text(bases.sub(lambda found: repr(str((path.parent / found[1]).resolve())), path.read_text()))


def main() -> None:
    """Run the tool of a command with the arguments behind it."""
    command, *arguments = sys.argv[1:] or ['--help']
    if command == 'copy' and len(arguments) == 2:
        run(lambda: copy(*arguments))
        return
    if command not in COMMANDS:
        if command not in ('-h', '--help', 'copy'):
            print(f"error: no command '{command}'", file=sys.stderr)
        print(f'usage: python -m mmsec {"|".join(COMMANDS)} ...')
        print('       python -m mmsec copy CONFIG FILE.py   a config to edit, based on the installed ones')
        print('Each has --help; docs/get_started.md says more. CONFIG is a path, or a name like secvit_t_maskrcnn.')
        sys.exit(0 if command in ('-h', '--help') else 2)
    tool = files('tools') / COMMANDS[command]
    sys.argv = [str(tool), *arguments]
    sys.path[0] = str(tool.parent)  # as python does for a script
    runpy.run_path(str(tool), run_name='__main__')


if __name__ == '__main__':
    main()
