"""docs/evidence.md: the tables and figures between its markers, from rows of finished runs."""

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from compare_groupings import draw, head, line, number, summary
from evidence_figures import draw_counts, draw_curves, draw_differences, draw_semantic
from evidence_runs import (
    BACKBONES,
    COUNTS,
    DATA,
    GLOBAL,
    GROUPINGS,
    INITIAL,
    PAIRED_SEEDS,
    PAIRED_WITH,
    PUBLISHED,
    ROOT,
    TRANSFER,
    config_of,
)
from paired import Difference, differences
from training_rows import Rows

from mmsec.engine.files import write_whole
from mmsec.errors import InputError
from mmsec.evaluation.clusters import MEASURES

PAGE = ROOT / 'docs/evidence.md'
NOT_RUN = 'not run yet'
TITLES = {'nuclei': 'Nuclei, Mask R-CNN', 'camvid': 'CamVid, UperNet'}
METRICS = {  # the first of each is drawn
    'nuclei': {
        'coco/segm_mAP': 'mask AP',
        'coco/segm_mAP_50': 'mask AP50',
        'coco/segm_mAP_75': 'mask AP75',
        'coco/bbox_mAP': 'box AP',
    },
    'camvid': {'mIoU': 'mIoU', 'aAcc': 'pixel accuracy'},
}
COSTS = {  # of a row: title, unit, format
    'parameters': ('parameters, M', 1e6, '.1f'),
    'multiply_adds_with_neck': ('multiply-adds, G', 1e9, '.2f'),
    'seconds_per_iteration': ('s per iteration', 1, '.2f'),
    'peak_bytes': ('peak MiB', 2**20, '.0f'),
}
GROUPING_RUNS, CLUSTER_RUNS = 'groupings/comparison.json', 'clusters/comparison.json'
Runs = Mapping[str, Mapping[str, dict]]


def runs_in(out: Path, file: str) -> Runs:
    """Rows by name and seed; none where the file is not there yet."""
    return Rows(out / file, out).runs


def finished(seeds: Mapping[str, dict]) -> list[dict]:
    """Rows of runs that did not fail, by seed."""
    return [row for _, row in sorted(seeds.items()) if 'failed' not in row]


def digits(value: float | None, metric: str) -> str:
    """A metric with the digits that are usual for it."""
    return number(value, '.3f' if 'mAP' in metric else '.1f')


def each_seed(rows: Sequence[dict], metric: str) -> str:
    """A metric of all seeds; a detector that finds nothing at all has none."""
    return ' / '.join(digits(row['metrics'].get(metric), metric) for row in rows)


def failures(seeds: Mapping[str, dict]) -> str:
    """Which seeds failed, and why."""
    return '; '.join(f'seed {seed} failed: {row["failed"]}' for seed, row in sorted(seeds.items()) if 'failed' in row)


def source(out: Path, logs: Mapping[str, Runs]) -> list[str]:
    """Where figures come from, as the last lines of a block."""
    rows = [row for runs in logs.values() for seeds in runs.values() for row in seeds.values()]
    if not rows:
        return []
    devices, threads, torch, git = (
        ', '.join(sorted({value for row in rows for value in each(row)}))
        for each in (
            lambda row: [row['gpu'] or row['cpu']],
            lambda row: [str(row['threads'])],
            lambda row: [row['torch']],
            lambda row: row['git'].split(', '),
        )
    )
    files = ', '.join(f'[{file}]({out.name}/{file})' for file, runs in logs.items() if runs)
    return [
        '',
        f'Measured on {devices}, threads of each run: {threads}, torch {torch}, revision {git}. Log, with the seed, '
        f'curve, revision and versions of every run: {files}.',
    ]


def backbones(out: Path, images: Path) -> list[str]:
    """All backbones on both sets, on CamVid from two kinds of initial weights, and their curves."""
    own, lines, panels = runs_in(out, 'backbones.json'), [], {}
    default = {config_of(each, 'camvid').stem: seeds for each, seeds in runs_in(out, 'initial.json').items()}
    tables = {
        f"{TITLES['camvid']}, from PyTorch's default weights": ('camvid', default, INITIAL),
        f'{TITLES["camvid"]}, from own default weights': ('camvid', own, BACKBONES),
        f'{TITLES["nuclei"]}, from own default weights': ('nuclei', own, BACKBONES),
    }
    for title, (data, runs, names) in tables.items():
        metrics = METRICS[data]
        main = next(iter(metrics))
        titles = [*metrics.values(), f'{metrics[main]} less SecViT-T', '95 % interval']
        titles += [title for title, _, _ in COSTS.values()]
        values = metric_by_seed(runs, main)
        secvit = config_of('secvit_t', data).stem
        found = differences(values, secvit) if secvit in values else {}
        lines += ['', f'{title}:', '', *head(['backbone', 'seeds', *titles, 'failed'])]
        for backbone in names:
            name, config = BACKBONES[backbone][0], config_of(backbone, data)
            seeds = runs.get(config.stem, {})
            rows = panels.setdefault(title, {})[name] = finished(seeds)
            cells = [f'[{name}](../{config})', f'{len(rows)}' if seeds else NOT_RUN]
            cells += [each_seed(rows, metric) for metric in metrics]
            cells += interval(found.get(config.stem), '+.3f' if 'mAP' in main else '+.1f')
            for key, (_, unit, pattern) in COSTS.items():
                known = [row[key] for row in rows if row[key] is not None]
                cells.append(number(statistics.mean(known), pattern, unit) if known else '')
            lines.append(line([*cells, failures(seeds)]))
    if any(rows for panel in panels.values() for rows in panel.values()):
        draw_curves(panels, images / 'evidence_curves.png')
        lines += ['', f'![Training loss of all runs]({images.name}/evidence_curves.png)']
    return lines + source(out, {'backbones.json': own, 'initial.json': runs_in(out, 'initial.json')})


def semantic(out: Path, images: Path) -> list[str]:
    """How far the clusters of SecViT-T follow the annotations, mean over the seeds."""
    runs, lines = runs_in(out, 'backbones.json'), []
    panels: dict[str, dict[str, dict[int, float]]] = {}
    for data in DATA:
        rows = finished(runs.get(config_of('secvit_t', data).stem, {}))
        found: dict[tuple[int, str], list[dict]] = {}
        for row in rows:
            for each in row['clusters']:
                found.setdefault((each['stage'], each['grouping']), []).append(each)
        shown = [key for key in MEASURES if any(each[key] is not None for values in found.values() for each in values)]
        lines += ['', f'{TITLES[data]}, {f"seeds: {len(rows)}" if rows else NOT_RUN}:']
        if rows:
            lines += ['', *head(['stage', 'clusters', *(MEASURES[key] for key in shown)])]
        for (stage, grouping), values in found.items():
            known = {key: [each[key] for each in values if each[key] is not None] for key in shown}
            means = {key: statistics.mean(each) for key, each in known.items() if each}
            name = 'random split' if grouping == 'random' else grouping
            lines.append(line([str(stage), name, *(number(means.get(key), '.3f') for key in shown)]))
            if 'ami_classes' in means:
                panels.setdefault(TITLES[data], {}).setdefault(name, {})[stage] = means['ami_classes']
    if panels:
        draw_semantic(panels, images / 'evidence_semantic.png')
        lines += ['', f'![AMI of clusters with classes]({images.name}/evidence_semantic.png)']
    return lines


def transfer(out: Path, images: Path) -> list[str]:
    """SecViT-T from weights of the demo, and from two kinds of random weights."""
    configs = {data: config_of('secvit_t', data).stem for data in METRICS}
    default = {stem: seeds for stem, seeds in runs_in(out, 'backbones.json').items() if stem in configs.values()}
    learnt, lines = runs_in(out, 'transfer.json'), []
    panels: dict[str, dict[str, list[dict]]] = {}
    for data, metrics in METRICS.items():
        weights = {"random, SecViT's default": default.get(configs[data], {})}
        weights |= {name: learnt.get(path.stem, {}) for path, name in TRANSFER.items() if data in path.stem.split('_')}
        lines += ['', f'{TITLES[data]}:', '', *head(['initial weights', 'seeds', *metrics.values(), 'failed'])]
        for name, seeds in weights.items():
            rows = finished(seeds)
            cells = [each_seed(rows, metric) for metric in metrics]
            lines.append(line([name, f'{len(rows)}' if seeds else NOT_RUN, *cells, failures(seeds)]))
        panels[TITLES[data]] = {name: finished(seeds) for name, seeds in weights.items()}
    if learnt:
        draw_curves(panels, images / 'evidence_transfer.png')
        lines += ['', f'![Training loss from each]({images.name}/evidence_transfer.png)']
    return lines + source(out, {'backbones.json': default, 'transfer.json': learnt})


def metric_by_seed(runs: Runs, metric: str) -> dict[str, dict[str, float]]:
    """A metric of all runs that did not fail, by name and seed."""
    return {
        name: {seed: row['metrics'][metric] for seed, row in seeds.items() if metric in row.get('metrics', {})}
        for name, seeds in runs.items()
    }


def interval(found: Difference | None, pattern: str = '+.2f') -> list[str]:
    """A difference and its interval, as two cells of a table."""
    if found is None:
        return ['', '']
    return [format(found.mean, pattern), f'{format(found.low, pattern)} to {format(found.high, pattern)}']


def compared(out: Path, names: Mapping[str, str], first: str, with_ami: bool) -> tuple[list[str], str, dict[str, dict]]:
    """A table of groupings, in the order of ``names`` and not by rank; the metric; rows that have values, by name."""
    every = {**runs_in(out, GROUPING_RUNS), **runs_in(out, CLUSTER_RUNS)}  # runs of one model
    metric, rows = summary(every)
    found = differences(metric_by_seed(every, metric), PUBLISHED) if PUBLISHED in every else {}
    titles = [f'{metric or "metric"}, mean', 'std', 'seeds', 'difference', '95 % interval',
              's per iteration', 'multiply-adds, G', *(['AMI'] if with_ami else []), 'failed']  # fmt: skip
    lines = ['', *head([first, *titles])]
    for text, name in names.items():
        row = rows.get(text)
        if row is None:
            lines.append(line([name, NOT_RUN, *[''] * (len(titles) - 1)]))
            continue
        numbers = [number(row['mean'], '.2f'), number(row['std'], '.2f'), f'{len(row["values"])}']
        numbers += interval(found.get(text))
        numbers += [number(row['seconds_per_iteration'], '.2f'), number(row['multiply_adds'], '.2f', 1e9)]
        numbers += [number(row['ami'], '.3f')] if with_ami else []
        lines.append(line([name, *numbers, failures(every[text])]))
    drawn = {name: rows[text] for text, name in names.items() if text in rows and rows[text]['values']}
    return lines, metric or '', drawn


def groupings(out: Path, images: Path) -> list[str]:
    """Ways of grouping."""
    names = {text: 'one cluster (global attention)' if text == GLOBAL else text for text in GROUPINGS}
    lines, metric, rows = compared(out, names, 'grouping', with_ami=True)
    if rows:
        draw(metric, rows, images / 'evidence_groupings.png')
        lines += ['', f'![Groupings: each seed and the mean, and time]({images.name}/evidence_groupings.png)']
    return lines + source(out, {GROUPING_RUNS: runs_in(out, GROUPING_RUNS)})


def clusters(out: Path, images: Path) -> list[str]:
    """Numbers of clusters."""
    fewest, *more = COUNTS
    names = {text: text.rpartition('=')[2] for text in (GLOBAL, fewest, PUBLISHED, *more)}
    names[PUBLISHED] = '32,8,2,1 (default)'
    lines, metric, rows = compared(out, names, 'clusters of stages 1 to 4', with_ami=False)
    if len(rows) > 1:  # the default alone is no curve
        draw_counts(metric, rows, images / 'evidence_clusters.png')
        lines += ['', f'![Metric against multiply-adds]({images.name}/evidence_clusters.png)']
    shared = {text: seeds for text, seeds in runs_in(out, GROUPING_RUNS).items() if text in names}
    return lines + source(out, {GROUPING_RUNS: shared, CLUSTER_RUNS: runs_in(out, CLUSTER_RUNS)})


def pairs(out: Path, images: Path) -> list[str]:
    """The paired comparisons of the plan, once all runs of a set are there."""
    names = {text: 'one cluster (global attention)' if text == GLOBAL else text for text in (PUBLISHED, *PAIRED_WITH)}
    lines, panels, logs = [], {}, {}
    for data, title in {'camvid': 'CamVid', 'nuclei': 'Nuclei'}.items():
        file = f'pairs_{data}.json'
        logs[file] = runs_in(out, file)
        values = metric_by_seed(logs[file], 'mIoU')
        ready, total = sum(map(len, logs[file].values())), len(names) * len(PAIRED_SEEDS)
        if ready < total:
            lines += ['', f'{title}: {ready} of {total} runs are there. No test is made before all of them.']
            continue
        titles = ['mIoU, mean', 'difference', '95 % interval', 'std of differences', 'p', 'p after Holm', 'failed']
        lines += ['', f'{title}, {len(PAIRED_SEEDS)} pairs:', '', *head(['grouping', *titles])]
        found = differences(values, PUBLISHED)
        for text, name in names.items():
            cells, each = [name, f'{statistics.mean(values[text].values()):.2f}'], found.get(text)
            tests = [f'{each.std:.2f}', f'{each.p:.2g}', f'{each.adjusted:.2g}'] if each else [''] * 3
            lines.append(line([*cells, *interval(each), *tests, failures(logs[file][text])]))
        panels[title] = {names[text]: each for text, each in found.items()}
    if panels:
        draw_differences(panels, images / 'evidence_pairs.png')
        lines += ['', f'![Differences and their 95 % intervals]({images.name}/evidence_pairs.png)']
    return lines + source(out, logs)


def initial(out: Path, images: Path) -> list[str]:
    """Backbones on CamVid from their own default weights and from PyTorch's default."""
    own, other = runs_in(out, 'backbones.json'), runs_in(out, 'initial.json')
    lines = ['', *head(['backbone', 'its own default', "PyTorch's default", 'difference', '95 % interval', 'failed'])]
    for backbone in INITIAL:
        runs = {'own': own.get(config_of(backbone, 'camvid').stem, {}), 'other': other.get(backbone, {})}
        values = metric_by_seed(runs, 'mIoU')
        cells = [each_seed(finished(seeds), 'mIoU') if seeds else NOT_RUN for seeds in runs.values()]
        difference = interval(differences(values, 'own').get('other'), '+.1f')
        lines.append(line([BACKBONES[backbone][0], *cells, *difference, failures(runs['other'])]))
    return lines + source(out, {'initial.json': other})


BLOCKS: dict[str, Callable[[Path, Path], list[str]]] = {
    each.__name__: each for each in (pairs, initial, backbones, semantic, transfer, groupings, clusters)
}


def page(text: str, out: Path, images: Path) -> str:
    """A page with all blocks made anew; their figures are drawn."""
    pattern = re.compile(r'(<!-- evidence: (\w+) -->\n).*?(<!-- /evidence -->)', re.DOTALL)
    found = [name for _, name, _ in pattern.findall(text)]
    if sorted(found) != sorted(BLOCKS):
        raise InputError(f'the page must have one block for each of {", ".join(BLOCKS)}, got {", ".join(found)}')
    images.mkdir(parents=True, exist_ok=True)
    blocks = {name: '\n'.join(make(out, images)) for name, make in BLOCKS.items()}
    return pattern.sub(lambda match: f'{match[1]}{blocks[match[2]]}\n\n{match[3]}', text)


def write_page(out: Path) -> Path:
    """Make the page beside the folder of the JSON files, from what is there; words are those of docs/evidence.md."""
    target = out.with_suffix('.md')
    text = (target if target.is_file() else PAGE).read_text()
    write_whole(target, page(text, out, out.parent / 'images').encode())
    return target
