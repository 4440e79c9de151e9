"""Pruner-Zero's tree files: read, written, and worth what its own code makes of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given as drawn_from
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from autoproxy.errors import ConfigError
from autoproxy.export.best_tree import from_tree, is_tree, read_best_tree, write_best_tree
from autoproxy.language.canonical import canonical
from autoproxy.language.expression import Expression
from autoproxy.language.parse import parse
from autoproxy.language.program import Program
from evaluators.masks import keep_mask, mask_hash, pack
from evaluators.pruning import PruningEvaluator
from search_spaces.importance import SPACE
from tests.autoproxy.export.pruner_zero_trees import PUBLISHED, NoNumber, Tree, given, trees, value
from tests.evaluators.test_golden_masks import CASES, GOLDEN, digest, pattern_of, statistics
from tests.evaluators.tiny import tiny_options
from tests.saying import Run, refused


def computed(expression: Expression, seed: int) -> Any:
    """Return what the engine makes of a formula, from signed weights and plain statistics."""
    made = given(seed)
    signs = np.random.default_rng(seed + 1).choice([-1.0, 1.0], made["W"].shape)
    inputs = {
        "W": torch.from_numpy(made["W"] * signs),
        "g_norm": torch.from_numpy(made["G"] / 100),
        "x_norm": torch.from_numpy(np.sqrt(made["X"])),
    }
    (found,) = Program([expression]).run(inputs)
    return found.numpy()


@drawn_from(trees(), st.integers(0, 99))
def test_a_tree_is_worth_what_pruner_zeros_code_computes(tree: Tree, seed: int) -> None:
    """In float64, where rounding does not hide a wrong formula."""
    try:
        wanted = value(tree, given(seed))
    except NoNumber:
        return
    found = computed(from_tree(tree), seed)
    assert found.shape == wanted.shape
    size = np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7 * size + 1e-12)


@drawn_from(trees())
def test_what_is_written_reads_back(tree: Tree) -> None:
    read = from_tree(tree)
    assert from_tree(json.loads(write_best_tree(read))) == read
    shorter = canonical(read)  # which sorts, drops what does nothing, and signs that are not seen
    assert canonical(from_tree(json.loads(write_best_tree(shorter)))) == shorter


def test_the_published_tree(tmp_path: Path) -> None:
    path = tmp_path / "best_tree.json"
    path.write_text(PUBLISHED, encoding="utf-8")
    read = read_best_tree(path)
    assert str(read) == "mul(abs(mul(abs(W), abs(W))), minmax(mul(100, g_norm)))"
    assert write_best_tree(read) == PUBLISHED
    assert is_tree(json.loads(PUBLISHED))


def test_the_published_tree_decides_the_golden_masks_of_the_baseline() -> None:
    """Which independent loops decide, too: see test_golden_masks."""
    found = []
    for condition, share in {"row": 0.5, "matrix": 0.3, "2:4": 0.5}.items():
        masks = []
        for case in CASES:
            seen = statistics(case)
            (importance,) = Program([from_tree(json.loads(PUBLISHED))]).run(seen)
            masks.append(keep(importance, condition, share))
        found.append(digest(masks))
    assert tuple(found) == GOLDEN["pruner-zero"]


def keep(importance: torch.Tensor, condition: str, share: float) -> Any:
    group = "matrix" if condition == "matrix" else "row"
    return keep_mask(importance, pattern_of(condition, share), group).numpy()


def test_on_a_real_model_it_gives_the_masks_of_its_own_code(tmp_path: Path) -> None:
    """Gradients by a loop over sequences, a full sort of each row, as its repository does it."""
    options = tiny_options(tmp_path, sparsity="0.5")
    with PruningEvaluator.from_options(options, cache=tmp_path / "c", notice=print) as evaluator:
        evaluator.prepare(["W", "g_norm"])
        by_tree = evaluator.identity(canonical(from_tree(json.loads(PUBLISHED))))
        by_baseline = evaluator.identity(canonical(SPACE.baseline("pruner-zero").expression))
        blocks = evaluator._texts.blocks(
            "calibration", evaluator._loaded.tokenizer, evaluator._length, 4, 0
        )
    model = LlamaForCausalLM.from_pretrained(options["model"], dtype=torch.float32)
    squares: dict[str, torch.Tensor] = {}
    for block in blocks:
        model.zero_grad()
        model(input_ids=block[None], labels=block[None]).loss.backward()
        for name, module in model.model.layers.named_modules():
            if isinstance(module, torch.nn.Linear):
                squares[name] = squares.get(name, 0.0) + (100 * module.weight.grad) ** 2
    masks = []
    for name, module in model.model.layers.named_modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        weight, gradient = module.weight.detach().abs(), squares[name].sqrt()
        scaled = (gradient - gradient.min()) / (gradient.max() - gradient.min())
        order = torch.sort((weight * weight).abs() * scaled, dim=-1, stable=True)[1]
        stays = torch.ones_like(weight, dtype=torch.bool)
        stays.scatter_(1, order[:, : int(weight.shape[1] * 0.5)], value=False)
        masks.append(pack(stays))
    assert by_tree == by_baseline == mask_hash(masks)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("mul(abs(W), x_norm)", "mul(W, sqrt(X))"),
        ("mul(abs(W), square(x_norm))", "mul(W, X)"),
        ("mul(square(W), minmax(g_norm))", "mul(sqr(W), mms(G))"),  # a factor is not seen
        ("mul(abs(W), sqrt(g_norm))", "mul(W, sqrt(G))"),
        ("add(mul(abs(W), x_norm), mul(abs(W), mul(100, g_norm)))",
         "add(mul(W, sqrt(X)), mul(W, G))"),
        ("pow(x_norm, 0.25) * abs(W)", "mul(sqrt(sqrt(sqrt(X))), W)"),
        ("pow(W, 3)", "mul(sqr(W), W)"),
        ("pz_div(pz_log(W), pz_zsn(g_norm)) - pz_exp(neg(abs(W)))",
         "sub(div(log(W), zsn(G)), exp(neg(W)))"),
    ],
)  # fmt: skip
def test_our_words_in_theirs(text: str, written: str) -> None:
    tree = json.loads(write_best_tree(parse(text)))
    assert spelled(tree) == written
    one, other = computed(parse(text), 3), computed(from_tree(tree), 3)
    wide = np.broadcast_to(one, (4, 6)), np.broadcast_to(other, (4, 6))
    np.testing.assert_array_equal(*(np.argsort(w.ravel(), kind="stable") for w in wide))


def spelled(tree: Tree) -> str:
    below = [spelled(tree[side]) for side in ("left", "right") if side in tree]
    return f"{tree['data']}({', '.join(below)})" if below else str(tree["data"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mul(W, x_norm)", ["W cannot be written", "take abs(W)"]),
        ("abs(W) + g_norm", ["100 times", "take 100 * g_norm"]),
        ("abs(W) * tanh(g_norm)", ["100 times"]),
        ("square(W) * g_norm - abs(W) * (100 * g_norm)", ["100 times"]),  # its G is one of both
        ("abs(W) * x_mean", ["x_mean cannot be written", "square(x_norm)"]),
        ("abs(W) + 2", ["no numbers"]),
        ("div(abs(W), row_sum(abs(W)))", ["'div' of div", "pz_div"]),
        ("log(W)", ["adds 0.001", "pz_log"]),
        ("exp(W)", ["pz_exp"]),
        ("zscore(abs(W))", ["deviation of a sample", "pz_zsn"]),
        ("mul(abs(W), row_sum(abs(W)))", ["'row_sum'", "it has add, sub, mul"]),
        ("pow(W, 0.3)", ["sums of 4, 2, 1, 1/2"]),
        ("pow(W, -1)", ["exponents"]),
    ],
)
def test_what_their_format_has_no_word_for(text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        write_best_tree(parse(text))
    for word in words:
        assert word in str(error.value)


LEAF = {"data": "W"}


def deep(levels: int) -> Tree:
    tree: Tree = LEAF
    for _ in range(levels):
        tree = {"data": "abs", "left": tree}
    return tree


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"data": "mull", "left": LEAF, "right": LEAF}, ["'mull'; did you mean 'mul'?"]),
        ({"data": "abs", "left": {"data": "Q"}}, ["left of the root", "'Q'", "known: G, W, X"]),
        ({"data": "mul", "left": LEAF}, ["'mul' takes 2 operand(s), got 1"]),
        ({"data": "abs", "left": LEAF, "right": LEAF}, ["'abs' takes 1 operand(s), got 2"]),
        ({"data": "W", "left": LEAF}, ["'W' takes 0 operand(s), got 1"]),
        ({"data": "abs", "right": LEAF}, ["on the right alone"]),
        ({"data": "abs", "left": LEAF, "middle": LEAF}, ["middle", "data, left and right"]),
        ({"data": 3}, ["the root", '"data"']),
        (["W"], ["must be an object"]),
        ({"data": "mul", "left": LEAF, "right": "W"}, ["right of the root must be an object"]),
        (deep(70), ["too large"]),
    ],
)
def test_what_is_no_tree(content: object, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        from_tree(content)
    for word in words:
        assert word in str(error.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        read_best_tree(tmp_path / "none.json")
    path = tmp_path / "tree.json"
    path.write_text("{'data': 'W'}", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        read_best_tree(path)
    path.write_text('{"data": "nope"}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"the root of .*tree\.json"):
        read_best_tree(path)


def test_the_command_line_reads_and_writes_trees(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "best_tree.json"
    path.write_text(PUBLISHED, encoding="utf-8")
    told = run("explain", path, "--results", tmp_path, "--json").json
    assert (told["name"], told["kind"]) == ("best_tree", "Weight")
    assert told["text"] == "mul(minmax(mul(100, g_norm)), square(W))"
    said = run("export", path, "--form", "best-tree", "--results", tmp_path)
    assert (said.code, said.err) == (0, "")
    assert spelled(json.loads(said.out)) == "mul(mms(G), sqr(W))"
    source = run("export", path, "--results", tmp_path).out
    assert "def best_tree(weight: Tensor, g_norm: Tensor) -> Tensor:" in source
    refused(run("export", "ria", "--form", "best-tree", "--results", tmp_path), "'div' of div")
    path.write_text('{"data": "mul", "left": {"data": "W"}}', encoding="utf-8")
    refused(run("explain", path, "--results", tmp_path), "best_tree.json", "takes 2 operand(s)")
