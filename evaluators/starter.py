"""The two small language models that ship with the project."""

from importlib import resources
from pathlib import Path

from autoproxy.errors import ModelError, unknown_name

STARTERS = {
    "starter": "starter-llama",
    "llama": "starter-llama",
    "starter-llama": "starter-llama",
    "starter-gpt2": "starter-gpt2",
}
"""What users write, and the folder. `gpt2` is no such word: it is a model of the hub."""

SHIPPED = ("starter", "starter-gpt2")
"""One word for each model."""

_FAMILIES = {"gpt2": "starter-gpt2"}


def starter_folder(family: str = "llama") -> Path:
    """Return the folder of a shipped model, ready for `from_pretrained`.

    Args:
        family: `llama` or `gpt2`, or what users write: `starter` (the LLaMA), `starter-gpt2`.

    Raises:
        ModelError: There is no such starter model, or this installation lacks its files.

    >>> starter_folder("starter") == starter_folder("llama")
    True
    """
    known = STARTERS | _FAMILIES
    if family not in known:
        raise ModelError(unknown_name("starter model", family, STARTERS))
    folder = Path(str(resources.files("evaluators") / "assets" / known[family]))
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"starter model {family!r}: {folder} has no config.json, so this installation came"
            " without the shipped models; install it again, or train one with"
            " `python -m evaluators.train_starter`"
        )
    return folder
