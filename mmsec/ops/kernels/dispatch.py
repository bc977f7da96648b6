"""A fused op: a function in plain torch, and the kernels that may take its place."""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from mmsec import compat
from mmsec.ops.kernels import conditions, table

_PLAIN = 'plain torch'


class KernelError(RuntimeError):
    """A kernel cannot be compiled or started on this machine."""


class Kernel(NamedTuple):
    """Another way to compute what a fused op computes.

    Attributes:
        name (str): What it is called in :func:`explain`.
        why_not (Callable): Called with the op's arguments: the reason why it does not serve for them, or None.
        run (Callable): Called with the op's arguments: the result. It may raise :class:`KernelError`.
        details (Callable, optional): Called with the op's arguments: what PyTorch chooses inside it.
        in_graphs (bool): Whether it also serves under torch.compile, torch.jit.trace and torch.func. Default: False.
    """

    name: str
    why_not: Callable[..., str | None]
    run: Callable[..., Any]
    details: Callable[..., dict[str, str]] | None = None
    in_graphs: bool = False


class _State:
    """What is in force for all fused ops."""

    calls: list[tuple[str, dict[str, str]]] | None = None
    failed: dict[str, str] = {}  # kernels that raised KernelError, and what it said


def fused_op(*kernels: Kernel, details: Callable[..., dict[str, str]] | None = None) -> Callable[[Callable], Callable]:
    """Let kernels take the place of a function: the first one that has nothing against the arguments runs.

    The function itself is plain torch: the reference implementation, what runs where no kernel serves, and what is
    exported. A kernel that fails is left out from then on, and a warning says so once.

    Args:
        kernels (Kernel): In order of preference.
        details (Callable, optional): Called with the op's arguments where plain torch runs: what PyTorch chooses
            inside it, for :func:`explain`.

    Returns:
        Callable: A decorator. What it returns takes positional arguments.
    """

    def decorate(plain: Callable) -> Callable:
        @functools.wraps(plain)
        def op(*args: Any) -> Any:
            if _State.calls is not None:
                _State.calls.append((plain.__name__, _reasons(kernels, details, args)))
            if not (table.mode() == 'off' or compat.is_exporting()):
                for kernel in kernels:
                    if _why_not(kernel, args) is None:
                        try:
                            return kernel.run(*args)
                        except KernelError as error:
                            _leave_out(kernel, error)
            return plain(*args)

        return op

    return decorate


def plain_torch() -> Any:
    """Compute every fused op in plain torch inside this context: the reference that kernels are tested against."""
    return table.use_kernels('off')


def explain(function: Callable, *args: Any) -> dict[str, dict[str, str]]:
    """Run a function and say which kernels it took, and why not the others.

    Args:
        function (Callable): A fused op of :mod:`mmsec.ops`, or anything that calls some, such as a backbone.
        args: What it is called with.

    Returns:
        dict[str, dict[str, str]]: To the name of each fused op that was called its kernels, with 'chosen' or the reason
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


def _why_not(kernel: Kernel, args: tuple) -> str | None:
    """Why a kernel does not serve for these arguments, or None."""
    if not kernel.in_graphs and (why := conditions.why_plain()):
        return why
    return _State.failed.get(kernel.name) or kernel.why_not(*args)


def _leave_out(kernel: Kernel, error: KernelError) -> None:
    """Remember that a kernel failed, and warn."""
    _State.failed[kernel.name] = f'failed on this machine: {error}'
    warnings.warn(f'the kernel {kernel.name!r} failed, plain torch takes its place: {error}', stacklevel=4)


@contextmanager
def forgetting_failures() -> Iterator[None]:
    """Try kernels that failed before again inside this context."""
    before, _State.failed = _State.failed, {}
    try:
        yield
    finally:
        _State.failed = before


def _reasons(kernels: tuple[Kernel, ...], details: Callable | None, args: tuple) -> dict[str, str]:
    """To each kernel 'chosen' or why not."""
    reasons: dict[str, str] = {}
    chosen = None
    for kernel in kernels:
        reason = 'plain torch was asked for' if table.mode() == 'off' else _why_not(kernel, args)
        if reason is None and chosen is None:
            chosen, details, reason = kernel.name, kernel.details, 'chosen'
        reasons[kernel.name] = reason or f'could run; {chosen} is preferred'
    inside = {f'{chosen or _PLAIN}: {name}': said for name, said in details(*args).items()} if details else {}
    return reasons | {_PLAIN: f'could run; {chosen} is preferred' if chosen else 'chosen'} | inside
