"""Bring the model index up to date: an entry for each config, and the tables of docs from the entries.

Results are those of docs/evidence; nothing else is trained here.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml
from get_flops import SHAPES, built, predict
from mmengine.config import Config
from timing import table

from mmsec.cli.flops import count_kinds
from mmsec.datasets.wrappers import inner_datasets
from mmsec.engine.processes import run
from mmsec.errors import InputError

ROOT = Path(__file__).parents[2]
PAPERS = {  # of each backbone
    'SecViT': ('https://arxiv.org/abs/2405.13337', 'Semantic Equitable Clustering'),
    'ClusteredSwin': ('https://arxiv.org/abs/2405.13337', 'Semantic Equitable Clustering'),
    'ClusTR': ('https://arxiv.org/abs/2208.13138', 'ClusTR: Exploring Efficient Self-attention via Clustering'),
    'ViT': ('https://arxiv.org/abs/2010.11929', 'An Image is Worth 16x16 Words'),
}
DATA = {
    'data/coco': 'COCO 2017',
    'data/ade': 'ADE20K',
    'data/imagenet': 'ImageNet-1k',
    'data/cityscapes': 'Cityscapes',
    'data/VOCdevkit': 'Pascal VOC 2012',
    'data/nuclei': 'Data Science Bowl 2018',
    'data/camvid': 'CamVid',
    'data/mine': 'your own',
}
HOSTS = ('mmdet', 'mmpretrain', 'mmseg')  # configs of others need packages that are not everywhere
EVIDENCE = ROOT / 'docs/evidence'
TASKS = {'mmdet': 'Instance Segmentation', 'mmseg': 'Semantic Segmentation'}
METRICS = {  # of each host
    'mmdet': {
        'coco/segm_mAP': 'mask AP',
        'coco/segm_mAP_50': 'mask AP50',
        'coco/segm_mAP_75': 'mask AP75',
        'coco/bbox_mAP': 'box AP',
    },
    'mmseg': {'mIoU': 'mIoU', 'aAcc': 'pixel accuracy'},
}
ALGORITHMS = {  # a head's name in OpenMMLab's configs, where it is another
    'maskrcnn': 'mask-rcnn',
    'cascade_maskrcnn': 'cascade-mask-rcnn',
    'dino': 'dino-4scale',
    'rtmdet_ins': 'rtmdet-ins',
    'mask2former_semantic': 'mask2former',
    'semanticfpn': 'fpn',
}
IMAGES = {'COCO 2017': 117_266, 'ImageNet-1k': 1_281_167}  # to train on; of COCO those with annotations
GPUS, RATE = 8, 7.6e12  # FLOP/s of a GPU; see docs/models.md
SMALL = 'Ablations, and demos on generated shapes'
DATA_SECTIONS = {
    'COCO 2017': 'COCO: detection and instance segmentation',
    'ADE20K': 'ADE20K: semantic segmentation',
    'ImageNet-1k': 'ImageNet-1k: classification and pre-training',
    'your own': 'Your own data',
}
OTHERS = 'Other data sets'
SECTIONS = (*DATA_SECTIONS.values(), OTHERS, SMALL)
BEGIN, END = '<!-- models: made by make tables -->', '<!-- /models -->'
PAGES = ('docs/models.md',)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--tables', action='store_true', help='make results and tables alone, of the entries that are there'
    )
    return parser.parse_args()


def configs() -> Iterator[Path]:
    """Every config that is listed, from the repository's root; those in a host's folder itself are links."""
    for host in HOSTS:
        for path in sorted((ROOT / 'configs' / host).glob('[!_]*/*.py')):
            yield path.relative_to(ROOT)


def metafiles() -> dict[Path, dict]:
    """What stands in each metafile, by its path from the repository's root."""
    paths = sorted((ROOT / 'configs').rglob('metafile.yml'))
    return {path.relative_to(ROOT): yaml.safe_load(path.read_text()) for path in paths}


def entries() -> dict[str, dict]:
    """Every entry, by the path of its config."""
    return {each['Config']: each for content in metafiles().values() for each in content['Models']}


def training_data(cfg: Config) -> str:
    """The name of what a config trains on."""
    (dataset, *_) = inner_datasets(cfg.train_dataloader.dataset)
    root = str(dataset.get('data_root') or '').rstrip('/')
    for folder, name in DATA.items():
        if root.startswith(folder):
            return name
    return 'generated shapes' if 'shapes' in root else root.removeprefix('data/')


def parts_of(name: str) -> dict[str, str]:
    """The parts of a config's name, by the words of configs/README.md."""
    rows = re.findall(r'^\| `{(\w+)}` \|(.*)$', (ROOT / 'configs/README.md').read_text(), re.MULTILINE)
    words = {part: '|'.join(re.findall(r'`(\w+)`', row)) for part, row in rows}
    pattern = '(?P<backbone>{backbone})_(?P<size>{size})_(?P<head>{head})(?P<variant>(_({variant}))*)'
    found = re.fullmatch(f'{pattern}(_(?P<schedule>{{schedule}}))?(_(?P<data>{{data}}))?'.format(**words), name)
    if not found:
        raise InputError(f"'{name}' does not keep to the grammar of names in configs/README.md")
    return found.groupdict(default='')


def alias(path: Path) -> str:
    """The name of a config as OpenMMLab would form it, such as mask-rcnn_secvit-b_fpn_1x_coco."""
    cfg, parts, host = Config.fromfile(ROOT / path), parts_of(path.stem), path.parts[1]
    images, loop = cfg.train_dataloader.batch_size, cfg.train_cfg
    length = f'{loop.max_epochs}e' if 'max_epochs' in loop else f'{loop.max_iters / 1000:g}k'
    backbone = f'{parts["backbone"]}-{parts["size"]}{parts["variant"].replace("_", "-")}'
    fpn = host == 'mmdet' and cfg.model.get('neck', {}).get('type') == 'FPN'
    usual = {'12e': '1x', '36e': '3x'} if fpn else {}
    return '_'.join(
        [
            *([ALGORITHMS.get(parts['head'], parts['head'])] if host != 'mmpretrain' else []),
            *([backbone, 'fpn'] if fpn else [backbone]),
            usual.get(length, f'{cfg.auto_scale_lr.base_batch_size // images}xb{images}-{length}'),
            parts['data'] or {'mmdet': 'coco', 'mmseg': 'ade20k'}[host],
        ]
    ) + ('-{}x{}'.format(*cfg.model.data_preprocessor.size) if host == 'mmseg' else '')


def entry(path: Path) -> dict:
    """The entry of a config, but for its alias and FLOPs."""
    cfg, model = built(str(ROOT / path))
    return {
        'Name': path.stem,
        'Alias': [],
        'In Collection': cfg.model.backbone.type.removeprefix('mmsec.'),
        'Config': str(path),
        'Metadata': {
            'Training Data': training_data(cfg),
            'Parameters': sum(each.numel() for each in model.parameters()),
            'Backbone Parameters': sum(each.numel() for each in model.backbone.parameters()),
        },
    }


def flops(path: Path) -> dict[str, int | str]:
    """Multiply-adds of a config's model, and the size of the image."""
    cfg, model = built(str(ROOT / path))
    height, width = (128, 128) if training_data(cfg) == 'generated shapes' else SHAPES[cfg.default_scope]
    kinds = count_kinds(model, lambda: predict(model, torch.rand(1, 3, height, width)))
    return {'FLOPs': sum(kinds[''].values()), 'Input Size': f'{height}x{width}'}


def write(folder: Path, models: list[dict]) -> None:
    """Write the metafile of a folder, in the order of the configs."""
    used = sorted({each['In Collection'] for each in models})
    unknown = set(used) - set(PAPERS)
    if unknown:
        raise InputError(f'{folder}: name the paper of {", ".join(unknown)} in PAPERS of {__file__}')
    collections = [
        {
            'Name': name,
            'Metadata': {'Architecture': [name]},
            'Paper': dict(zip(('URL', 'Title'), PAPERS[name], strict=True)),
            'README': str(folder / 'README.md'),
        }
        for name in used
    ]
    content = {'Collections': collections, 'Models': sorted(models, key=lambda each: each['Config'])}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
    (ROOT / folder / 'metafile.yml').write_text(text)


def update() -> None:
    """Add entries that are missing, then FLOPs that are missing; drop what is no config any more."""
    known = entries()
    folders: dict[Path, list[dict]] = {}
    for path in configs():
        try:
            new = entry(path) if str(path) not in known else {}
        except InputError as error:  # its host is not installed
            print(f'{path}: left out, {error}', file=sys.stderr)
            continue
        folders.setdefault(path.parent, []).append(known.get(str(path), {}) | new | {'Alias': [alias(path)]})
    for folder, models in folders.items():
        write(folder, models)
    (ROOT / 'model-index.yml').write_text(yaml.safe_dump({'Import': [str(path) for path in metafiles()]}))
    for folder, models in folders.items():
        for model in models:
            if 'FLOPs' not in model['Metadata']:
                model['Metadata'] |= flops(Path(model['Config']))
                write(folder, models)  # each at once, for this takes long
                print(model['Config'], model['Metadata'], flush=True)


def trained() -> dict[str, list[dict]]:
    """Rows of finished runs of the backbones in docs/evidence, one for each seed, by the name of their config."""
    runs = json.loads((EVIDENCE / 'backbones.json').read_text())['runs']
    finished = {name: [row for row in seeds.values() if 'failed' not in row] for name, seeds in runs.items()}
    return {name: rows for name, rows in finished.items() if rows}


def results_of(model: dict, rows: list[dict]) -> list[dict]:
    """What an entry says of a trained config: metrics in percent, the mean over the seeds."""
    host = Path(model['Config']).parts[1]
    metrics = {}
    for key, title in METRICS[host].items():
        unit = 100 if 'mAP' in key else 1
        known = [row['metrics'][key] for row in rows if key in row['metrics']]  # a detector may find nothing
        if known:
            metrics[title] = round(unit * statistics.mean(known), 1)
    return [{'Task': TASKS[host], 'Dataset': model['Metadata']['Training Data'], 'Metrics': metrics}]


def add_results() -> None:
    """Bring the results that are of docs/evidence up to date; others are written by hand and stay."""
    rows = trained()
    for path, content in metafiles().items():
        for model in content['Models']:
            if model['Name'] in rows:
                model['Results'] = results_of(model, rows[model['Name']])
        write(path.parent, content['Models'])


def images_of(model: dict) -> float | None:
    """Images that a config trains on, repeats counted, by its alias; None where the data set's size is not known."""
    alias, data = model['Alias'][0], model['Metadata']['Training Data']
    epochs = {'_1x_': 12, '_3x_': 36}.get(''.join(re.findall(r'_[13]x_', alias)))
    of_all = re.search(r'_(\d+)xb(\d+)-([\d.]+)(e|k)_', alias)
    if of_all and of_all[4] == 'k':
        return 1000 * float(of_all[3]) * int(of_all[1]) * int(of_all[2])
    epochs = epochs or (int(of_all[3]) if of_all else None)
    return epochs * IMAGES[data] if epochs and data in IMAGES else None


def row(path: str, model: dict) -> list[str]:
    """The cells of an entry in a table."""
    metadata, images = model['Metadata'], images_of(model)
    cost = f'{metadata["FLOPs"] / 1e9:.1f}, {metadata["Input Size"]}' if 'FLOPs' in metadata else ''
    hours = 6 * metadata['FLOPs'] * images / (GPUS * RATE) / 3600 if cost and images else None
    metrics = [f'{name} {value}' for each in model.get('Results', []) for name, value in each['Metrics'].items()]
    return [
        *(f'[{model["Name"]}](../{path})', f'{metadata["Parameters"] / 1e6:.1f}', cost),
        *('' if hours is None else f'{hours:.0f}' if hours >= 10 else f'{hours:.1f}', ', '.join(metrics) or '-'),
    ]


def every() -> str:
    """Markdown: all entries, by what they are for; ablations and demos are folded."""
    head = ('config', 'parameters, M', 'FLOPs, G, of one image', f'hours on {GPUS} GPUs, estimate', 'result')
    sections: dict[str, list[list[str]]] = {title: [] for title in SECTIONS}
    for path, model in sorted(entries().items()):
        data = model['Metadata']['Training Data']
        wanted = SMALL if '/ablations/' in path or data == 'generated shapes' else DATA_SECTIONS.get(data, OTHERS)
        sections[wanted].append(row(path, model))
    lines = []
    for title, rows in sections.items():
        made = table(head, rows)
        folded = f'<details>\n<summary>{title}</summary>\n\n{made}\n\n</details>'
        lines.append(folded if title == SMALL else f'## {title}\n\n{made}')
    return '\n\n'.join(lines)


def page(name: str) -> str:
    """A page with its table made anew."""
    text = (ROOT / name).read_text()
    before, found, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise InputError(f"{name} has no '{BEGIN}' with '{END}' behind it")
    return f'{before}{BEGIN}\n\n{every()}\n\n{END}{after}'


def main() -> None:
    """Count what is missing, write."""
    args = parse_args()
    if not args.tables:
        update()
    add_results()
    for name in PAGES:
        (ROOT / name).write_text(page(name))


if __name__ == '__main__':
    run(main)
