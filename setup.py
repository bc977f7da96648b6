"""Metadata lives in pyproject.toml; this file lets tools that still look for setup.py find one."""

from setuptools import setup

setup()
