"""Run what docs/evidence.md says of real images: print what is left and how long it takes, do it, make the page.

Finished runs are rows of JSON files, written as they come: a call that is stopped goes on where it was when it is
started again. What a row needs of its checkpoint is measured right behind the training.
"""

import argparse
import statistics
from collections.abc import Mapping
from pathlib import Path

from evidence_pages import write_page
from evidence_runs import ROOT, SECTIONS, missing, sections
from training_rows import Rows, Run
from training_runs import run_all

from mmsec.engine.processes import run


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--plan', action='store_true', help='say what would run, and stop')
    parser.add_argument('--pages', action='store_true', help='make the page and its figures alone, of what is there')
    parser.add_argument('--section', nargs='+', choices=SECTIONS, default=list(SECTIONS), help='default: all')
    parser.add_argument('--minutes', type=float, metavar='M', help='start nothing new after so long')
    parser.add_argument('--jobs', type=int, default=1, metavar='N', help='runs at the same time (default: %(default)s)')
    parser.add_argument('--out', type=Path, default=ROOT / 'docs/evidence', help='rows; the page is beside it, OUT.md')
    work_dir = Path('work_dirs/evidence')
    parser.add_argument('--work-dir', type=Path, default=work_dir, help='checkpoints and logs (default: %(default)s)')
    args = parser.parse_args()
    if args.jobs < 1:
        parser.error(f'--jobs must be at least 1, got {args.jobs}')
    return args


def minutes_of(rows: Rows, each: Run) -> float | None:
    """About how long a run takes: the mean of its other seeds, else of all runs beside it; None before the first."""
    seeds = rows.runs.get(each.name, {})
    for found in (seeds.values(), [row for runs in rows.runs.values() for row in runs.values()]):
        minutes = [row['minutes'] + row['minutes_measuring'] for row in found if 'failed' not in row]
        if minutes:
            return statistics.mean(minutes)
    return None


def plan(chosen: Mapping[str, tuple[Rows, list[Run]]], jobs: int) -> list[tuple[Rows, Run]]:
    """Print what is done and what is left."""
    left: dict[tuple[Path, str], tuple[Rows, Run]] = {}
    lacking: dict[str, int] = {}
    for name, (rows, runs) in chosen.items():
        print(f'{name}: {SECTIONS[name]}')
        for each in runs:
            row = rows.row(each)
            if rows.has(each):
                print(f'  {each.title}: finished')
                continue
            before = f'failed before, {row["failed"]}; ' if row else ''
            reason = missing(each.cfg)
            if reason:
                lacking[reason] = lacking.get(reason, 0) + 1
                print(f'  {each.title}: {before}cannot run')
                continue
            left[rows.path, each.title] = rows, each
            minutes = minutes_of(rows, each)
            print(f'  {each.title}: {before}to run, about {"?" if minutes is None else f"{minutes:.0f}"} minutes')
    known = [minutes for minutes in (minutes_of(*each) for each in left.values()) if minutes is not None]
    unknown = len(left) - len(known)
    print(f'to run: {len(left)}, {jobs} at the same time, in about {sum(known) / jobs / 60:.1f} hours', end='')
    print(f' and what {unknown} need of which no run is known' if unknown else '')
    for reason in lacking:
        print(f'cannot run: {lacking[reason]}: {reason}')
    return list(left.values())


def main() -> None:
    """Say what is left, do it, make the page."""
    args = parse_args()
    if not args.pages:
        left = plan(sections(args.section, args.out, args.work_dir), args.jobs)
        if args.plan:
            return
        run_all(left, args.jobs, args.minutes)
    print(f'page: {write_page(args.out)}')


if __name__ == '__main__':
    run(main)
