"""The runs that docs/evidence.md is made of, section by section, and what is measured of each."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from compare_groupings import Comparison, runs_of
from mmengine.config import Config
from mmengine.registry import DefaultScope
from training_rows import Measurement, Rows, Run, Trained, cost, images_by_size, mean_multiply_adds
from training_runs import ROOT, TOOLS, evaluate

from mmsec.cli.config import load_config
from mmsec.cli.data import check_data
from mmsec.cli.weights import build_backbone
from mmsec.datasets.wrappers import inner_datasets
from mmsec.evaluation.clusters import BASELINES, MEASURES

CONFIGS = Path('projects/evidence/configs')
DATA = {'nuclei': ('mmdet', 'maskrcnn'), 'camvid': ('mmseg', 'upernet')}
BACKBONES = {  # the first part of a config's name: what it is called, and seeds
    'secvit_t': ('SecViT-T', 2),
    'swin_t': ('Swin-T', 2),
    'resnet50': ('ResNet-50', 2),
    'clustr_b1': ('ClusTR-b1', 1),
    'vit_s': ('ViT-S', 1),
    'vit_s_pitome': ('ViT-S with PiToMe', 1),
}
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
TRANSFER = {  # config: its initial weights
    CONFIGS / 'secvit_t_maskrcnn_nuclei_kaiming.py': "random, PyTorch's default",
    CONFIGS / 'secvit_t_maskrcnn_nuclei_from_shapes.py': 'pre-trained on shapes by the demo',
    CONFIGS / 'secvit_t_upernet_camvid_kaiming.py': "random, PyTorch's default",
}
# The grid has 16 x 16 tokens in most images of nuclei, and 23 x 17 in those of CamVid.
REMOVED = {'nuclei': (4, 8, 12, 16), 'camvid': (6, 12, 18, 24)}
KEPT = (0.975, 0.95, 0.925, 0.9)
SIZES = (0.85, 0.7, 0.5, 0.35)
NOT_MERGED = 'nothing'
MERGING_TIMES = 'merging_times.json'
HOW_TO = {  # make what is missing
    'data/nuclei': 'python tools/dataset_converters/nuclei.py SOURCE data/nuclei',
    'data/camvid': 'python tools/dataset_converters/camvid.py CamVid data/camvid',
    'work_dirs/demo/secvit_t_maskrcnn_shapes/epoch_3.pth': (
        'python tools/make_shapes.py data/shapes --train 1000 --val 100 && python tools/train.py '
        'configs/mmdet/secvit_t_maskrcnn_shapes.py --work-dir work_dirs/demo/secvit_t_maskrcnn_shapes'
    ),
}
SECTIONS = {  # in this order
    'backbones': 'all backbones on both sets, with what semantic and merging measure of them',
    'semantic': 'SecViT-T of both sets, and how far its clusters follow the annotations',
    'merging': 'ViT-S of both sets, tested with merging',
    'transfer': "SecViT-T from the demo's weights on nuclei, and on both sets from the random ones that it starts from",
    'groupings': 'ways of grouping on small images of CamVid',
    'clusters': 'numbers of clusters on the same',
}


def config_of(backbone: str, data: str) -> Path:
    """The config of a backbone on a data set, from the repository's root."""
    host, method = DATA[data]
    folder = Path('configs', host) if backbone == 'secvit_t' else CONFIGS
    return folder / f'{backbone}_{method}_{data}.py'


def mergings(data: str) -> dict[str, dict]:
    """What the trained ViT is tested with, by name: options of its ``merging``."""
    return {
        NOT_MERGED: {},
        **{f'ToMe r={r}': {'type': 'ToMe', 'r': r} for r in REMOVED[data]},
        **{f'PiToMe {ratio:g}': {'type': 'PiToMe', 'ratio': ratio} for ratio in KEPT},
        **{f'Expedit {size:g}': {'type': 'Expedit', 'after_block': 6, 'size': size} for size in SIZES},
    }


def vit_row(out: Path, data: str) -> dict | None:
    """The row of the ViT that is tested with mergings; None before its run has finished."""
    row = Rows(out / 'backbones.json', out).runs.get(config_of('vit_s', data).stem, {}).get('0', {})
    return row if 'merging' in row else None


def merging_times(out: Path) -> dict[str, dict]:
    """What time_mergings of evidence.py has written, by data set; nothing before the first call of it."""
    path = out / MERGING_TIMES
    return json.loads(path.read_text()) if path.is_file() else {}


def untimed(out: Path) -> list[str]:
    """Data sets whose ViT is tested with mergings that are not timed yet."""
    return [data for data in DATA if vit_row(out, data) and data not in merging_times(out)]


def run_of(path: Path, seed: int) -> Run:
    """A run of a config, with what is measured of its backbone."""
    cfg = load_config(str(ROOT / path))
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)
    if path.stem.startswith('vit_s_') and 'pitome' not in path.stem:
        data = path.stem.split('_')[-1]
        return Run(path.stem, seed, cfg, lambda cfg: cost(cfg) | merged_cost(cfg, data), [with_mergings(data)])
    measurements = [clusters_and_labels] if path.stem.startswith('secvit_t_') and path not in TRANSFER else []
    return Run(path.stem, seed, cfg, cost, measurements)


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


def with_mergings(data: str) -> Measurement:
    """Metrics of a trained ViT with each merging, and without, one after the other."""

    def measure(trained: Trained) -> dict:
        found = {}
        for name, options in mergings(data).items():
            words = [f'model.backbone.merging.{key}={value}' for key, value in options.items()]
            found[name] = evaluate(trained, trained.folder / 'merging' / name.replace(' ', '_'), words)
        return {'merging': found}

    return measure


def merged_cost(cfg: Config, data: str) -> dict:
    """Multiply-adds of the backbone with each merging, the mean over images of the test data."""
    adds = {}
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        images = images_by_size(cfg)
        for name, options in mergings(data).items():
            merging = Config(dict(model=dict(backbone=dict(cfg.model.backbone, merging=options))))
            backbone = build_backbone(merging, None)
            adds[name] = mean_multiply_adds(images, backbone, backbone)
    return {'merged_multiply_adds': adds}


def missing(cfg: Config) -> str | None:
    """What a config needs and is not there, and how to make it: one line."""
    roots = [each.data_root.rstrip('/') for each in inner_datasets(cfg.train_dataloader.dataset)]
    for path in (*roots, cfg.get('load_from')):
        if path and not Path(path).exists():
            return f"'{path}' not found; make it: {HOW_TO[path]}"
    check_data(cfg, 'train', 'val', 'test')
    return None


def sections(names: Sequence[str], out: Path, work_dir: Path) -> dict[str, tuple[Rows, list[Run]]]:
    """The sections of these names: where their figures are kept, and their runs, in order."""
    found: dict[str, tuple[Rows, list[Run]]] = {}
    backbones = Rows(out / 'backbones.json', work_dir)
    needed = {'semantic': ['secvit_t'], 'merging': ['vit_s'], 'backbones': list(BACKBONES)}
    for name in names:
        if name in needed:
            paths = [(config_of(each, data), BACKBONES[each][1]) for data in DATA for each in needed[name]]
            runs = [run_of(path, seed) for path, seeds in paths for seed in range(seeds)]
            found[name] = backbones, sorted(runs, key=lambda run: run.seed)  # each backbone once, first
        elif name == 'transfer':
            found[name] = Rows(out / 'transfer.json', work_dir), [run_of(path, 0) for path in TRANSFER]
        else:
            texts = GROUPINGS if name == 'groupings' else COUNTS
            settings = {'config': str(SMALL), 'seeds': SEEDS, 'iters': None, 'images': IMAGES, 'cfg_options': None}
            rows = Comparison(out / name, work_dir / name, settings)
            runs = runs_of(load_config(str(ROOT / SMALL)), texts, SEEDS, IMAGES)
            found[name] = rows, sorted(runs, key=lambda run: run.seed)
    return found
