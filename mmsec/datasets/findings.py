"""What a look at data sets found, and how it is told."""

from collections.abc import Sequence
from dataclasses import dataclass, field

UNUSABLE_SHARE = 0.1  # a data set of which more cannot be used is refused, unless max_share says otherwise
_ROWS = 20


@dataclass
class Findings:
    """What a look at one data set found.

    Attributes:
        data (str): Its split and its file or folder.
        images (int): Images that it holds.
        left (int): Images that are left where its filter has passed; None where they were not counted.
        annotations (int): Instances, or label maps that were looked at.
        classes (dict): To each class the number of its usable instances, or of label maps or images that have it.
        left_out (dict): To each reason why something cannot be used the names of what it is true of.
        passed_over (dict): To each reason why something is left out on purpose how often that happens.
        refused (list): Why no run can use it, a line each.
    """

    data: str
    images: int = 0
    left: int | None = None
    annotations: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    passed_over: dict[str, int] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)

    def refuse(self, reason: str) -> None:
        """Add a line that says what is wrong with the data and what to do."""
        self.refused.append(f'{self.data}: {reason}')

    def refuse_many(self, of: int, what: str, max_share: float, advice: str) -> None:
        """Refuse the data where too many of its parts cannot be used."""
        count = sum(map(len, self.left_out.values()))
        if count > max_share * of:
            self.refuse(
                f'{count} of {of} {what} cannot be used, more than {max_share:.0%}: {self.reasons(1)}. {advice}'
            )

    def because(self, *parts: str) -> str:
        """What was left out on purpose of the parts that are asked for, after a colon."""
        reasons = [f'{count} {reason}' for reason, count in self.passed_over.items() if reason.startswith(parts)]
        return f': {"; ".join(reasons)}' if reasons else ''

    def reasons(self, shown: int | None = None) -> str:
        """Why parts of the data cannot be used, with the first ``shown`` names of each reason."""
        return '; '.join(f'{len(names)} {reason} ({some(names, shown)})' for reason, names in self.left_out.items())


def some(names: Sequence[str], shown: int | None = 5) -> str:
    """The first names of many, and how many follow."""
    more = len(names) - len(names[:shown])
    return ', '.join(names[:shown]) + (f' and {more} more' if more else '')


def table(found: Sequence[Findings], shown: int | None = _ROWS) -> str:
    """Lay out what was found: sizes, classes, what is left out and why; ``shown`` classes, and so many names."""
    rows: list[tuple[str, ...]] = [('images', 'annotations', 'not usable', '')]
    for each in found:
        count = sum(map(len, each.left_out.values()))
        images = f'{each.images}' if each.left in (None, each.images) else f'{each.left} of {each.images}'
        numbers = (images, f'{each.annotations}', f'{count}')
        seen = each.images or each.annotations or count or not each.refused
        rows.append((*(numbers if seen else '---'), each.data))  # refused before it was looked at
    lines = _aligned(rows)
    of_classes = [each for each in found if each.classes]
    names = list(dict.fromkeys(name for each in of_classes for name in each.classes))
    if names:
        rare = sorted(names, key=lambda name: of_classes[0].classes.get(name, 0))[:shown]
        rows = [tuple(each.data.split()[0] for each in of_classes) + ('class',)]
        rows += [
            tuple(str(each.classes.get(name, 0)) for each in of_classes) + (name,) for name in names if name in rare
        ]
        lines += _aligned(rows)
        if len(names) > len(rare):
            lines.append(f'and {len(names) - len(rare)} classes that have more')
    for each in found:
        if each.left_out:
            lines.append(f'{each.data}: not usable: {each.reasons(shown and 3)}')
        if each.passed_over:
            reasons = '; '.join(f'{count} {reason}' for reason, count in each.passed_over.items())
            lines.append(f'{each.data}: left out: {reasons}')
    return '\n'.join(lines)


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows of numbers, each with a text at its end, one below the other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    return [
        '  '.join([*(cell.rjust(width) for cell, width in zip(row[:-1], widths, strict=True)), row[-1]]).rstrip()
        for row in rows
    ]
