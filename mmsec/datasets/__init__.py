"""Generated data in the layouts of COCO and ADE20K, and loading that survives broken files."""

from mmsec.datasets.skip_broken import SkipBroken

__all__ = ['SkipBroken']
