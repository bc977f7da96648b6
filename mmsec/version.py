"""The version of mmsec."""

__version__ = '0.1.0'
