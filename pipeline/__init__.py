"""Everything that needs no GPU, in the order a page meets it."""

__version__ = "0.1.0"
