"""Decide which kernels a kind of GPU runs, with which tiles, and compare what comes out: `make tune-gpu`.

Three parts of nine minutes at most. Figures are written after each cell, so a call that was stopped goes on where it
was; nobody decides anything in between. Written are the table that mmsec reads (mmsec/ops/kernels/table.json) and
tuning_DEVICE.json, .md and .png. To measure anew, delete the JSON file, or name cells by --again.
"""

import argparse
import json
import multiprocessing
import os
import queue
import re
import threading
import time
import traceback
from contextlib import closing, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import tune_report
import tune_rules as rules
from timing import describe, release, start_anew
from tune_plan import plan

from mmsec.ops.kernels import table
from mmsec.ops.kernels.dispatch import forgetting_failures

ROOT = Path(__file__).parents[2]
PARTS = (1, 2, 3)
_SLACK = 40.0  # seconds that a cell may take beyond the deadline
_AHEAD = 150.0  # seconds for compiling ahead
_HELP = """a machine with a GPU and no package registry
  It needs Python 3.10 or later, torch 2.7 or later and the triton of that torch (tried: 3.12, 2.11, 3.6), OpenCV, rich
  and a C compiler; matplotlib for the plot. Bring, on PYTHONPATH: wheels of
  onedl-mmengine, addict, termcolor, yapf and platformdirs (pip install --target DIR --no-deps --no-index *.whl); the
  unpacked sdists of onedl-mmcv and onedl-mmdetection, whose Python files are enough: Swin-T needs no compiled
  operators; and this checkout:
    PYTHONPATH=DIR:onedl_mmcv-2.3.6:onedl_mmdetection-3.5.1:. python3 tools/analysis_tools/tune_gpu.py --part 1
  then --part 2 and --part 3, and once more without --part for what is left. Between machines, keep tuning_*.json and
  table.json where they were written: the next call reads them.
to try it on a CPU
    TRITON_INTERPRET=1 python tools/analysis_tools/tune_gpu.py --device cpu --tiny --out DIR
"""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--part', type=int, choices=PARTS, help='1: tiles; 2: the set of kernels; 3: rivals; default: all'
    )
    parser.add_argument(
        '--minutes', type=float, default=9, help='start nothing new in a part after so long (default: 9)'
    )
    parser.add_argument('--out', type=Path, help='folder of figures and table (default: where the project has them)')
    parser.add_argument('--again', nargs='+', default=[], metavar='CELL', help='measure cells anew that begin so')
    parser.add_argument('--device', choices=('cuda', 'cpu'), default='cuda', help='cpu: to try it (default: cuda)')
    parser.add_argument('--tiny', action='store_true', help='tiny shapes and models, to try it')
    args = parser.parse_args()
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('no CUDA device here; --help says how to try it on a CPU')
    if args.device == 'cpu' and not (args.tiny and os.environ.get('TRITON_INTERPRET') == '1'):
        parser.error('a CPU needs --tiny, and TRITON_INTERPRET=1 in the environment')
    if args.tiny and not args.out:
        parser.error('--tiny needs --out: its figures are no part of the project')
    return args


def measured(cell: dict) -> dict:
    """What a cell gives, or 'error' alone."""
    import tune_kernels
    import tune_models

    start = time.monotonic()
    run = getattr(tune_kernels, cell['run'], None) or getattr(tune_models, cell['run'])
    try:
        with forgetting_failures():
            result = run(cell)
    except Exception as error:  # of whatever kind: it is written, and the others go on
        traceback.print_exc()
        memory = isinstance(error, torch.OutOfMemoryError)
        result = {'error': describe(error) if memory else f'{type(error).__name__}: {error}'[:500]}
    return result | {'took': round(time.monotonic() - start, 1)}


def work(pipe: Connection) -> None:
    """Measure each cell that comes in, and answer."""
    with suppress(EOFError):
        while True:
            cell = pipe.recv()
            result = measured(cell)
            try:
                (start_anew if cell.get('compile') else release)(cell['device'])
            except RuntimeError as error:  # such as an illegal address: this process can no longer use the device
                return pipe.send(result | {'lost': str(error)[:300]})
            pipe.send(result)


class Measurer:
    """A process that measures; where it dies, loses the device or is too slow, the next cell gets a new one."""

    process: Any = None
    pipe: Any = None

    def measure(self, cell: dict, seconds: float) -> dict:
        """What a cell of :mod:`tune_plan` gives, or 'error' alone; after so many seconds the process is ended."""
        if self.process is None or not self.process.is_alive():
            context = multiprocessing.get_context('spawn')
            self.pipe, theirs = context.Pipe()
            self.process = context.Process(target=work, args=(theirs,))
            self.process.start()
            theirs.close()  # so that the end of the process is seen
        try:
            self.pipe.send(cell)
            if not self.pipe.poll(seconds):
                self.close()
                return {'error': f'no answer in {seconds:.0f} seconds', 'took': round(seconds, 1)}
            result = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            return {'error': f'the process died, code {self.process.exitcode}'}
        if 'lost' in result:
            self.close()
        return result

    def close(self) -> None:
        """End the process, if there is one, whatever it does."""
        if self.process is not None:
            self.process.kill()
            self.process.join()


def given(cell: dict, results: dict[str, Any]) -> dict | str:
    """A cell with what earlier ones decided, or why it is left out."""
    chosen = rules.tiles(results)
    if cell['run'] != 'kernel_set':
        return cell | {'table': {'kernels': rules.kernel_set(results)[0], 'tiles': chosen}}
    own = f'set, {cell["added"]}'  # which may have raised before
    kept, said = rules.kernel_set({name: result for name, result in results.items() if name != own})
    why = said[cell['added']]
    if why.startswith('left out'):
        return why
    before = kept[: sum(kernel in rules.ORDER[: rules.ORDER.index(cell['added'])] for kernel in kept)]
    return cell | {'kernels': before, 'tiles': chosen}


def compile_ahead(cells: list[dict], seconds: float) -> int:
    """Compile what these cells run, in a process for each core, 15 at most; how many cells were done in time.

    Triton keeps what is compiled on disk. Errors are found again where the cell is measured.
    """
    waiting: queue.SimpleQueue[dict] = queue.SimpleQueue()
    for cell in cells:
        waiting.put(cell | {'ahead': True})
    end, done = time.monotonic() + seconds, []

    def take() -> None:
        with closing(Measurer()) as measurer, suppress(queue.Empty):
            while (left := end - time.monotonic()) > 0:
                done.append(measurer.measure(waiting.get_nowait(), left))

    count = max(1, min(15, (os.cpu_count() or 2) - 1, len(cells)))
    threads = [threading.Thread(target=take) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum('error' not in result for result in done)


def ahead(cells: dict[str, dict], results: dict[str, Any], args: argparse.Namespace) -> None:
    """Compile all tiles ahead, or the chosen ones of cells that are done, once on a machine."""
    import triton

    marker = Path(triton.knobs.cache.dir) / f'mmsec_tuned_{args.device}.json'  # names of cells
    known = json.loads(marker.read_text()) if marker.is_file() else []
    wanted = {}
    for name, cell in cells.items():
        if cell['run'] == 'tiles' and name not in known and not cell.get('at_once'):
            done = not rules.pending(results, name)
            wanted[name] = cell | ({'chosen': results[name].get('chosen', {})} if done else {})
    if not wanted:
        return
    start = time.monotonic()
    number = compile_ahead(list(wanted.values()), min(_AHEAD, 60 * args.minutes / 3))
    print(f'compiled ahead: {number} of {len(wanted)} cells, {time.monotonic() - start:.0f} s', flush=True)
    marker.parent.mkdir(parents=True, exist_ok=True)
    rules.write(marker, [*known, *wanted])


def measure(
    part: int, cells: dict[str, dict], content: dict, path: Path, args: argparse.Namespace, measurer: Measurer
) -> bool:
    """Measure what is left of a part until its time is up; whether anything is left."""
    results, end = content['cells'], time.monotonic() + 60 * args.minutes
    mine = {name: cell for name, cell in cells.items() if min(cell['part'], PARTS[-1]) == part}
    if any(rules.pending(results, name) for name in mine) and args.minutes > 0:
        ahead(cells, results, args)
    for name, cell in mine.items():
        if not rules.pending(results, name):
            continue
        if time.monotonic() >= end:
            print(f'the time of part {part} is up; the same command goes on with {name!r}')
            return True
        whole = given(cell, results)
        if isinstance(whole, str):
            results[name] = {'skipped': whole}
        else:
            left = min(end - time.monotonic(), cell.get('limit', float('inf')))  # seconds
            whole['left'] = left
            tries = results.get(name, {}).get('tries', 0) + 1
            results[name] = measurer.measure(whole, left + _SLACK) | {'tries': tries}
            results[name] |= {'kernel': cell['kernel']} if 'kernel' in cell else {}
        print(f'{name}: {tune_report.brief(results[name])}', flush=True)
        save(content, path, args)
    return False


def save(content: dict, path: Path, args: argparse.Namespace) -> None:
    """Write the figures, and the table of what is decided."""
    rules.write(path, content)
    kept, _ = rules.kernel_set(content['cells'])
    where = content['machine']
    entry = {
        'device': where['device'],
        'torch': where['torch'],
        'kernels': kept,
        'tiles': rules.tiles(content['cells']),
    }
    rules.write_table(args.out / table.PATH.name if args.out else table.PATH, where['kind'], entry)


def main() -> None:
    """Measure what is not measured yet, decide, write."""
    args = parse_args()
    name = torch.cuda.get_device_name() if args.device == 'cuda' else 'cpu'
    kind = 'sm_{}{}'.format(*torch.cuda.get_device_capability()) if args.device == 'cuda' else 'cpu'
    folder = args.out or ROOT / 'docs/performance'
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f'tuning_{re.sub(r"[^a-z0-9]+", "_", name.lower())}.json'
    where = {'device': name, 'kind': kind, 'torch': torch.__version__, 'tiny': args.tiny}
    content = json.loads(path.read_text()) if path.is_file() else {}
    if content.get('machine') != where:
        content = {'machine': where, 'cells': {}}  # of other software, or the first
    again = tuple(args.again)
    content['cells'] = {name: row for name, row in content['cells'].items() if not (again and name.startswith(again))}
    cells = plan(args.device, args.tiny)
    with closing(Measurer()) as measurer:
        for part in (args.part,) if args.part else PARTS:
            if not measure(part, cells, content, path, args, measurer):
                print(f'part {part} is done')
    save(content, path, args)
    print(tune_report.write(content, path))


if __name__ == '__main__':
    main()
