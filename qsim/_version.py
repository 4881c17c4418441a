"""Versions: of the package, and of the numerics (raised whenever an integer could come out differently)."""

__version__ = "0.1.0"
NUMERICS = 1
