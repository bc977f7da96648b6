"""Ways to make fewer tokens of many. Each is one file that makes a :class:`Merging`."""

from mmsec.ops.merging.density_peaks import density_peak_merging
from mmsec.ops.merging.merging import Links, Merging

__all__ = ['Links', 'Merging', 'density_peak_merging']
