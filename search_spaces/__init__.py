"""Search spaces: words, limits, and the hand-made metrics that came before."""
