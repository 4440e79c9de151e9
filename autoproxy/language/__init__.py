"""The language: typed expressions over the tensors of one linear layer."""
