"""Where the files of this installation are, and what is wrong with the packages around it."""

import sys
from difflib import get_close_matches
from importlib.metadata import packages_distributions
from pathlib import Path

from mmsec.errors import InputError

_PACKAGE = Path(__file__).resolve().parents[1]


def files(folder: str) -> Path:
    """The folder 'configs' or 'tools': in ``mmsec/.mim`` of a wheel, beside the package in a checkout."""
    return next(path for root in (_PACKAGE / '.mim', _PACKAGE.parent) if (path := root / folder).is_dir())


def find_config(name: str) -> str:
    """The path of a config: a path that exists, or the name of a config of mmsec such as 'secvit_t_maskrcnn'.

    Raises:
        InputError: If there is no such file and no config of that name.
    """
    if Path(name).is_file():
        return name
    stem = Path(name).name.removesuffix('.py')
    shipped = [path for path in files('configs').rglob('*.py') if '_base_' not in path.parts]
    found = [path for path in shipped if path.stem == stem]
    if not found or name not in (stem, f'{stem}.py'):
        near = get_close_matches(stem, sorted({path.stem for path in shipped}), n=1, cutoff=0.85)
        raise InputError(f"config '{name}' not found" + (f". Did you mean '{near[0]}'?" if near else ''))
    # A name has a file in the folder of its family, and some have a link one folder up.
    return str(max(found, key=lambda path: len(path.parts)))


def check_installation() -> None:
    """Refuse two OpenMMLabs in one environment, and a checkout beside another mmsec.

    Raises:
        InputError: With what to do, for each of them.
    """
    packages = packages_distributions()
    for package in ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain'):
        distributions = sorted(set(packages.get(package, ())))
        if len(distributions) > 1:
            raise InputError(
                f'{package} is installed twice, by {" and ".join(distributions)}, whose files overwrite each other. '
                f'Uninstall both, then install one set (docs/installation.md): pip uninstall {" ".join(distributions)}'
            )
    script = Path(getattr(sys.modules['__main__'], '__file__', None) or '/').resolve()
    for checkout in (folder.parent for folder in script.parents if folder.name == 'tools'):
        if (checkout / 'mmsec/version.py').is_file() and checkout / 'mmsec' != _PACKAGE:
            raise InputError(
                f"{script} is of the checkout '{checkout}', and python imports mmsec from '{_PACKAGE}'. Install the "
                f"checkout (pip install --no-deps -e '{checkout}'), or call python -m mmsec"
            )
