"""Triton kernels, forward and backward. Nothing here is imported before a kernel is to run: Triton may be missing."""
