"""Ways to make fewer tokens of many. Each is one file that makes a :class:`Merging`, and a name in :data:`METHODS`."""

from collections.abc import Mapping
from dataclasses import MISSING, fields

from mmsec.ops.merging.base import MergingMethod
from mmsec.ops.merging.density_peaks import density_peak_merging
from mmsec.ops.merging.expedit import Expedit, expedit
from mmsec.ops.merging.merging import Links, Merging
from mmsec.ops.merging.pitome import PiToMe, pitome
from mmsec.ops.merging.tome import ToMe, tome
from mmsec.ops.merging.tomesd import ToMeSD, tomesd

METHODS: dict[str, type[MergingMethod]] = {cls.__name__: cls for cls in (ToMe, ToMeSD, PiToMe, Expedit)}


def build_merging(options: Mapping[str, object]) -> MergingMethod:
    """Make a method of merging from a config.

    Args:
        options (Mapping): ``type``, a name in :data:`METHODS`, and the options of that class.

    Returns:
        MergingMethod: The method.

    Raises:
        ValueError: If the type or an option is unknown, missing or out of its range; one line says what is allowed.
    """
    options = dict(options)
    name = options.pop('type', None)
    if name not in METHODS:
        raise ValueError(f'type of merging must be one of {", ".join(METHODS)}, got {name!r}')
    known = fields(METHODS[name])  # type: ignore[arg-type]  # each is a dataclass of its options
    takes = ', '.join(field.name for field in known)
    for option in options:
        if option not in {field.name for field in known}:
            raise ValueError(f'merging {name} has no option {option!r}; it takes {takes}')
    for field in known:
        if field.name not in options and field.default is MISSING:
            raise ValueError(f'merging {name} needs the option {field.name!r}; it takes {takes}')
    return METHODS[name](**options)


__all__ = [
    'METHODS',
    'Expedit',
    'Links',
    'Merging',
    'MergingMethod',
    'PiToMe',
    'ToMe',
    'ToMeSD',
    'build_merging',
    'density_peak_merging',
    'expedit',
    'pitome',
    'tome',
    'tomesd',
]
