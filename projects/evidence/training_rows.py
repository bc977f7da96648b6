"""A training whose figures are kept, and the JSON file that keeps them: a row for each."""

import hashlib
import importlib
import json
import math
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, DefaultScope
from torch import Tensor, nn

import mmsec
from mmsec.cli.flops import count_kinds
from mmsec.cli.machine import machine
from mmsec.cli.schedule import train_iterations
from mmsec.engine.files import to_json, write_whole
from mmsec.errors import InputError


class Trained(NamedTuple):
    """A run that is trained, for what is measured of it."""

    config: Path
    checkpoint: str
    folder: Path
    call: Callable[[list[object]], int]


COUNTED = 200  # images that multiply-adds are the mean of, at most
Measurement = Callable[[Trained], dict]  # what it returns goes into the row


@dataclass(frozen=True)
class Run:
    """A training, and what is measured right behind it, while its checkpoint is there."""

    name: str
    seed: int
    cfg: Config
    count: Callable[[Config], dict]
    measurements: Sequence[Measurement] = ()

    @property
    def title(self) -> str:
        """Name and seed."""
        return f'{self.name}, seed {self.seed}'

    @property
    def sha(self) -> str:
        """Of what the config holds, however it is laid out."""
        return hashlib.sha256(json.dumps(self.cfg.to_dict(), sort_keys=True, default=str).encode()).hexdigest()[:16]


class Rows:
    """What runs have given, by name and seed, in a file that is written whole after each of them."""

    def __init__(self, path: Path, work_dir: Path) -> None:
        self.path, self.work_dir = path, work_dir
        self.runs = self.read()

    def read(self) -> dict[str, dict[str, dict]]:
        """What the file has, by name and seed; nothing where it is not there yet."""
        try:
            return json.loads(self.path.read_text())['runs'] if self.path.is_file() else {}
        except json.JSONDecodeError as error:
            raise InputError(f"'{self.path}' is not JSON: {error}; repair it, or name another --out") from error

    def row(self, run: Run) -> dict | None:
        """The row of a run."""
        return self.runs.get(run.name, {}).get(str(run.seed))

    def has(self, run: Run) -> bool:
        """Whether a run is finished."""
        row = self.row(run)
        if row is None or 'failed' in row:
            return False
        if row.get('sha') != run.sha:
            raise InputError(
                f"'{self.path}' has '{run.title}' of another config; name another --out, or delete this row to run "
                'it again'
            )
        return True

    def add(self, run: Run, row: dict) -> None:
        """Keep the row of a run, beside those that another process has written since."""
        self.runs = self.read()
        self.runs.setdefault(run.name, {})[str(run.seed)] = row
        write_json(self.path, self.content())

    def content(self) -> dict:
        """What is written."""
        return {'runs': self.runs}

    def folder(self, run: Run) -> Path:
        """The work dir of a run."""
        return self.work_dir / re.sub(r'[^\w.,=-]+', '_', run.name) / f'seed{run.seed}'

    def check_folder(self, run: Run) -> None:
        """Check that the work dir of a run is its own."""
        folder = self.folder(run)
        config = folder.with_suffix('.py')
        if config.is_file() and config.read_text().splitlines()[0] != f'# {run.sha}':
            raise InputError(f"'{folder}' holds a run of another config; name another --work-dir, or delete it")

    def make_folder(self, run: Run) -> None:
        """Make the work dir of a run, and its config beside it: inside, MMEngine writes what it has made of it."""
        folder = self.folder(run)
        write_whole(folder.with_suffix('.py'), f'# {run.sha}\n{run.cfg.pretty_text}'.encode())
        folder.mkdir(exist_ok=True)


def write_json(path: Path, content: dict) -> None:
    """Write figures that people read, too: lists of numbers stand on one line."""
    text = to_json(content, 1)
    text = re.sub(r'\[[^][{}"]+\]', lambda found: ' '.join(found[0].split()), text)
    write_whole(path, (text + '\n').encode())


def images_by_size(cfg: Config) -> list[tuple[Tensor, int]]:
    """An image of each size among the test data, and how many of them have it."""
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    found: dict[tuple[int, ...], Tensor] = {}
    sizes: Counter[tuple[int, ...]] = Counter()
    for index in range(0, len(dataset), math.ceil(len(dataset) / COUNTED)):
        image = dataset[index]['inputs'][None].float()
        sizes[image.shape] += 1
        found.setdefault(image.shape, image)
    return [(found[size], number) for size, number in sizes.most_common()]


def mean_multiply_adds(images: Sequence[tuple[Tensor, int]], model: nn.Module, call: Callable[[Tensor], object]) -> int:
    """Multiply-adds of a model for an image, the mean over images of these sizes."""
    adds = [sum(count_kinds(model, partial(call, image))[''].values()) * number for image, number in images]
    return round(sum(adds) / sum(number for _, number in images))


def cost(cfg: Config) -> dict:
    """Parameters of a model, and multiply-adds for an image of its test data, the mean over them."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        images = images_by_size(cfg)
        model = MODELS.build(cfg.model).eval()
    return {
        'parameters': sum(each.numel() for each in model.parameters()),
        'backbone_parameters': sum(each.numel() for each in model.backbone.parameters()),
        'multiply_adds': mean_multiply_adds(images, model.backbone, model.backbone),
        'multiply_adds_with_neck': mean_multiply_adds(images, model, model.extract_feat),
        'images': {'x'.join(map(str, image.shape[2:])): number for image, number in images},
    }


def origin(cfg: Config, threads: int) -> dict:
    """How long a run trains, and where its figures come from."""
    packages = ('mmengine', 'mmcv', cfg.default_scope)
    versions = {name: importlib.import_module(name).__version__ for name in packages}
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        steps = train_iterations(cfg)
    ours = {'threads': threads, 'iterations': steps, 'git': revision(), 'mmsec': mmsec.__version__}
    return machine() | ours | versions


def revision() -> str:
    """The commit that this checkout is at, wherever the tool is called."""
    command = ['git', '-C', str(Path(__file__).parent), 'rev-parse', '--short=12', 'HEAD']
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        return 'unknown'
