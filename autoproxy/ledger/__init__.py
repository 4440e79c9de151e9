"""The ledger: every evaluation of every run, the instant it ends."""
