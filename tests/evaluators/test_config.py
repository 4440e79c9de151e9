"""What a pruning evaluator is asked: defaults, plain options, and refusals."""

from typing import Any

import pytest

from autoproxy.errors import ConfigError
from evaluators.config import PruningConfig
from evaluators.masks import NM, Unstructured


def test_half_is_dropped_by_row_where_nothing_is_said() -> None:
    config = PruningConfig()
    assert str(config.condition) == "50%"
    assert config.group == "row"
    assert config.model == "starter"


def test_plain_options_become_what_their_fields_want() -> None:
    config = PruningConfig.from_options(
        {"sparsity": 0.29, "calibration": "a.txt", "text": ["b.txt", "c.txt"], "seed": 3}
    )
    assert config.condition == Unstructured(config.condition.sparsity)  # type: ignore[union-attr]
    assert config.condition.dropped(100) == 29  # type: ignore[union-attr]
    assert (config.calibration, config.text) == (("a.txt",), ("b.txt", "c.txt"))
    assert config.seed == 3
    assert PruningConfig.from_options({"pattern": "2:4"}).condition == NM(2, 4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sparsty": 0.5}, "unknown evaluator option 'sparsty'; did you mean 'sparsity'"),
        ({"calibrations": "x"}, "did you mean 'calibration'"),
        ({"group": "rows"}, "did you mean 'row'"),
        ({"group": "matirx"}, "did you mean 'matrix'"),
        ({"sparsity": 0.5, "pattern": "2:4"}, "either a sparsity"),
        ({"sparsity": 1.0}, r"must lie in \[0, 1\)"),
        ({"sparsity": -0.1}, r"must lie in \[0, 1\)"),
        ({"sparsity": "abc"}, "is no number"),
        ({"sparsity": True}, "sparsity must be"),
        ({"sparsity": [0.5]}, "sparsity must be"),
        ({"pattern": "4:2"}, "is not KEEP:BLOCK"),
        ({"pattern": 2}, "pattern must be a word"),
        ({"seed": "0"}, "seed must be a whole number"),
        ({"seed": 0.5}, "seed must be a whole number"),
        ({"seed": True}, "seed must be a whole number"),
        ({"length": 1}, "length must be at least 2, got 1"),
        ({"length": "long"}, "length must be a whole number"),
        ({"calibration_blocks": 0}, "calibration_blocks must be at least 1, got 0"),
        ({"validation_blocks": -1}, "validation_blocks must be at least 1"),
        ({"confirm_blocks": 0}, "confirm_blocks must be at least 1"),
        ({"text_blocks": 0}, "text_blocks must be at least 1"),
        ({"text": []}, "text must be one or more words"),
        ({"text": [1]}, "text must be one or more words"),
        ({"model": 7}, "model must be a word"),
    ],
)
def test_what_cannot_be_asked_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        PruningConfig.from_options(options)


@pytest.mark.parametrize(
    ("model", "length", "longest", "found"),
    [
        ("starter", None, 512, 256),
        ("llama", None, 512, 256),
        ("folder", None, 131_072, 2048),
        ("folder", None, 1024, 1024),
        ("folder", 100, 1024, 100),
        ("folder", 1024, 1024, 1024),
    ],
)
def test_the_length_is_the_usual_one_capped_by_the_model(
    model: str, length: int | None, longest: int, found: int
) -> None:
    assert PruningConfig(model=model, length=length).sequence_length(longest) == found


def test_a_length_beyond_the_model_names_both_numbers() -> None:
    with pytest.raises(ConfigError, match="length 65 exceeds the 64 tokens"):
        PruningConfig(length=65).sequence_length(64)


def test_the_report_reads_about_8192_tokens() -> None:
    assert PruningConfig().report_blocks(256) == 32
    assert PruningConfig().report_blocks(100_000) == 1
    assert PruningConfig(text_blocks=3).report_blocks(256) == 3
