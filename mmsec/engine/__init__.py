"""What happens while a model trains: hooks, optimizers, processes."""

from mmsec.engine import hooks, optimizers

__all__ = ['hooks', 'optimizers']
