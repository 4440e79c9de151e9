"""What a comparison of importances cannot see."""

from enum import Enum


class Blindness(Enum):
    """How much of a value the objective is blind to, which a root may therefore drop.

    ROW: importances are compared within a row (per row, N:M). MATRIX: within one matrix.
    WHOLE: over several matrices; only strictly increasing roots may go. NOTHING: magnitudes
    count, nothing may go.
    """

    ROW = "row"
    MATRIX = "matrix"
    WHOLE = "whole"
    NOTHING = "nothing"
