"""Initial weights that several networks are drawn with."""

from torch import nn


def draw_normal(network: nn.Module) -> None:
    """Draw every parameter from a normal of deviation 0.02; biases are zero, norms stay.

    BERT's and GPT-2's way, from torch's global generator, in the order of the parameters.
    """
    for name, parameter in network.named_parameters():
        if "norm" in name:
            continue
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.normal_(parameter, std=0.02)
