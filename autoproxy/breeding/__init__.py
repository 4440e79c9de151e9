"""Breeding: trees in, trees out; the only package that imports DEAP."""
