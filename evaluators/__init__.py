"""Evaluators: everything that touches models and text."""
