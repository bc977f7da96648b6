"""Trainings whose figures are kept: each runs once, several at a time, and is then a row of a JSON file."""

import copy
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from training_rows import Rows, Run, Trained, origin, revision

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / 'tools'
POINTS = 50  # of a loss curve that a row keeps


class RunError(Exception):
    """A tool of the project failed."""


def scalars(folder: Path) -> list[dict]:
    """What a run has logged while it trained, in all its sittings, once for each step."""
    lines = [line for path in sorted(folder.glob('*/vis_data/scalars.json')) for line in path.read_text().splitlines()]
    rows = [json.loads(line) for line in lines if line.endswith('}')]  # the last one may be half written
    return [row for _, row in sorted({row['step']: row for row in rows if 'loss' in row}.items())]


def call(command: list[object], log: Path, threads: int, stop: threading.Event) -> int:
    """Run a tool of the project, with its output in a file."""
    environment = os.environ | {'OMP_NUM_THREADS': str(threads)}
    before = log.stat().st_size if log.is_file() else 0
    with log.open('a') as file:
        words = [sys.executable, *map(str, command)]
        process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, env=environment)
    peak = 0
    while process.poll() is None:
        peak = max(peak, resident_peak(process.pid))
        if stop.wait(timeout=0.5):
            process.terminate()
            process.wait()
            raise RunError('stopped')
    if process.returncode:
        printed = log.read_bytes()[before:].decode(errors='replace')
        lines = [line for line in printed.splitlines() if line.strip()] or ['no output']
        reasons = [line for line in lines if line.startswith('error: ')] or lines
        raise RunError(f'exit code {process.returncode}: {reasons[-1]}')
    return peak


def resident_peak(pid: int) -> int:
    """The most memory in bytes that a process has held so far, as Linux counts it; 0 if it has ended."""
    held = re.search(r'VmHWM:\s+(\d+) kB', Path(f'/proc/{pid}/status').read_text())
    return int(held[1]) * 1024 if held else 0


def evaluate(trained: Trained, folder: Path, options: Sequence[str] = ()) -> dict:
    """Test a checkpoint."""
    out = folder / 'metrics.json'
    command = [TOOLS / 'test.py', trained.config, trained.checkpoint, '--work-dir', folder, '--out', out]
    trained.call([*command, *(['--cfg-options', *options] if options else [])])
    return {'metrics': json.loads(out.read_text())}


def train_and_measure(run: Run, folder: Path, threads: int, stop: threading.Event) -> dict:
    """Train, test and measure a run; a training that an earlier sitting has begun goes on."""
    config, log, peak = folder.with_suffix('.py'), folder / 'log.txt', folder / 'peak_bytes'

    def tool(command: list[object]) -> int:
        return call(command, log, threads, stop)

    sittings = folder / 'revisions'
    with sittings.open('a') as file:
        file.write(f'{revision()}\n')
    used = tool([TOOLS / 'train.py', config, '--work-dir', folder, '--resume'])
    used = max(used, int(peak.read_text()) if peak.is_file() else 0)  # a later sitting may have had little left to do
    peak.write_text(str(used))
    trained = Trained(config, (folder / 'last_checkpoint').read_text(), folder, tool)
    start = time.monotonic()
    tested = evaluate(trained, folder / 'test')
    tested_in = time.monotonic() - start
    measured: dict = {}
    for measure in run.measurements:
        measured |= measure(trained)
    logged = scalars(folder)
    steps = [row['step'] for row in logged]
    seconds = [row['time'] for row in logged]
    # A logged time stands for the iterations since the last one.
    trained_in = sum(each * (step - last) for each, step, last in zip(seconds, steps, [0, *steps[:-1]], strict=True))
    on_gpu = [row['memory'] * 2**20 for row in logged if 'memory' in row]  # mmengine counts MiB
    return {
        **tested,
        'git': ', '.join(dict.fromkeys(sittings.read_text().split())),  # of all sittings, the first one first
        'seconds_per_iteration': statistics.median(seconds) if seconds else None,
        'minutes': (trained_in + tested_in) / 60,
        'minutes_measuring': (time.monotonic() - start - tested_in) / 60,
        'peak_bytes': max(on_gpu, default=used),
        'loss': {'step': thinned(steps), 'value': thinned([row['loss'] for row in logged])},
        **measured,
    }


def thinned(values: list, most: int = POINTS) -> list:
    """At most so many of the values, evenly spaced, with the first and the last."""
    if len(values) <= most:
        return values
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def cores() -> int:
    """Threads for all runs together: ``OMP_NUM_THREADS`` where it is set, else one for each core we may use."""
    return int(os.environ.get('OMP_NUM_THREADS') or len(os.sched_getaffinity(0)))


def run_all(todo: Sequence[tuple[Rows, Run]], jobs: int = 1, minutes: float | None = None) -> None:
    """Do the runs that have no finished row, in processes of their own, and keep each row as it comes."""
    waiting = [(rows, run) for rows, run in todo if not rows.has(run)]
    for rows, run in waiting:
        rows.check_folder(run)
    threads, start, stop = max(1, cores() // jobs), time.monotonic(), threading.Event()
    counted: dict[tuple[Path, str], dict] = {}  # seeds cost the same
    under_way: dict[Future, tuple[Rows, Run, dict, int]] = {}
    columns = (TextColumn('{task.description}', markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # End as after Ctrl-C, so that no training is left behind.
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        with Progress(*columns) as progress, ThreadPoolExecutor(jobs) as pool:
            try:
                while waiting or under_way:
                    if waiting and minutes is not None and time.monotonic() - start > 60 * minutes:
                        print(f'the time is up; the same command goes on with the {len(waiting)} runs that are left')
                        waiting = []
                    while waiting and len(under_way) < jobs:
                        rows, run = waiting.pop(0)
                        rows.make_folder(run)
                        cfg, key = copy.deepcopy(run.cfg), (rows.path, run.name)  # what is built of it may change it
                        head = {'sha': run.sha, **origin(cfg, threads)}
                        counted[key] = counted.get(key) or run.count(cfg)
                        head |= counted[key]
                        job = pool.submit(train_and_measure, run, rows.folder(run), threads, stop)
                        under_way[job] = rows, run, head, progress.add_task(run.title, total=head['iterations'])
                    done, _ = wait(under_way, timeout=1, return_when=FIRST_COMPLETED)
                    for rows, run, _, task in under_way.values():
                        logged = scalars(rows.folder(run))
                        progress.update(task, completed=logged[-1]['step'] if logged else 0)
                    for job in done:
                        rows, run, head, task = under_way.pop(job)
                        progress.remove_task(task)
                        try:
                            rows.add(run, head | job.result())
                            print(f'{run.title}: {rows.row(run)["minutes"]:.1f} minutes')
                        except RunError as error:
                            rows.add(run, head | {'failed': f'{error} ({rows.folder(run) / "log.txt"})'})
                            print(f'{run.title}: failed: {error}')
            finally:
                stop.set()
    finally:
        signal.signal(signal.SIGTERM, before)
