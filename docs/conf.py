"""How Sphinx makes a site of README, docs/, CONTRIBUTING, CHANGELOG and the docstrings: make docs."""

import importlib
from pathlib import Path

from docutils.nodes import Element
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from mmsec.version import __version__

project = 'mmsec'
author = 'The mmsec developers'
project_copyright = author
release = version = __version__

# The source folder is the repository's root, so that links between pages are what they are on GitHub.
root_doc = 'docs/index'
include_patterns = ['*.md', 'configs/**.md', 'projects/**.md', 'docs/**']
exclude_patterns = ['.*', 'data', 'work_dirs', 'checkpoints', 'docs/_build', 'docs/_templates']
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.autosummary', 'sphinx.ext.napoleon']
templates_path = [str(Path(__file__).with_name('_templates'))]
myst_heading_anchors = 3

autodoc_inherit_docstrings = False  # of torch
autodoc_member_order = 'bysource'
autodoc_typehints_format = 'short'
autosummary_ignore_module_all = True  # a name stands on the page of the file that defines it
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # the fields of a NamedTuple are described once

html_theme = 'furo'
html_title = f'mmsec {release}'
html_extra_path = ['index.html']  # the root of the site leads to the first page
html_copy_source = False

# A docstring that names what mmsec does not have is an error. Other packages have pages of their own.
nitpicky = True
nitpick_ignore_regex = [('py:.*', r'(?!mmsec\.).*')]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect('missing-reference', resolve)
    app.connect('autodoc-skip-member', skip)


def skip(app: Sphinx, what: str, name: str, member: object, skipped: bool, options: object) -> bool | None:
    """Leave out the fields of a NamedTuple, which its docstring describes."""
    return True if type(member).__name__ == '_tuplegetter' else None


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: Element) -> Element | None:
    """Link a name that a package re-exports to the file that defines it, and a constant to its module."""
    module, _, name = node['reftarget'].rpartition('.')
    if not module.startswith('mmsec'):
        return None
    try:
        value = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return None
    home = f'{getattr(value, "__module__", module)}.{getattr(value, "__qualname__", name)}'
    python = env.get_domain('py')
    for kind, target in (('obj', home), ('mod', module)):
        found = python.resolve_xref(env, node.get('refdoc', root_doc), app.builder, kind, target, node, contnode)
        if found is not None:
            return found
    return None
