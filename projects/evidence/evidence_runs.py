"""The runs that docs/evidence.md is made of, section by section, and what is measured of each."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch
from compare_groupings import Comparison, ami_with_classes, runs_of
from mmengine.config import Config
from mmengine.model import initialize
from mmengine.registry import MODELS, DefaultScope
from training_rows import Rows, Run, Trained, cost
from training_runs import ROOT, TOOLS

from mmsec.cli.config import load_config
from mmsec.cli.data import check_data
from mmsec.datasets.wrappers import inner_datasets
from mmsec.evaluation.clusters import BASELINES, MEASURES

CONFIGS = Path('projects/evidence/configs')
DATA = {'nuclei': ('mmdet', 'maskrcnn'), 'camvid': ('mmseg', 'upernet')}
BACKBONES = {  # the first part of a config's name: what it is called, and seeds on nuclei and on CamVid
    'secvit_t': ('SecViT-T', {'nuclei': 2, 'camvid': 3}),
    'swin_t': ('Swin-T', {'nuclei': 2, 'camvid': 3}),
    'resnet50': ('ResNet-50', {'nuclei': 2, 'camvid': 3}),
    'clustr_b1': ('ClusTR-b1', {'nuclei': 1, 'camvid': 3}),
    'vit_s': ('ViT-S', {'nuclei': 1, 'camvid': 1}),
    'vit_s_pitome': ('ViT-S with PiToMe', {'nuclei': 1, 'camvid': 1}),
}
INITIAL = ('secvit_t', 'swin_t', 'resnet50', 'clustr_b1')  # trained from PyTorch's default, too
SMALL = CONFIGS / 'secvit_t_upernet_camvid_small.py'
PUBLISHED, GLOBAL = 'SemanticGrouping', 'SemanticGrouping num_clusters=1,1,1,1'
VARIANTS = ('metric=dot', 'metric=euclidean', 'feature=query', 'feature=value', 'cut=interleaved')
OTHERS = ('WindowGrouping', 'WindowGrouping shift=True', 'RandomGrouping', 'KMeansGrouping', 'ProjectionGrouping')
GROUPINGS = (PUBLISHED, *(f'{PUBLISHED} {each}' for each in VARIANTS), *OTHERS, GLOBAL)
# Beside the published numbers and one cluster everywhere, which are groupings above. The two schedules cost the same.
SCHEDULES = ('32,8,[4,4,4,2,2,2,1,1,1],1', '32,8,[1,1,1,2,2,2,4,4,4],1')
COUNTS = tuple(f'{PUBLISHED} num_clusters={each}' for each in ('8,2,1,1', '64,16,4,1', '128,32,8,2', *SCHEDULES))
SEEDS = 3  # of groupings and numbers of clusters
IMAGES = 200  # for AMI
# mmsec.PyTorchDefault, written out: rows of older runs know it by its hash
DEFAULT_WEIGHTS = CONFIGS / 'secvit_t_upernet_camvid_kaiming.py'
TRANSFER = {  # config: its initial weights
    CONFIGS / 'secvit_t_maskrcnn_nuclei_kaiming.py': "random, PyTorch's default",
    CONFIGS / 'secvit_t_maskrcnn_nuclei_from_shapes.py': 'pre-trained on shapes by the demo',
    CONFIGS / 'secvit_t_upernet_camvid_kaiming.py': "random, PyTorch's default",
}
# docs/evidence/plan.md, which was written before any of these runs
PAIRED = {'camvid': SMALL, 'nuclei': CONFIGS / 'secvit_t_upernet_nuclei_small.py'}
PAIRED_SEEDS = range(3, 17)
PAIRED_WITH = (
    *OTHERS[:3],
    f'{PUBLISHED} metric=euclidean',
    GLOBAL,
    f'{PUBLISHED} num_clusters=16,4,1,1',
    f'{PUBLISHED} num_clusters=64,16,4,1',
    f'{PUBLISHED} carriers=1',
)
HOW_TO = {  # make what is missing
    'data/nuclei': 'python tools/dataset_converters/nuclei.py SOURCE data/nuclei',
    'data/nuclei/labels/train': 'python projects/evidence/nuclei_labels.py data/nuclei',
    'data/camvid': 'python tools/dataset_converters/camvid.py CamVid data/camvid',
    'work_dirs/demo/secvit_t_maskrcnn_shapes/epoch_3.pth': (
        'python tools/make_shapes.py data/shapes --train 1000 --val 100 && python tools/train.py '
        'configs/mmdet/secvit_t_maskrcnn_shapes.py --work-dir work_dirs/demo/secvit_t_maskrcnn_shapes'
    ),
}
SECTIONS = {  # in this order
    'backbones': 'all backbones on both sets, with what semantic measures of them',
    'semantic': 'SecViT-T of both sets, and how far its clusters follow the annotations',
    'transfer': "SecViT-T from the demo's weights on nuclei, and on both sets from the random ones that it starts from",
    'groupings': 'ways of grouping on small images of CamVid',
    'clusters': 'numbers of clusters on the same',
    'initial': "backbones on CamVid from PyTorch's default weights",
    'pairs_camvid': 'groupings, numbers of clusters and carriers on small images of CamVid, by the plan',
    'pairs_nuclei': 'the same on small images of nuclei',
}


def config_of(backbone: str, data: str) -> Path:
    """The config of a backbone on a data set, from the repository's root."""
    host, method = DATA[data]
    folder = Path('configs', host) if backbone == 'secvit_t' else CONFIGS
    return folder / f'{backbone}_{method}_{data}.py'


def run_of(path: Path, seed: int) -> Run:
    """A run of a config, with what is measured of its backbone."""
    cfg = load_config(str(ROOT / path))
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)
    measurements = [clusters_and_labels] if path.stem.startswith('secvit_t_') and path not in TRANSFER else []
    return Run(path.stem, seed, cfg, cost, measurements)


def from_default(backbone: str, seed: int, work_dir: Path) -> Run:
    """A run on CamVid from PyTorch's default weights; mmsegmentation's Swin takes none but from a file."""
    cfg = load_config(str(ROOT / config_of(backbone, 'camvid')))
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)
    default = load_config(str(ROOT / DEFAULT_WEIGHTS)).model.backbone.init_cfg
    if backbone != 'swin_t':
        cfg.model.backbone.init_cfg = default
        return Run(backbone, seed, cfg, cost)
    files = {each: work_dir / f'initial/swin_t_seed{each}.pth' for each in range(SEEDS)}
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(files[seed]))
    return Run(backbone, seed, cfg, lambda cfg: draw_weights(cfg, default, files) or cost(cfg))


def draw_weights(cfg: Config, init_cfg: dict, files: dict[int, Path]) -> None:
    """Write random weights of a backbone for each seed."""
    for seed, path in files.items():
        torch.manual_seed(seed)
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            model = MODELS.build(dict(cfg.model.backbone, init_cfg=None))
        initialize(model, init_cfg)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), path)


def clusters_and_labels(trained: Trained) -> dict:
    """How far clusters follow what is annotated, with the trained weights and with random ones, by stage."""
    found = {}
    for weights, given in (('trained', [trained.checkpoint]), ('random weights', [])):
        out = trained.folder / 'clusters' / weights.replace(' ', '_')
        tool = TOOLS / 'analysis_tools/analyze_clusters.py'
        trained.call([tool, trained.config, *given, '--images', IMAGES, '--out', out])
        for row in by_stage(json.loads((out / 'analysis.json').read_text())['rows'], weights):
            found[row['stage'], row['grouping']] = row  # windows and chance are the same twice
    order = ('trained', 'random weights', *BASELINES)
    return {'clusters': sorted(found.values(), key=lambda row: (row['stage'], order.index(row['grouping'])))}


def by_stage(rows: list[dict], weights: str) -> list[dict]:
    """Rows of analyze_clusters, the heads of a stage as one: their mean."""
    kinds: dict[tuple[int, str], list[dict]] = {}
    for row in rows:
        kinds.setdefault((row['stage'], row['grouping'] if row['grouping'] in BASELINES else weights), []).append(row)
    found = []
    for (stage, grouping), heads in kinds.items():
        values = {key: [row[key] for row in heads if row[key] is not None] for key in MEASURES}
        means = {key: statistics.mean(each) if each else None for key, each in values.items()}
        found.append({'stage': stage, 'clusters': heads[0]['clusters'], 'grouping': grouping, **means})
    return found


CHECKED: set[tuple] = set()  # data that were looked at


def missing(cfg: Config) -> str | None:
    """What a config needs and is not there, and how to make it: one line."""
    data = list(inner_datasets(cfg.train_dataloader.dataset))
    roots = [each.data_root.rstrip('/') for each in data]
    labels = [f'{root}/{each.data_prefix.get("seg_map_path")}' for root, each in zip(roots, data, strict=True)]
    for path in (*roots, *(each for each in labels if each in HOW_TO), cfg.get('load_from')):
        if path and not Path(path).exists():
            return f"'{path}' not found; make it: {HOW_TO[path]}"
    if (key := (*roots, *labels)) not in CHECKED:
        check_data(cfg, 'train', 'val', 'test')
        CHECKED.add(key)
    return None


def sections(names: Sequence[str], out: Path, work_dir: Path) -> dict[str, tuple[Rows, list[Run]]]:
    """The sections of these names: where their figures are kept, and their runs, in order."""
    found: dict[str, tuple[Rows, list[Run]]] = {}
    backbones = Rows(out / 'backbones.json', work_dir)
    needed = {'semantic': ['secvit_t'], 'backbones': list(BACKBONES)}
    for name in names:
        rows, runs = Rows(out / f'{name}.json', work_dir / name), []
        if name in needed:
            rows = backbones
            runs = [
                run_of(config_of(each, data), seed)
                for data in DATA
                for each in needed[name]
                for seed in range(BACKBONES[each][1][data])
            ]
        elif name == 'transfer':
            runs = [run_of(path, 0) for path in TRANSFER]
        elif name == 'initial':
            runs = [from_default(each, seed, work_dir) for each in INITIAL for seed in range(SEEDS)]
        elif name.startswith('pairs_'):
            small = load_config(str(ROOT / PAIRED[name.removeprefix('pairs_')]))
            runs = runs_of(small, (PUBLISHED, *PAIRED_WITH), PAIRED_SEEDS)
        else:
            texts = GROUPINGS if name == 'groupings' else COUNTS
            settings = {'config': str(SMALL), 'seeds': SEEDS, 'iters': None, 'images': IMAGES, 'cfg_options': None}
            rows = Comparison(out / name, work_dir / name, settings)
            runs = runs_of(load_config(str(ROOT / SMALL)), texts, range(SEEDS), [ami_with_classes(IMAGES)])
        found[name] = rows, sorted(runs, key=lambda run: run.seed)  # every name once, first
    return found
