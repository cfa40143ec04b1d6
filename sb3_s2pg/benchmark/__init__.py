"""Algorithms with and without memory, compared on a task of yours: ``python -m sb3_s2pg.benchmark --help``."""
