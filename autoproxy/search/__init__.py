"""The search: configuration, state, and the loop from one state to the next."""
