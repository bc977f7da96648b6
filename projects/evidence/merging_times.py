"""The ViT of docs/evidence.md timed with each merging that it is tested with, by turns, a process for each.

Times do not depend on weights. The images are noise of the same sizes as the test images, which the row names.
"""

import itertools
import multiprocessing
import statistics
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from evidence_runs import MERGING_TIMES, ROOT, config_of, merging_times, mergings, vit_row
from mmengine.registry import init_default_scope
from rich.progress import track
from training_rows import machine, revision, write_json

import mmsec.models  # noqa: F401
from mmsec.cli.config import load_config
from mmsec.registry import MODELS

REPEATS = {'nuclei': 3, 'camvid': 25}  # rounds; CamVid has images of one size


def serve(pipe: Connection, config: dict, shapes: Sequence[Sequence[int]]) -> None:
    """Time a backbone on an image of noise whenever it is asked: of each size in turn."""
    init_default_scope('mmdet')
    model = MODELS.build(config).eval()
    with torch.no_grad():
        for image in itertools.cycle([torch.randn(1, 3, *shape) for shape in shapes]):
            if not pipe.recv():
                return
            start = time.perf_counter()
            model(image)
            pipe.send(time.perf_counter() - start)


def measure(configs: Mapping[str, dict], sizes: Sequence[str], repeats: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of backbones by name and size ``HxW``, one for each round, after two rounds that warm up."""
    shapes = [[int(side) for side in size.split('x')] for size in sizes]
    context, workers = multiprocessing.get_context('spawn'), {}
    for name, config in configs.items():
        workers[name], theirs = context.Pipe()
        context.Process(target=serve, args=(theirs, config, shapes), daemon=True).start()
        theirs.close()  # so that we hear of it when the process ends
    found: dict[str, dict[str, list[float]]] = {name: {size: [] for size in sizes} for name in configs}
    for size in track([*sizes] * (repeats + 2), f'{repeats} rounds of {len(sizes)} sizes'):
        for name, worker in workers.items():
            worker.send(True)
            found[name][size].append(worker.recv())
    for worker in workers.values():
        worker.send(False)
    return {name: {size: each[2:] for size, each in seconds.items()} for name, seconds in found.items()}


def time_mergings(out: Path, names: Sequence[str]) -> None:
    """Add the times of these data sets, whose ViT is trained, to those that are there."""
    content = merging_times(out)
    for data in names:
        backbone = load_config(str(ROOT / config_of('vit_s', data))).model.backbone.to_dict()
        configs = {name: backbone | {'merging': options} for name, options in mergings(data).items()}
        images, means = vit_row(out, data)['images'], {}  # how many have which size
        rounds = measure(configs, list(images), REPEATS[data])
        for name, seconds in rounds.items():
            total = sum(statistics.median(seconds[size]) * number for size, number in images.items())
            means[name] = total / sum(images.values())
            print(f'{data}, {name}: {means[name]:.3f} s an image, {means[name] / means["nothing"]:.2f} of the first')
        content[data] = {'machine': machine(), 'git': revision(), 'images': images, 'seconds': means, 'rounds': rounds}
    write_json(out / MERGING_TIMES, content)
