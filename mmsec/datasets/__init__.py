"""Generated data, converters of small public sets, and loading that survives broken files."""

from mmsec.datasets.skip_broken import SkipBroken

__all__ = ['SkipBroken']
