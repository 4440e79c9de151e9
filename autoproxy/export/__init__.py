"""Exports: a metric as Python, sympy, LaTeX, infix text and JSON."""
