"""How benchmarks take turns and time: in this process, or with a process for each side."""

import ctypes
import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

Run = Callable[..., object]


def seconds_of(run: Run, *args: object) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run(*args)
    return time.perf_counter() - start


def synchronised(run: Run, device: str) -> Callable[..., None]:
    """``run``, which then waits for the device."""

    def both(*args: object) -> None:
        run(*args)
        if torch.device(device).type == 'cuda':
            torch.cuda.synchronize()

    return both


def rounds(timers: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each timer in each round; in a round every timer has one turn."""
    found = [{name: timer() for name, timer in timers.items()} for _ in range(repeats)]
    return {name: [each[name] for each in found] for name in timers}


def interleaved(runs: Mapping[str, Run], repeats: int) -> dict[str, list[float]]:
    """Seconds of functions that take turns in this process, after two calls of each that warm up."""
    for run in runs.values():
        run()
        run()
    return rounds({name: partial(seconds_of, run) for name, run in runs.items()}, repeats)


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Median and spread of rounds."""
    return {
        'seconds_median': statistics.median(seconds),
        'seconds_min': min(seconds),
        'seconds_max': max(seconds),
    }


def by_turns(makers: Mapping[str, Callable[[], Run]], device: str, repeats: int) -> dict[str, dict[str, Any]]:
    """Make and warm up functions one after the other, then let them take turns in this process.

    Rows have 'first_seconds' of the first call, 'seconds' (the median) with their 'range', and on a GPU 'peak_bytes'
    above what was there before; or 'error' alone, for one that does not fit in memory or cannot run.
    """
    runs: dict[str, Run] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name, make in makers.items():
        try:
            runs[name], rows[name] = _warm_up(make, device)
        except Exception as error:  # of whatever kind: the others are timed
            rows[name] = {'error': describe(error)}
        if name not in runs:
            release(device)  # not before: the error holds what it was raised in
    timers = {name: partial(seconds_of, run) for name, run in runs.items()}
    for name, seconds in rounds(timers, repeats).items():
        rows[name] |= {'seconds': statistics.median(seconds), 'range': [min(seconds), max(seconds)]}
    return rows


def _warm_up(make: Callable[[], Run], device: str) -> tuple[Run, dict[str, float]]:
    """Make a function and call it twice; what was seen in that."""
    run = make()
    row = {'first_seconds': seconds_of(run)}
    if device == 'cuda':
        return run, row | {'peak_bytes': peak_on_gpu(run)}
    run()
    return run, row


def describe(error: Exception) -> str:
    """An error in a few words."""
    text = str(error).strip() if type(error) is RuntimeError else f'{type(error).__name__}: {error}'
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
        return 'out of memory'
    return text.splitlines()[0].split('. ')[0][:100]


def release(device: str) -> None:
    """Give memory back; ends in an error if the device can no longer be used."""
    gc.collect()
    if device == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def start_anew(device: str) -> None:
    """Forget what was measured and compiled: torch compiles one function for eight models at most, and then no more."""
    torch.compiler.reset()
    release(device)


def peak_on_gpu(run: Run) -> int:
    """Bytes that a call holds at most on the GPU, above what is there before."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() - before


def peak_on_cpu(run: Run) -> int:
    """Bytes that a call holds at most in this process, above what is there before."""
    ctypes.CDLL('libc.so.6').malloc_trim(0)
    Path('/proc/self/clear_refs').write_text('5')  # resets the kernel's high-water mark of this process
    before = _high_water()
    run()
    return _high_water() - before


def _high_water() -> int:
    """The most memory this process has had, in bytes."""
    return int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]) * 1024


class Worker:
    """What ``prepare`` makes of a task, in a process of its own: allocations of others do not change its speed."""

    def __init__(self, prepare: Callable[[Any], Run], task: object) -> None:
        context = multiprocessing.get_context('spawn')
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, prepare, task))
        self.process.start()
        theirs.close()  # so that the end of the process is seen
        first = self._answer()
        self.error = first if isinstance(first, str) else None
        self.peak_bytes = first  # the most memory of one call, above model, images and gradients

    def _answer(self) -> Any:
        try:
            return self.pipe.recv()
        except EOFError:
            self.process.join()
            raise SystemExit(self.process.exitcode or 1) from None  # its error is on the screen

    def turn(self, *args: object) -> float:
        """Seconds of one call; the other sides wait."""
        self.pipe.send(args)
        return self._answer()

    def end(self) -> None:
        """Let the process go."""
        self.pipe.close()
        self.process.join()


def _serve(pipe: Connection, prepare: Callable[[Any], Run], task: object) -> None:
    """Be a :class:`Worker`: after two calls that warm up, the second for its memory, a call for each turn."""
    try:
        run = prepare(task)
        run()  # libraries keep what they allocate at first use
        pipe.send(peak_on_gpu(run) if torch.cuda.is_initialized() else peak_on_cpu(run))
    except RuntimeError as error:
        if describe(error) != 'out of memory':
            raise
        return pipe.send('out of memory')
    with suppress(EOFError):
        while True:
            pipe.send(seconds_of(run, *pipe.recv()))


@contextmanager
def workers(prepare: Callable[[Any], Run], tasks: Mapping[str, object]) -> Iterator[dict[str, Worker]]:
    """A warm :class:`Worker` for each task; one is made ready after the other."""
    found: dict[str, Worker] = {}
    try:
        for name, task in tasks.items():
            found[name] = Worker(prepare, task)
        yield found
    finally:
        for worker in found.values():
            worker.end()


def apart(prepare: Callable[[Any], Run], tasks: Mapping[str, object], repeats: int) -> dict[str, dict[str, Any]]:
    """Time what ``prepare`` makes of tasks by turns, each in a process of its own, after two calls that warm up.

    Rows are a :func:`summary` with 'peak_bytes', or 'error' alone for what does not fit in memory.
    """
    with workers(prepare, tasks) as found:
        ready = {name: worker for name, worker in found.items() if worker.error is None}
        seconds = rounds({name: worker.turn for name, worker in ready.items()}, repeats)
    return {
        name: summary(seconds[name]) | {'peak_bytes': worker.peak_bytes} if name in ready else {'error': worker.error}
        for name, worker in found.items()
    }


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Markdown."""

    def line(cells: Sequence[object]) -> str:
        return f'| {" | ".join(map(str, cells))} |'

    return '\n'.join([line(head), '|' + '---|' * len(head), *map(line, rows)])


def compared(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rows of :func:`apart` or :func:`summary`, which are printed and get ratios of time and memory to the first."""
    first, lines = next(iter(rows.values())), []
    for name, row in rows.items():
        known = [key for key in ('seconds_median', 'peak_bytes') if key in row and key in first]
        row |= {f'{key}_ratio': row[key] / first[key] for key in known}
        milliseconds = [f'{row[key] * 1e3:.1f}' for key in row if key.startswith('seconds') and 'ratio' not in key]
        peak = [f'{row["peak_bytes"] / 2**20:.1f}'] if 'peak_bytes' in row else ['-']
        lines.append([
            name, *(milliseconds or [row['error'], '-', '-']), *peak,
            *(f'{row[f"{key}_ratio"]:.2f}' if key in known else '-' for key in ('seconds_median', 'peak_bytes')),
        ])  # fmt: skip
    print(table(['', 'median, ms', 'least', 'most', 'peak, MiB', 'ratio of time', 'of memory'], lines))
    return rows
