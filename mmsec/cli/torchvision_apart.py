"""Import torchvision where it was built for another torch than this one, as on a machine without a GPU.

PyPI has one build of it, for CUDA. Beside a CPU build of torch it cannot load its operators, and what describes them to
torch fails. With their schemas defined by hand the rest of it works, and mmpretrain needs no more. In an environment,
such a torchvision would break mmdet and MMEngine, too, which import it where they find it. So tools/setup_env.sh
installs it into a folder of its own, from which this module imports it. It does nothing where torchvision works.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import torch

APART = Path(sys.prefix, 'torchvision')

if find_spec('torchvision') is None and APART.is_dir():
    sys.path.append(str(APART))
    try:
        import torchvision
    except RuntimeError:
        for name in [each for each in sys.modules if each.split('.')[0] == 'torchvision']:
            del sys.modules[name]
        SCHEMAS = torch.library.Library('torchvision', 'DEF')  # gone when nothing holds it
        for name in ('nms', 'qnms'):
            SCHEMAS.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        import torchvision  # noqa: F401
    # A process that is spawned takes over the path and not the schemas: it shall find no torchvision at all.
    sys.path.remove(str(APART))
