"""Metadata lives in pyproject.toml; this file puts configs and tools into the wheel, as OpenMMLab's hosts do."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """A build with ``mmsec/.mim``, where mim and ``python -m mmsec`` look for configs and tools."""

    def run(self) -> None:
        """Copy the modules, then configs, tools and the model index."""
        super().run()
        if self.editable_mode:  # a checkout has them beside the package
            return
        mim = Path(self.build_lib) / 'mmsec/.mim'
        shutil.rmtree(mim, ignore_errors=True)
        for folder in ('configs', 'tools'):
            shutil.copytree(folder, mim / folder, ignore=shutil.ignore_patterns('__pycache__'))
        shutil.copy('model-index.yml', mim)
        for link in (mim / 'configs').glob('mm*/*.py'):  # to a file of the same name one folder down
            link.unlink()  # mim refuses a name that it meets twice


# Here and not in pyproject.toml, because setuptools below 77 knows another form of it there.
setup(license='Apache-2.0', cmdclass={'build_py': BuildWithConfigs})
