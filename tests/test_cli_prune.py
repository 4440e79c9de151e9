"""`autoproxy prune`: what it leaves, what it says, and what it leaves when it is stopped."""

import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from autoproxy.language.parse import parse
from evaluators.methods import METHODS
from evaluators.pruning import PruningEvaluator
from evaluators.writing import read_masks
from tests.evaluators.tiny import edit_json, tiny_folder, tiny_options
from tests.runs import flags, summary_of, write_run_file
from tests.saying import Run, refused

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Options of `prune` and `evaluate` for a tiny model and texts of its own."""
    made = tiny_options(tmp_path_factory.mktemp("prune"))
    foreign = {"validation", "validation_blocks", "confirm_blocks"}
    return {name: value for name, value in made.items() if name not in foreign}


@pytest.fixture(scope="module")
def words(options: dict[str, Any]) -> list[str]:
    """The model and the options of `prune` without --check."""
    left = {n: v for n, v in options.items() if n not in {"model", "text", "text_blocks"}}
    return [str(options["model"]), *flags(left)]


@pytest.fixture(scope="module")
def checked(options: dict[str, Any]) -> list[str]:
    """The model and the options of `prune --check`."""
    left = {name: value for name, value in options.items() if name != "model"}
    return [str(options["model"]), *flags(left), "--check"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def recipe_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    return found


def nothing_at(out: Path) -> bool:
    """Return whether there is neither a folder nor a part of one."""
    return not out.exists() and (not out.parent.exists() or not list(out.parent.glob(".*part*")))


# --- what it leaves -----------------------------------------------------------------------------


def test_the_recipe_says_what_was_done_and_how_to_do_it_again(
    run: Run,
    checked: list[str],
    options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The command that it holds gives every file again, bit for bit, in another place."""
    monkeypatch.chdir(tmp_path)
    said = run(
        *("prune", *checked, "--baseline", "ria", "--pattern", "2:4", "--seed", 3),
        *("--out", "deep/pruned", "--results", tmp_path / "r", "--json"),
    )
    assert said.code == 0, said.err
    folder = tmp_path / "deep" / "pruned"
    recipe = recipe_of(folder)
    assert said.json == {"out": "deep/pruned", **recipe, "notices": []}
    assert recipe["metric"] == "ria"
    assert str(parse(recipe["formula"])) == recipe["text"]
    protocol = recipe["protocol"]
    assert protocol["condition"] == "2:4"
    assert protocol["seed"] == 3
    for word in ("model_hash", "calibration_hash", "meanings", "torch", "length", "ties"):
        assert protocol[word], word
    made = PruningEvaluator.from_options(
        {**options, "pattern": "2:4", "seed": 3}, cache=tmp_path / "c", notice=lambda _: None
    )
    assert recipe["mask_hash"] == made.identity(parse(recipe["text"]))
    assert recipe["check"]["text_hash"]
    assert recipe["made_with"]["packages"]["torch"] == torch.__version__
    assert contents(folder).keys() >= {"config.json", "model.safetensors", "tokenizer.json"}

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    again = shlex.split(recipe["command"])
    assert again[0] == "autoproxy"
    assert run(*again[1:], "--results", elsewhere / "r").code == 0
    assert contents(elsewhere / "deep" / "pruned") == contents(folder)


def test_the_recipe_of_a_method_names_it_and_has_no_formula(
    run: Run, checked: list[str], tmp_path: Path
) -> None:
    """Else it says what that of a metric says; its command gives every file again."""
    asked = ["prune", *checked, "--sparsity", "0.5", "--results", tmp_path / "r", "--json"]
    said = run(*asked, "--baseline", "sparsegpt", "--out", tmp_path / "out")
    assert said.code == 0, said.err
    recipe = recipe_of(tmp_path / "out")
    assert said.json == {"out": str(tmp_path / "out"), **recipe, "notices": []}
    assert recipe["metric"] == "sparsegpt"
    assert recipe["method"] == {
        "name": "sparsegpt",
        "source": METHODS["sparsegpt"].source,
        "compares": "columns:128",
    }
    by_metric = run(*asked, "--baseline", "wanda", "--out", tmp_path / "wanda").json
    assert by_metric.keys() - said.json.keys() == {"text", "formula", "key"}
    assert said.json.keys() - by_metric.keys() == {"method"}
    assert said.json["protocol"] == by_metric["protocol"]
    assert (said.json["format"], said.json["version"]) == ("autoproxy-recipe", 1)
    before = contents(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    again = run(*shlex.split(recipe["command"])[1:], "--results", tmp_path / "r")
    assert again.code == 0, again.err
    assert contents(tmp_path / "out") == before
    for word in ("sparsegpt", "(a method: Frantar & Alistarh 2023", "50% per columns:128"):
        assert word in again.out, again.out


def test_help_names_every_method(run: Run) -> None:
    for command in ("prune", "evaluate"):
        text = re.sub(r"-\s+", "-", run(command, "--help").out)
        assert all(re.search(rf"[ ,]{name}[,.]", " ".join(text.split())) for name in METHODS)


def test_a_metric_of_a_file_and_of_a_run_prune_alike(
    run: Run, words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    run_file, _ = write_run_file(tmp_path / "run", run={"random_search": False}, evaluations=4.0)
    results = tmp_path / "r"
    assert run("search", "--config", run_file, "--results", results).code == 0
    summary = summary_of(results)
    winner = summary["winner"]["text"]
    asked = {
        "run": "tiny-run",
        "file": results / "metrics" / "tiny_run.json",
        "text": winner,
        "formula": summary["winner"]["formula"],
    }
    found = {}
    for name, metric in asked.items():
        out = tmp_path / f"by-{name}"
        said = run("prune", *words, "--metric", metric, "--out", out, "--results", results)
        assert said.code == 0, said.err
        found[name] = contents(out)
        assert recipe_of(out)["text"] == winner
        del found[name]["recipe.json"]
    assert all(files == found["text"] for files in found.values())


@pytest.mark.parametrize(
    "more",
    [
        ["--baseline", "wanda", "--sparsity", "0.5"],
        ["--baseline", "gblm", "--sparsity", "0.3", "--group", "layer", "--dtype", "bfloat16"],
        ["--metric", "abs(W) * y_norm", "--pattern", "2:4", "--seed", "2"],
        ["--baseline", "random", "--sparsity", "0.2", "--group", "model"],
        ["--baseline", "wanda", "--sparsity", "0.5", "--mode", "sequential"],
        ["--baseline", "ria", "--sparsity", "0.6", "--allocation", "owl"],
        ["--baseline", "sparsegpt", "--sparsity", "0.5"],
        ["--baseline", "sparsegpt", "--pattern", "2:4", "--mode", "sequential"],
        ["--baseline", "sparsegpt-mask", "--sparsity", "0.4", "--dtype", "bfloat16"],
        ["--baseline", "wanda-variant", "--sparsity", "0.6", "--allocation", "owl"],
        ["--baseline", "dsnot", "--sparsity", "0.5", "--seed", "1"],
        ["--baseline", "ria-permuted", "--pattern", "2:4"],
    ],
    ids=lambda words: "-".join(words[1:4]),
)
def test_check_gives_the_perplexity_that_evaluate_gives(
    run: Run, options: dict[str, Any], checked: list[str], tmp_path: Path, more: list[str]
) -> None:
    said = run(
        *("prune", *checked, *more, "--out", tmp_path / "out", "--results", tmp_path / "r"),
        "--json",
    )
    assert said.code == 0, said.err
    right = run("evaluate", *flags(options), *more, "--results", tmp_path / "e", "--json").json
    check = said.json["check"]
    assert check["pruned_perplexity"] == pytest.approx(right["perplexity"], rel=1e-6)
    assert check["dense_perplexity"] == pytest.approx(right["dense_perplexity"], rel=1e-6)
    assert check["pruned_perplexity"] != check["dense_perplexity"]
    for word in ("text", "text_hash", "tokens"):
        assert check[word] == right["protocol"][word]
    shared = said.json["protocol"].keys() & right["protocol"].keys()
    assert {w: said.json["protocol"][w] for w in shared} == {
        w: right["protocol"][w] for w in shared
    }


def test_tables_name_the_folder_and_both_perplexities(
    run: Run, checked: list[str], tmp_path: Path
) -> None:
    said = run(
        *("prune", *checked, "--baseline", "wanda", "--sparsity", "0.25"),
        *("--out", tmp_path / "out", "--results", tmp_path / "r"),
    )
    check = recipe_of(tmp_path / "out")["check"]
    for word in ("abs(W) * x_norm", "25% per row", "960 of 3,840", f"wrote {tmp_path / 'out'}"):
        assert word in said.out, said.out
    for name in ("dense", "pruned"):
        assert f"{check[f'{name}_perplexity']:.4f}" in said.out
    assert [line.strip() for line in said.err.splitlines()] == [
        *("model", "masks", "writing", "check")
    ]


PLAIN = """
import sys
for name in ("autoproxy", "evaluators", "search_spaces"):
    sys.modules[name] = None  # importing it fails
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto")
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer("as on an altar", return_tensors="pt").input_ids
torch.save((ids, model(ids).logits), sys.argv[2])
"""


def test_it_loads_where_this_project_is_not(
    run: Run, words: list[str], options: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run("prune", *words, "--metric", "abs(W)", "--out", out, "--results", tmp_path).code == 0
    done = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN, str(out), str(tmp_path / "found.pt")],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    ids, logits = torch.load(tmp_path / "found.pt")
    made = PruningEvaluator.from_options(options, cache=tmp_path / "c", notice=lambda _: None)
    model = made.loaded.model
    for name, mask in read_masks(out / "masks.safetensors").items():
        model.get_parameter(f"{name}.weight")[~mask] = 0.0
    assert torch.equal(logits, model(ids).logits)


# --- stopped ------------------------------------------------------------------------------------


def started(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "autoproxy.cli", "prune", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def wait_for(folder: Path, pattern: str, process: subprocess.Popen[str]) -> None:
    """Wait until a file is there."""
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        (".out.*.part", ["--metric", "abs(W)"]),
        (".out.*.part/config.json", ["--metric", "abs(W)"]),
        (".out.*.part/config.json", ["--baseline", "sparsegpt", "--calibration-blocks", "2"]),
    ],
)
def test_ended_by_the_system_it_leaves_nothing(
    pattern: str, what: list[str], tmp_path: Path
) -> None:
    words = ["starter", *what, "--check", "--results", tmp_path / "r"]
    process = started(*words, "--out", tmp_path / "new" / "out")
    wait_for(tmp_path / "new", pattern, process)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told.splitlines()[-1] == (
        f"autoproxy: stopped; nothing was written to {tmp_path / 'new' / 'out'}"
    )
    assert "Traceback" not in told
    assert not (tmp_path / "new").exists()


def test_killed_it_leaves_no_folder_and_can_be_done_again(
    run: Run, words: list[str], tmp_path: Path
) -> None:
    process = started("starter", "--metric", "abs(W)", "--out", tmp_path / "out")
    wait_for(tmp_path, ".out.*.part/model.safetensors", process)
    process.kill()
    process.communicate(timeout=60)
    assert not (tmp_path / "out").exists()
    again = ["--metric", "abs(W)", "--out", tmp_path / "out", "--results", tmp_path / "r"]
    assert run("prune", *words, *again).code == 0
    assert (tmp_path / "out" / "recipe.json").exists()


@pytest.mark.parametrize("made", [False, True])
def test_an_error_on_the_way_leaves_nothing(
    run: Run, words: list[str], tmp_path: Path, made: bool
) -> None:
    out = tmp_path / "a" / "b" / "out"
    if made:
        out.mkdir(parents=True)
    metric = "1e38 * (1e38 * (1 + square(W)))"
    said = run("prune", *words, "--metric", metric, "--out", out, "--results", tmp_path / "r")
    refused(said, "cannot prune this model", "not finite on model.layers.0")
    assert (out.exists() and not list(out.iterdir())) if made else not (tmp_path / "a").exists()
    assert not list(tmp_path.rglob("*.part"))


@pytest.fixture
def file_limit() -> Iterator[Callable[[int], None]]:
    """Return what limits the size of any file that this process writes: a full disk, in effect."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("size", "what"),
    [
        *((size, ["--metric", "abs(W)"]) for size in (100, 3_000, 30_000)),
        (30_000, ["--baseline", "sparsegpt"]),
    ],
)
def test_a_disk_that_fills_up_on_the_way_leaves_nothing(
    run: Run,
    words: list[str],
    tmp_path: Path,
    file_limit: Callable[[int], None],
    size: int,
    what: list[str],
) -> None:
    out = tmp_path / "new" / "out"
    asked = ["prune", *words, *what, "--out", out, "--results", tmp_path / "r"]
    file_limit(size)
    said = run(*asked)
    file_limit(resource.RLIM_INFINITY)
    refused(said, "cannot be written", str(out), "free some space or choose another --out")
    assert not (tmp_path / "new").exists()
    assert run(*asked).code == 0


# --- what the user can mend ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--metric", "x_norm"], ["is of kind PerInput", "multiply by abs(W)"]),
        (["--metric", "all_sum(W)"], ["is of kind Scalar", "a value for each weight"]),
        (["--metric", "row_sum(W)"], ["is of kind PerOutput"]),
        ([], ["give either --metric", "--baseline"]),
        (["--metric", "W", "--baseline", "wanda"], ["give either"]),
        (["--baseline", "wnada"], ["did you mean 'wanda'"]),
        (["--metric", "abs(W)", "--group", "columns:5"], ["columns:5", "5 divides", "has 16"]),
        (["--metric", "abs(W)", "--group", "columns:0"], ["columns:N with N >= 1"]),
        (["--metric", "abs(W)", "--pattern", "2:5"], ["2:5", "5 divides", "has 16"]),
        (["--metric", "abs(W)", "--pattern", "2:4", "--sparsity", "0.5"], ["either a sparsity"]),
        (["--metric", "abs(W)", "--sparsity", "1"], ["sparsity must lie in [0, 1), got 1"]),
        (["--metric", "abs(W)", "--dtype", "int8"], ["unknown dtype 'int8'", "bfloat16"]),
        (["--metric", "abs(W)", "--text", "topics:test"], ["add --check"]),
        (["--metric", "abs(W)", "--evaluator", "prunning"], ["did you mean 'pruning'"]),
        (
            ["--metric", "abs(W)", "--evaluator", "tests.conformance.toy:ToyEvaluator"],
            ["cannot write pruned models"],
        ),
        (["--metric", "abs(W)", "--length", "4096"], ["4096", "64 tokens"]),
        (["--baseline", "sparsgpt"], ["unknown baseline 'sparsgpt'; did you mean 'sparsegpt'?"]),
        (["--metric", "sparsegpt"], ["'sparsegpt' is a method", "prune (--baseline NAME)"]),
        (["--baseline", "dsnot", "--pattern", "2:4"], ["dsnot", "2:4", "ask for a sparsity"]),
        (["--baseline", "wanda-variant", "--pattern", "4:8"], ["4:8", "ask for a sparsity"]),
        (["--baseline", "ria-permuted"], ["ria-permuted", "50%", "ask for a pattern"]),
        (["--baseline", "sparsegpt", "--pattern", "2:5"], ["2:5", "5 divides", "has 16"]),
        *(
            (["--baseline", name, "--group", group], [name, f"group {group};", "--group row"])
            for name, group in (("sparsegpt", "matrix"), ("dsnot", "model"))
        ),
    ],
    ids=lambda value: " ".join(value)[:50],
)
def test_what_it_refuses(
    run: Run, words: list[str], tmp_path: Path, more: list[str], told: list[str]
) -> None:
    out = tmp_path / "new" / "out"
    said = run("prune", *words, *more, "--out", out, "--results", tmp_path / "r")
    refused(said, *told)
    assert not (tmp_path / "new").exists()


def broken(what: str, folder: Path) -> Path:
    """Return a tiny model that cannot serve."""
    model = tiny_folder(folder / "model")
    weights, config = model / "model.safetensors", model / "config.json"
    tensors = load_file(weights)
    if what == "missing-shard":
        shutil.rmtree(model)
        tiny_folder(model)
        half = dict(list(tensors.items())[::2])
        save_file(half, model / "model-00001-of-00002.safetensors", metadata={"format": "pt"})
        first, second = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
        places = {name: first if name in half else second for name in tensors}
        index = {"metadata": {}, "weight_map": places}
        (model / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
        weights.unlink()
    elif what == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif what == "quantised":
        edit_json(config, quantization_config={"quant_method": "gptq", "bits": 4})
    elif what == "unsupported":
        content = {"model_type": "cpmant", "hidden_size": 16, "num_hidden_layers": 1}
        content |= {"num_attention_heads": 2, "dim_head": 8, "dim_ff": 16, "vocab_size": 260}
        config.write_text(json.dumps(content), encoding="utf-8")
    elif what == "eight-bit":
        floats = {n: t.to(torch.float8_e4m3fn) for n, t in tensors.items()}
        save_file(floats, weights, metadata={"format": "pt"})
    elif what == "huge":
        edit_json(config, hidden_size=65536, intermediate_size=10**6, head_dim=16384)
    return model


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("missing-shard", ["lacks 1 of its 2 files", "model-00002-of-00002.safetensors"]),
        ("truncated", ["model.safetensors is damaged", "complete"]),
        ("quantised", ["is quantised", "the model that it was made of"]),
        ("unsupported", ["'cpmant' has no decoder layers", "not supported"]),
        ("eight-bit", ["as float8_e4m3fn", "float32, bfloat16, float16"]),
        ("huge", ["GB of memory at least, and", "are free; what helps: --dtype bfloat16"]),
    ],
)
def test_models_that_cannot_be_pruned(
    run: Run, words: list[str], tmp_path: Path, what: str, told: list[str]
) -> None:
    model = broken(what, tmp_path)
    out = ["--out", tmp_path / "out", "--results", tmp_path / "r"]
    refused(run("prune", model, *words[1:], "--baseline", "wanda", *out), *told)
    assert nothing_at(tmp_path / "out")


@pytest.mark.parametrize("what", ["missing-shard", "truncated", "quantised", "unsupported", "huge"])
def test_models_that_no_command_takes(
    run: Run, options: dict[str, Any], tmp_path: Path, what: str
) -> None:
    asked = flags({**options, "model": str(broken(what, tmp_path))})
    refused(run("evaluate", "--baseline", "wanda", *asked, "--results", tmp_path / "r"))


def test_there_is_no_model(run: Run, tmp_path: Path) -> None:
    said = run("prune", "/missing/model", "--metric", "abs(W)", "--out", tmp_path / "out")
    refused(said, "there is no folder /missing/model")


@pytest.mark.parametrize("what", ["files", "a file", "hidden"])
def test_what_is_there_is_never_overwritten(
    run: Run, words: list[str], tmp_path: Path, what: str
) -> None:
    out = tmp_path / "out"
    if what == "a file":
        out.write_text("mine", encoding="utf-8")
    else:
        out.mkdir()
        (out / (".mine" if what == "hidden" else "mine")).write_text("mine", encoding="utf-8")
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    said = run("prune", *words, "--metric", "abs(W)", "--out", out, "--results", tmp_path / "r")
    refused(said, f"{out} ", "nothing is overwritten; choose another --out")
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_an_empty_folder_is_filled(run: Run, words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    said = run("prune", *words, "--metric", "abs(W)", "--out", out, "--results", tmp_path / "r")
    assert said.code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"out", "r"}


@pytest.mark.parametrize("where", ["below a file", "read-only"])
def test_a_place_that_cannot_be_written(
    run: Run, words: list[str], tmp_path: Path, where: str
) -> None:
    if where == "below a file":
        (tmp_path / "file").write_text("mine", encoding="utf-8")
        out = tmp_path / "file" / "out"
    elif os.geteuid() == 0:  # root may write anywhere but where the kernel forbids it
        out = Path("/proc/autoproxy/out")
        if not out.parent.parent.is_dir():
            pytest.skip("there is no place where root may not write")
    else:
        tmp_path.chmod(0o500)
        out = tmp_path / "out"
    said = run("prune", *words, "--metric", "abs(W)", "--out", out, "--results", tmp_path / "r")
    tmp_path.chmod(0o700)
    refused(said, f"{out} cannot be written", "choose another --out")
    assert not (tmp_path / "r").exists()


# --- memory that runs out -----------------------------------------------------------------------


class Hungry(PruningEvaluator):
    """Asks for more memory than there is, as long as the environment says so."""

    def _make_masks(self, *args: Any) -> Any:
        if os.environ.get("HUNGRY"):
            torch.empty(2**50)
        return super()._make_masks(*args)


HUNGRY = "tests.test_cli_prune:Hungry"


def test_memory_that_runs_out_is_one_message(
    run: Run, options: dict[str, Any], words: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("HUNGRY", "yes")
    told = ["memory ran out", "4503599.6 GB more were asked for, so at least", "--dtype bfloat16"]
    asked = ["--baseline", "wanda", "--evaluator", HUNGRY, "--results", tmp_path / "r"]
    refused(run("evaluate", *asked, *flags(options)), *told)
    refused(run("prune", *words, *asked, "--out", tmp_path / "new" / "out"), *told)
    assert not (tmp_path / "new").exists()


def test_a_search_whose_memory_ran_out_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_file, _ = write_run_file(
        tmp_path, run={"evaluator": HUNGRY, "random_search": False}, evaluations=2.0
    )
    monkeypatch.setenv("HUNGRY", "yes")
    said = run("search", "--config", run_file, "--results", tmp_path / "r")
    assert said.code == 2
    assert "memory ran out" in said.err
    assert "autoproxy resume" in said.err
    assert "Traceback" not in said.err
    monkeypatch.delenv("HUNGRY")
    assert run("resume", "--results", tmp_path / "r", "--json").json["winner"]


# --- the models that ship -----------------------------------------------------------------------


def test_the_second_starter_serves_every_command(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few = ["--length", 32, "--calibration-blocks", 2]
    asked = ["--text-blocks", 2, "--results", tmp_path / "r"]
    out = tmp_path / "out"
    pruned = run(
        *("prune", "starter-gpt2", "--baseline", "wanda", *few, *asked, "--check"),
        *("--out", out, "--json"),
    )
    assert pruned.code == 0, pruned.err
    right = run(
        "evaluate", "--baseline", "wanda", "--model", "starter-gpt2", *few, *asked, "--json"
    )
    found = pruned.json["check"]["pruned_perplexity"]
    assert found == pytest.approx(right.json["perplexity"], rel=1e-6)
    searched = run(
        *("search", "--model", "starter-gpt2", *few, *asked, "--evaluations", 2, "--population", 4),
        *("--validation-blocks", 2, "--confirm-blocks", 1, "--report-seeds", 1),
        *("--no-random-search", "--no-seeds", "--json"),
    )
    assert searched.code == 0, searched.err
    assert searched.json["reports"][0]["protocol"]["model"] == "starter-gpt2"
    assert not caplog.records  # the library has nothing to add
    doctor = run("doctor", "--results", tmp_path / "r").out
    assert "--model starter:" in doctor
    assert "--model starter-gpt2:" in doctor


def test_a_bare_family_is_a_name_on_the_hub(run: Run, tmp_path: Path) -> None:
    """`gpt2` is OpenAI's model, never one of ours."""
    asked = ["--baseline", "wanda", "--model", "gpt2", "--results", tmp_path / "r"]
    refused(run("evaluate", *asked), "model 'gpt2' cannot be found or read")
