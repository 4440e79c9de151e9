"""Exported predictions: a file beside a user's own network gives the engine's bits."""

import ast
import inspect
import json
import math
import shutil
import subprocess
import sys
import sysconfig
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn

from autoproxy.errors import ConfigError
from autoproxy.evaluation import Failed
from autoproxy.export.proxy import check_proxy_name, proxy_source
from autoproxy.language.canonical import canonical
from autoproxy.language.expression import Expression
from autoproxy.language.parse import parse
from autoproxy.language.prediction import combine, features
from autoproxy.language.types import Kind
from evaluators import sites
from evaluators.benchmarks.table import Architecture, Benchmark
from evaluators.networks import decoder
from evaluators.networks.decoder import Decoder, DecoderConfig
from evaluators.prediction import PredictionEvaluator
from evaluators.scoring import Gathering, Reader, Scorer, read
from evaluators.sites import TERMINALS, collect
from search_spaces.prediction import PREDICTION
from tests.autoproxy.export.drawn import drawn
from tests.autoproxy.export.shipped import expression_of, shipped_metrics
from tests.autoproxy.export.test_exported_python import run_source
from tests.evaluators.families import model_of_family
from tests.evaluators.tiny import hook_count, state
from tests.saying import Run, refused

ROOT = Path(__file__).parents[3]
COLLECTOR = inspect.getsource(sites)

FORMULAS = {
    "weights": "layers_sum(all_norm(W)) / layers_std(all_std(W * noise)) + 0.1",
    "gradients": "layers_logsum(all_norm(g)) + layers_mean(all_mean(g_norm - g_abs))",
    "hessian": "-layers_sum(all_sum(W * hg)) * sqrt(params)",
    "flows": "log(layers_sum(all_sum(abs(W * flow)))) + log_flow",
    "inputs": "layers_max(logdet(x)) + layers_min(all_norm(dx)) + layers_mean(entropy(heads))",
    "orders": "layers_first(all_norm(order_change)) + layers_mean(erank(order_change * heads))",
    "outputs": "layers_sum(correlation(y, dy)) - layers_last(all_max(outputs_std(y)))",
    "attentions": "layers_mean(all_mean(head_max(attention))) * layers_first(nuclear(x)) ** -0.5",
    "per_input": "layers_sum(all_sum(abs(W) * x_norm) + all_norm(x_mean * x_max + x_var))",
    "per_output": "layers_sum(all_mean(y_norm * row_sum(W))) / layers_sum(erank(token_mean(x)))",
    "places": "layers_sum((is_attention - is_mlp + is_first) * log(fan_in * fan_out + "
    "block_index))",
    "sizes": "n_layers ** 2 * width * ff_width / (n_heads + d_embed) + layers_sum(2)",
    "parameters": "log(params_attention + params_mlp) * sqrt(params_embedding) - tanh(3) * "
    "(params_body / flops) ** 0.3",
}
EXPRESSIONS = {name: canonical(parse(text)) for name, text in FORMULAS.items()}
SHIPPED = {path.stem: path for path in shipped_metrics(predictions=True)}


def source_of(expression: Expression, name: str = "proxy", **sheet: str) -> str:
    return proxy_source(expression, name=name, data_sheet=sheet, collector=COLLECTOR)


def proxy_of(text: str) -> Callable[[nn.Module, object], float]:
    return run_source(source_of(parse(text)), "proxy").proxy


def configs() -> list[DecoderConfig]:
    first = DecoderConfig(
        width=8, heads=(2, 4), kv_heads=(1, 2), ff_widths=(6, 10), vocabulary=11, length=16
    )
    others = {"norm": "rms", "activation": "swiglu", "position": "rotary"}
    return [
        first,
        DecoderConfig(**{**asdict(first), **others, "tied": False}),
        DecoderConfig(
            **{**asdict(first), "heads": (2,), "kv_heads": (2,), "ff_widths": (12,), "bias": True}
        ),
    ]


def counted(config: DecoderConfig) -> dict[str, float]:
    """What a table knows of a network."""
    return {
        "depth": config.depth,
        "width": config.width,
        "ff_width": sum(config.ff_widths) / config.depth,
        "heads": sum(config.heads) / config.depth,
        "d_embed": config.width,
    }


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    """The engine on three tiny decoders."""
    known = [
        Architecture(
            id=str(n),
            config=config,
            quality=float(n),
            network=str(n),
            columns=counted(config),
            cell="",
        )
        for n, config in enumerate(configs())
    ]
    benchmark = Benchmark(
        name="tiny",
        quality_name="none",
        architectures=tuple(known),
        digest="",
        vocabulary=11,
        length=16,
        causal=True,
        text="zipf",
        network=Decoder,
    )
    reader = Reader(
        benchmark,
        Gathering(sequences=3, tokens=7),
        wanted=TERMINALS - sites.COUNTS,
        folder=tmp_path_factory.mktemp("statistics"),
        limit=10**9,
    )
    return Scorer(reader)


def by_hand(expression: Expression, network: nn.Module, batch: object) -> float:
    """The engine's parts on a network of no benchmark."""
    found = collect(network, batch, expression.terminals())
    asked = features(expression)
    layers = {f: [v] for f, v in zip(asked, read(asked, found.sites), strict=True)}
    model = {n: torch.tensor([[v]], dtype=torch.float64) for n, v in found.model.items()}
    return float(combine(expression, layers, model))


def test_there_is_a_discovered_proxy_to_try() -> None:
    assert SHIPPED


def test_the_formulas_read_every_terminal() -> None:
    read_here = frozenset[str]().union(*(e.terminals() for e in EXPRESSIONS.values()))
    assert read_here == TERMINALS


ALONE = """
import doctest, importlib, importlib.util, json, sys
sys.path += [sys.argv[1], "."]  # the libraries as a plain folder: no editable checkout, no hooks
for name in ("autoproxy", "evaluators", "search_spaces"):
    assert importlib.util.find_spec(name) is None, name
import torch
from plain import Decoder, DecoderConfig

given = torch.load("given.pt")
torch.set_num_threads(3)
proxies = {name: importlib.import_module(name) for name in given["names"]}
assert "transformers" not in sys.modules
from transformers.models.gpt2 import GPT2Config, GPT2LMHeadModel

networks = []
for config, weights in given["decoders"]:
    networks.append(Decoder(DecoderConfig(**config)))
    networks[-1].load_state_dict(weights)
gpt2 = GPT2LMHeadModel(GPT2Config(**given["gpt2"][0]))
gpt2.load_state_dict(given["gpt2"][1])
networks.append(gpt2.eval())
found = {}
for name, module in proxies.items():
    score = getattr(module, name)
    found[name] = [score(network, given["ids"]).hex() for network in networks]
    found[name].append(score(gpt2, {"input_ids": given["ids"]}).hex())
    failed, tried = doctest.testmod(module)
    assert tried >= 2 and not failed, name
assert torch.get_num_threads() == 3
print(json.dumps(found))
"""


def test_beside_bare_networks_they_give_the_bits_of_the_engine(
    scorer: Scorer, tmp_path: Path
) -> None:
    """Formulas of every terminal on decoders and transformers' GPT-2, without this project.

    So do the files of discovered proxies, as they lie in this repository.
    """
    own = "from autoproxy.errors import ConfigError, unknown_name\n"
    plain = inspect.getsource(decoder)
    assert own in plain
    (tmp_path / "plain.py").write_text(plain.replace(own, ""), encoding="utf-8")
    for name, expression in EXPRESSIONS.items():
        (tmp_path / f"{name}.py").write_text(source_of(expression, name), encoding="utf-8")
    for name, path in SHIPPED.items():
        shutil.copy(path.with_suffix(".py"), tmp_path / f"{name}.py")
    expressions = EXPRESSIONS | {name: expression_of(path) for name, path in SHIPPED.items()}
    networks = [scorer.reader.network(a) for a in scorer.benchmark.architectures]
    ids = networks[0][1]
    gpt2 = model_of_family("gpt2")
    given = {
        "names": list(expressions),
        "ids": ids,
        "decoders": [
            (asdict(config), network.state_dict())
            for config, (network, _) in zip(configs(), networks, strict=True)
        ],
        "gpt2": (json.loads(gpt2.config.to_json_string()), gpt2.state_dict()),
    }
    torch.save(given, tmp_path / "given.pt")
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", ALONE, sysconfig.get_path("purelib")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    scores = scorer.scores(list(expressions.values()), [0, 1, 2])
    for (name, expression), score in zip(expressions.items(), scores, strict=True):
        assert not isinstance(score, Failed), (name, score)
        other = by_hand(expression, gpt2, ids)
        assert math.isfinite(other)
        assert found[name] == [value.hex() for value in (*score.tolist(), other, other)], name


DRAWN = [e for e in drawn(60, root=Kind.MODEL) if e.terminals() <= TERMINALS] + [
    baseline.expression for baseline in PREDICTION.baselines
]


def test_random_formulas_and_hand_made_ones_give_the_bits_of_the_engine(scorer: Scorer) -> None:
    """Where the engine has no score for a network, the export refuses to give one."""
    network, ids = scorer.reader.network(scorer.benchmark.architectures[1])
    refusals = 0
    for expression, expected in zip(DRAWN, scorer.scores(DRAWN, [1]), strict=True):
        proxy = run_source(source_of(expression), "p").proxy
        if isinstance(expected, Failed):
            refusals += 1
            with pytest.raises(ValueError, match=r"this network"):
                proxy(network, ids)
        else:
            assert proxy(network, ids).hex() == expected.item().hex(), expression
    assert refusals < len(DRAWN) / 4


def test_it_leaves_everything_as_it_was() -> None:
    network = Decoder(configs()[0]).train()
    ids = torch.tensor([[1, 2, 3, 4]])
    before, drawn_before = state(network), torch.random.get_rng_state()
    proxy_of("layers_sum(all_norm(g)) + log_flow + layers_sum(all_sum(hg))")(network, ids)
    assert state(network) == before
    assert network.training
    assert hook_count(network) == 0
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert torch.equal(torch.random.get_rng_state(), drawn_before)


def sequential(*middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    parts = [nn.Embedding(5, 4), *middle, nn.Linear(4, 5)]
    return nn.Sequential(OrderedDict((f"part_{n}", part) for n, part in enumerate(parts)))


@pytest.mark.parametrize(
    ("text", "network", "words"),
    [
        (
            "layers_sum(all_sum(attention))",
            sequential(nn.Linear(4, 4)),
            "lacks attention: of",
        ),
        ("layers_sum(all_sum(W))", sequential(), "lacks W: of its 0 linear layers"),
        ("layers_sum(all_sum(heads) * fan_in)", sequential(nn.Linear(4, 4)), "lacks heads, fan_in"),
        ("layers_sum(2) + params", sequential(), "lacks linear layers"),
        ("n_layers", sequential(nn.Linear(4, 4)), "lacks n_layers"),
        (
            "(exp(params) ** 4) ** 4",
            sequential(),
            "the score of this network is inf",
        ),
    ],
)
def test_a_network_that_lacks_something_is_told_so(
    text: str, network: nn.Module, words: str
) -> None:
    threads = torch.get_num_threads()
    with pytest.raises(ValueError, match=words):
        proxy_of(text)(network, torch.tensor([[0, 1, 2]]))
    assert torch.get_num_threads() == threads


def test_layers_that_lack_something_are_left_out(scorer: Scorer) -> None:
    """Attention is at one layer of each block; the others do not count, not even as zero."""
    network, ids = scorer.reader.network(scorer.benchmark.architectures[0])
    assert proxy_of("layers_sum(all_sum(attention) / all_sum(attention))")(network, ids) == 2.0
    assert proxy_of("layers_sum(1 + 0 * fan_in)")(network, ids) > 2.0


def test_the_direction_of_the_loss_is_the_network_s(scorer: Scorer) -> None:
    network, ids = scorer.reader.network(scorer.benchmark.architectures[0])
    proxy = proxy_of("layers_sum(all_norm(g))")
    causal = proxy(network, ids)
    network.causal = False
    assert proxy(network, ids) != causal


@pytest.mark.parametrize("text", ["abs(W)", "all_norm(g)", "y", "2"])
def test_what_is_no_prediction_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="put an aggregation over layers on top"):
        source_of(parse(text))


def test_what_reads_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="reads nothing of a network"):
        source_of(parse("layers_sum(2)"))


@pytest.mark.parametrize("name", ["collect", "float", "len", "Site", "math", "nn", "TERMINALS"])
def test_a_word_of_the_code_it_carries_names_no_proxy(name: str) -> None:
    with pytest.raises(ConfigError, match=f"such as {name}_proxy"):
        source_of(parse("n_layers"), name)
    check_proxy_name(f"{name}_proxy", COLLECTOR)


def test_a_terminal_that_nothing_measures_is_refused() -> None:
    with pytest.raises(ConfigError, match="no collector measures g_region of a network"):
        PredictionEvaluator.collector_source({"W", "g_region"})


def test_no_name_is_given_twice() -> None:
    """The copies of meanings are beside the collector's own functions."""
    expression = Expression("add", tuple(EXPRESSIONS[n] for n in ("weights", "flows")))
    names = [
        node.name
        for node in ast.parse(source_of(expression)).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    assert len(names) == len(set(names))


def test_it_imports_torch_and_the_standard_library_alone() -> None:
    imported = {
        (alias.name if isinstance(node, ast.Import) else node.module or "").partition(".")[0]
        for node in ast.walk(ast.parse(source_of(EXPRESSIONS["flows"])))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert imported - sys.stdlib_module_names == {"torch"}


def test_the_files_pass_the_linter_and_the_formatter_of_the_project(tmp_path: Path) -> None:
    """They lie in results/metrics, which `make lint` reads, too."""
    everything = EXPRESSIONS | {b.name: b.expression for b in PREDICTION.baselines}
    long = "layers_sum(all_sum(g * W) * fan_in * all_sum(attention) * all_sum(heads) * is_first * "
    long += "all_norm(x_norm) * is_attention * all_norm(y_norm) * all_norm(x_mean) * block_index)"
    everything |= {"long": parse(long), "n" * 70: parse(long), "alone": parse("log_flow")}
    everything["large"] = canonical(parse("6.09e+16 * params + layers_sum(all_norm(1e+30 * g))"))
    sheet = {"orientation": "larger is better", "text": "/a/b" * 40, "evil": '""" >>> 1 / 0 \\'}
    for name, expression in everything.items():
        path = tmp_path / f"{name}.py"
        path.write_text(source_of(expression, f"{name}_proxy", **sheet), encoding="utf-8")
    for words in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        config = str(ROOT / "pyproject.toml")
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *words, "--config", config, str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_data_sheet_says_which_sign_is_good() -> None:
    expression = parse("layers_sum(all_norm(g))")
    sheet = {"orientation": "smaller is better", "source run": "r-7"}
    words = run_source(source_of(expression, **sheet), "m").proxy.__doc__
    for said in ("The score: smaller is better.", "source run: r-7", "Formula: layers_sum("):
        assert said in words
    bare = run_source(source_of(expression), "m").proxy.__doc__
    assert "which sign is good is not known" in bare


def test_the_command_line_exports_hand_made_ones_and_text(run: Run, tmp_path: Path) -> None:
    network, ids = Decoder(configs()[0]), torch.tensor([[1, 2, 3, 4]])
    for words in (["snip", "--space", "prediction"], ["layers_sum(all_sum(abs(W * g)))"]):
        path = tmp_path / "made.py"
        name = ["--name", "made"]
        said = run("export", *words, *name, "--out", path, "--results", tmp_path)
        assert said.code == 0, said.err
        made = run_source(path.read_text(encoding="utf-8"), "made").made
        expected = by_hand(parse("layers_sum(all_sum(abs(W * g)))"), network, ids)
        assert made(network, ids).hex() == expected.hex()
    printed = run("export", "snip", "--space", "prediction", "--results", tmp_path)
    assert "The score: larger is better" in printed.out
    refused(run("export", "n_layers", "--name", "math", "--results", tmp_path), "math_proxy")


def test_the_command_line_explains_predictions_as_such(run: Run, tmp_path: Path) -> None:
    words = ["explain", "layers_sum(all_sum(abs(W * g))) * n_layers", "--results", tmp_path]
    found = run(*words, "--space", "prediction", "--json").json
    assert found["kind"] == "Model"
    assert found["per_layer"] == ["all_sum(abs(W * g))"]
    assert "same_row_order_as" not in found
    assert set(found["orders_like"]) == {"networks"}
    assert [item["name"] for item in found["inputs"]] == ["W", "g", "n_layers"]
    grown = ["explain", "exp(n_layers * 2)", "--space", "prediction", "--results", tmp_path]
    assert run(*grown[:1], "n_layers", *grown[2:], "--json").json["same_network_order_as"] == [
        "depth"
    ]
    assert "same_network_order_as" in run(*words).out


def test_the_winner_of_a_run_says_what_it_was_found_on(run: Run, tmp_path: Path) -> None:
    """Its name may be one that the collector has."""
    winner = {"text": "layers_sum(all_norm(g))", "value": 0.5, "details": {"orientation": -1.0}}
    protocol = {"evaluator": "prediction", "model": "starter", "quality": "-loss", "draw": 0}
    summary = {
        "winner": winner,
        "protocol": protocol | {"rows": None},
        "objective": {"name": "within", "unit": "tau-b"},
    }
    folder = tmp_path / "runs" / "collect"
    folder.mkdir(parents=True)
    (folder / "run.toml").write_text("", encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    said = run("export", "collect", "--results", tmp_path)
    assert said.code == 0, said.err
    words = run_source(said.out, "m").collect_proxy.__doc__
    for line in ("smaller is better", "quality: -loss", "draw: 0", "value: 0.5 tau-b (within)"):
        assert line in words
    assert "rows" not in words
    assert "model_hash" not in words
