"""A function in plain torch, and the kernels that may take its place."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

_PLAIN = 'plain torch'


class Kernel(NamedTuple):
    """Another way to compute what a front computes.

    Attributes:
        name (str): What it is called in :func:`explain`.
        why_not (Callable): Called with the front's arguments: the reason why it does not serve for them, or None.
        run (Callable): Called with the front's arguments: the result.
        details (Callable, optional): Called with the front's arguments: what PyTorch chooses inside it.
    """

    name: str
    why_not: Callable[..., str | None]
    run: Callable[..., Any]
    details: Callable[..., dict[str, str]] | None = None


class _State:
    """What is in force for all fronts."""

    plain = False
    calls: list[tuple[str, dict[str, str]]] | None = None


def front(*kernels: Kernel, details: Callable[..., dict[str, str]] | None = None) -> Callable[[Callable], Callable]:
    """Let kernels take the place of a function: the first one that has nothing against the arguments runs.

    The function itself is plain torch: what is right, what runs where no kernel serves, and what is exported.

    Args:
        kernels (Kernel): In order of preference.
        details (Callable, optional): Called with the front's arguments where plain torch runs: what PyTorch chooses
            inside it, for :func:`explain`.

    Returns:
        Callable: A decorator. What it returns takes positional arguments.
    """

    def decorate(plain: Callable) -> Callable:
        @functools.wraps(plain)
        def op(*args: Any) -> Any:
            if _State.calls is not None:
                _State.calls.append((plain.__name__, _reasons(kernels, details, args)))
            if not (_State.plain or torch.compiler.is_exporting()):
                for kernel in kernels:
                    if kernel.why_not(*args) is None:
                        return kernel.run(*args)
            return plain(*args)

        return op

    return decorate


@contextmanager
def plain_torch() -> Iterator[None]:
    """Compute every front in plain torch inside this context: the oracle that kernels are held against."""
    before, _State.plain = _State.plain, True
    try:
        yield
    finally:
        _State.plain = before


def explain(function: Callable, *args: Any) -> dict[str, dict[str, str]]:
    """Run a function and say which kernels it took, and why not the others.

    Args:
        function (Callable): A front of :mod:`mmsec.ops`, or anything that calls some, such as a backbone.
        args: What it is called with.

    Returns:
        dict[str, dict[str, str]]: To the name of each front that was called its kernels, with 'chosen' or the reason
        against each. Where calls differ, the kernels' names carry the number of calls that were answered so.
    """
    before, _State.calls = _State.calls, []
    try:
        function(*args)
        calls = _State.calls
    finally:
        _State.calls = before
    answers: dict[str, list[dict[str, str]]] = {}
    counts: dict[str, list[int]] = {}
    for name, reasons in calls:
        known = answers.setdefault(name, [])
        if reasons not in known:
            known.append(reasons)
            counts.setdefault(name, []).append(0)
        counts[name][known.index(reasons)] += 1
    return {
        name: known[0]
        if len(known) == 1
        else {
            f'{kernel}, {n} calls': said
            for each, n in zip(known, counts[name], strict=True)
            for kernel, said in each.items()
        }
        for name, known in answers.items()
    }


def _reasons(kernels: tuple[Kernel, ...], details: Callable | None, args: tuple) -> dict[str, str]:
    """To each kernel 'chosen' or why not."""
    reasons: dict[str, str] = {}
    chosen = None
    for kernel in kernels:
        reason = 'plain torch was asked for' if _State.plain else kernel.why_not(*args)
        if reason is None and chosen is None:
            chosen, details, reason = kernel.name, kernel.details, 'chosen'
        reasons[kernel.name] = reason or f'could run; {chosen} is preferred'
    inside = {f'{chosen or _PLAIN}: {name}': said for name, said in details(*args).items()} if details else {}
    return reasons | {_PLAIN: f'could run; {chosen} is preferred' if chosen else 'chosen'} | inside
