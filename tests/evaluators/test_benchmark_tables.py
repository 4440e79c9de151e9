import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autoproxy.errors import ConfigError
from evaluators.benchmarks import flexibert, starter
from evaluators.benchmarks.starter_space import architectures, parameters
from evaluators.benchmarks.table import BENCHMARKS, Benchmark, open_benchmark, read_table
from evaluators.networks.encoder import EncoderConfig
from tests.evaluators.tables import Rows, changed, flexibert_rows, gpt2_rows, without, write

WRONG: dict[str, tuple[str, Callable[[], Rows], list[str]]] = {
    "missing columns": (
        "flexibert",
        lambda: without(without(flexibert_rows(), "ops"), "nff"),
        ["missing columns: ops, nff", "it has id, hidden_size", "needed are"],
    ),
    "unknown operation": (
        "flexibert",
        lambda: changed(flexibert_rows(), 3, ops="SA:SDP SA:XYZ"),
        ["row 5, column ops", "'SA:XYZ'", "allowed: SA:SDP, SA:WMA, LT:DFT"],
    ),
    "duplicated id": (
        "flexibert",
        lambda: changed(flexibert_rows(), 3, id="1"),
        ["row 5, column id", "'1' was in row 3 already"],
    ),
    "constant qualities": (
        "flexibert",
        lambda: [row | {"glue": "70"} for row in flexibert_rows()],
        ["column glue", "every row has 70"],
    ),
    "constant perplexities": (
        "gpt2-lts",
        lambda: [row | {"valid_ppl": "30.5"} for row in gpt2_rows()],
        ["column valid_ppl", "every row has 30.5"],
    ),
    "too few": ("gpt2-lts", lambda: gpt2_rows(9), ["9 architectures", "at least 10"]),
    "nan": (
        "flexibert",
        lambda: changed(flexibert_rows(), 0, glue="nan"),
        ["row 2, column glue", "'nan'", "finite"],
    ),
    "infinite": (
        "gpt2-lts",
        lambda: changed(gpt2_rows(), 9, valid_ppl="inf"),
        ["row 11, column valid_ppl", "'inf'", "finite"],
    ),
    "no perplexity": (
        "gpt2-lts",
        lambda: changed(gpt2_rows(), 9, valid_ppl="0"),
        ["row 11, column valid_ppl", "'0'", "above 0"],
    ),
    "no number": (
        "gpt2-lts",
        lambda: changed(gpt2_rows(), 9, valid_ppl=""),
        ["row 11, column valid_ppl", "''", "a number"],
    ),
    "short list": (
        "gpt2-lts",
        lambda: changed(gpt2_rows(), 2, n_head="[2]"),
        ["row 4, column n_head", "'[2]'", "a list of 2", "it has 1"],
    ),
    "long list": (
        "flexibert",
        lambda: changed(flexibert_rows(), 2, ffd="512 512 512"),
        ["row 4, column ffd", "a list of 2", "it has 3"],
    ),
    "no layers": (
        "gpt2-lts",
        lambda: changed(gpt2_rows(), 2, n_layer="0"),
        ["row 4, column n_layer", "'0'", "at least 1"],
    ),
    "heads that do not divide": (
        "gpt2-lts",
        lambda: changed(gpt2_rows(), 2, n_head="[2, 3]"),
        ["row 4, column n_head", "3 heads must divide width 64"],
    ),
    "heads of an encoder": (
        "flexibert",
        lambda: changed(flexibert_rows(), 2, heads="2 3"),
        ["row 4, column heads", "divide hidden_size 128"],
    ),
    "division of the embedding": (
        "gpt2-lts",
        lambda: changed(gpt2_rows(), 2, d_embed="4", div_val="4"),
        ["row 4, column d_embed", "cannot be divided by 4 2 times"],
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_table_that_cannot_serve_is_refused_by_file_row_and_column(
    name: str, tmp_path: Path
) -> None:
    benchmark, rows, said = WRONG[name]
    path = write(tmp_path / "table.csv", rows())
    with pytest.raises(ConfigError) as caught:
        open_benchmark(benchmark, path)
    for words in [str(path), *said]:
        assert words in str(caught.value)


def test_rows_of_another_length_and_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", gpt2_rows())
    text = path.read_text(encoding="utf-8")
    path.write_text(f"{text}short,2\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"row 12: it has not 8 cells"):
        open_benchmark("gpt2-lts", path)
    path.write_text(f"{text.splitlines()[0]}\n{text.splitlines()[1]},more\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"row 2: it has not 8 cells"):
        open_benchmark("gpt2-lts", path)
    path.write_bytes(b"id\xff\n")
    with pytest.raises(ConfigError, match=r"t\.csv cannot be read"):
        open_benchmark("gpt2-lts", path)
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match="missing columns"):
        open_benchmark("gpt2-lts", path)
    with pytest.raises(ConfigError, match=r"none\.csv cannot be read"):
        open_benchmark("gpt2-lts", tmp_path / "none.csv")


@pytest.mark.parametrize("name", [n for n in BENCHMARKS if not n.startswith("starter")])
def test_without_a_table_the_user_hears_where_to_get_one(name: str) -> None:
    with pytest.raises(ConfigError, match=r"--table") as caught:
        open_benchmark(name, None)
    assert "autoproxy benchmark" in str(caught.value)


def test_an_unknown_benchmark_has_a_near_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'starter'"):
        open_benchmark("startr", None)


def _counted(network: nn.Module) -> dict[str, int]:
    """Count again, by the names of parameters."""
    total = {name: p.numel() for name, p in network.named_parameters()}
    parts = {name: name.split(".") for name in total}

    def of(claim: Callable[[list[str]], bool]) -> int:
        return sum(total[name] for name, part in parts.items() if claim(part))

    matrices = [
        (name, m.weight.numel())
        for name, m in network.named_modules()
        if type(m) is nn.Linear and name.startswith("layers.")
    ]
    body = of(lambda part: part[0] in {"layers", "norm"})
    return {
        "params": sum(total.values()),
        "params_attention": of(lambda part: part[2:3] == ["attention"]),
        "params_mlp": of(lambda part: part[2:3] == ["mlp"]),
        "params_embedding": sum(total.values()) - body,
        "params_body": body,
        "flops": 2 * sum(size for _, size in matrices),
    }


def _check(benchmark: Benchmark, number: int) -> None:
    architecture = benchmark.architectures[number]
    network = benchmark.build(architecture, seed=1)
    found = benchmark.model_terminals(architecture)
    assert {name: found[name] for name in _counted(network)} == _counted(network)
    assert not network.training
    same = benchmark.build(architecture, seed=1).state_dict()
    assert all(torch.equal(same[name], value) for name, value in network.state_dict().items())
    other = benchmark.build(architecture, seed=2).state_dict()
    assert any(not torch.equal(other[name], value) for name, value in network.state_dict().items())
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(benchmark.vocabulary, (2, 7), generator=generator)
    with torch.inference_mode():
        logits: torch.Tensor = network(ids)
        body: Any = network.body
        embedding: Any = network.embedding
        assert torch.equal(logits, body(embedding(ids)))
    assert logits.shape == (2, 7, benchmark.vocabulary)
    assert network.causal is benchmark.causal


def test_flexibert_is_built_as_it_was_trained(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", flexibert_rows())
    benchmark = open_benchmark("flexibert", path)
    configs = [a.config for a in benchmark.architectures]
    assert {c.operations for c in configs} == {("SA:SDP", "SA:SDP")}
    assert {c.stacks for c in configs} == {((512,), (512, 1024, 1024)), ((512,), (512, 512, 512))}
    assert len({a.network for a in benchmark.architectures}) == 2  # operations are no difference
    assert {benchmark.strata(a) for a in benchmark.architectures} == {"2x128"}
    assert benchmark.architectures[3].quality == 60.75
    _check(benchmark, 0)
    found = benchmark.model_terminals(benchmark.architectures[0])
    assert found["n_layers"] == 2
    assert found["n_heads"] == 3
    assert found["d_embed"] == found["width"] == 128
    assert found["ff_width"] == (512 + (512 + 2 * 1024) / 3) / 2


def test_flexibert_is_built_as_declared_where_that_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", flexibert_rows())
    benchmark = open_benchmark("flexibert", path, declared=True)
    assert benchmark.architectures[4].config.operations == ("DSC:5", "DSC:9")
    assert benchmark.name != open_benchmark("flexibert", path).name
    for number in (1, 2, 4):
        _check(benchmark, number)


def test_gpt2_terminals_are_counted(tmp_path: Path) -> None:
    benchmark = open_benchmark("gpt2-lts", write(tmp_path / "t.csv", gpt2_rows()))
    assert benchmark.architectures[2].quality == -math.log(48)
    assert benchmark.quality_name == "-log valid_ppl"
    _check(benchmark, 1)
    found = benchmark.model_terminals(benchmark.architectures[1])
    assert (found["n_heads"], found["ff_width"], found["d_embed"]) == (3, (513 + 600) / 2, 128)


def _trained(folder: Path, count: int) -> Path:
    folder.mkdir()
    for n, a in enumerate(architectures()[:count]):
        for seed in range(a.seeds):
            row = {"id": a.id, "seed": seed, "loss": 2 + n / 100 + seed / 1000}
            shared = {"budget": {"steps": 1}, "text": ["a", "b"]}
            path = folder / f"{a.id}.{seed}.json"
            path.write_text(json.dumps(row | shared), encoding="utf-8")
    return folder


def test_the_starter_table_is_made_of_what_training_left(tmp_path: Path) -> None:
    work = _trained(tmp_path / "work", 20)
    (work / "m6x48-07.0.busy").touch()
    path = tmp_path / "t.csv"
    assert starter.write_table(work, path) == 20
    with path.open(encoding="utf-8", newline="") as file:
        head, first, second, *_ = csv.reader(file)
    assert tuple(head) == starter.COLUMNS
    a, b = architectures()[:2]
    assert first[:4] == [a.id, "2x48", "48", "2"]
    assert first[-4:] == [str(parameters(a.config)), "2.000000", "2.001000", "2.002000"]
    assert second[-3:] == ["2.010000", "", ""]
    benchmark = open_benchmark("starter", path)
    assert [x.config for x in benchmark.architectures] == [x.config for x in architectures()[:20]]
    assert benchmark.architectures[1].quality == -2.01
    assert benchmark.strata(benchmark.architectures[0]) == a.cell
    assert benchmark.architectures[0].columns["parameters"] == parameters(a.config)
    found = benchmark.model_terminals(benchmark.architectures[1])
    assert found["params"] == parameters(b.config)
    _check(benchmark, 0)
    _check(benchmark, 17)


def test_varied_networks_have_strata_of_depth_and_width(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    starter.write_table(_trained(tmp_path / "work", 110), path)
    benchmark = open_benchmark("starter-varied", path)
    assert len(benchmark.architectures) == 14
    varied = benchmark.architectures[4]
    assert varied.id.startswith("v")
    assert benchmark.strata(varied) == f"varied {varied.config.depth}x{varied.config.width}"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"budget": {"steps": 2}}, "different budgets"),
        ({"id": "m9"}, "is no result of this benchmark"),
        ({"loss": float("nan")}, "is no result of this benchmark"),
        ({"loss": None}, "is not what training leaves"),
    ],
)
def test_what_training_left_must_fit(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    work = _trained(tmp_path / "work", 12)
    path = work / "m2x48-03.0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change), encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        starter.write_table(work, tmp_path / "t.csv")
    assert not (tmp_path / "t.csv").exists()
    with pytest.raises(ConfigError, match="holds no trained network"):
        starter.write_table(tmp_path, tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"norm": "batch"}, "column norm: 'batch'.*allowed: layer, rms"),
        ({"heads": "5 5"}, "column heads.*5 heads must divide width 48"),
        ({"parameters": "17"}, "column parameters: '17' is not what this shape has"),
    ],
)
def test_a_starter_table_is_read_strictly(cells: dict[str, str], said: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    starter.write_table(_trained(tmp_path / "work", 12), path)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with pytest.raises(ConfigError, match=f"row 2, {said}"):
        open_benchmark("starter", write(path, changed(rows, 0, **cells)))


EVERY = pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
"""Every seventh network, in which each width, operation and number of heads occurs; or each."""


def published_config(declared: EncoderConfig) -> EncoderConfig:
    """Return the encoder on which scores were published: of width 256, with a hidden 1024."""
    stacks = tuple((1024,) * len(stack) for stack in declared.stacks)
    return replace(declared, width=256, stacks=stacks)


@EVERY
def test_published_parameters_of_flexibert_are_met_to_the_last_one(shared: Path, step: int) -> None:
    path = shared / "data" / "flexibert" / "architectures.csv"
    rows, _ = read_table(path, (*flexibert.COLUMNS, "csv_Number_of_Parameters"))
    benchmark = open_benchmark("flexibert", path, declared=True)
    seen: dict[Any, int] = {}
    for row in rows[::step]:
        config = published_config(flexibert.declared_config(row))
        if config not in seen:
            with torch.device("meta"):
                network = benchmark.network(config)
            seen[config] = sum(p.numel() for p in network.parameters())
        assert seen[config] == row.number_of("csv_Number_of_Parameters"), row.cells["id"]


def test_flexibert_has_195_networks_as_they_are_built(shared: Path) -> None:
    path = shared / "data" / "flexibert" / "architectures.csv"
    benchmark = open_benchmark("flexibert", path)
    assert len(benchmark.architectures) == 300
    assert len({a.network for a in benchmark.architectures}) == 195
    assert len({benchmark.strata(a) for a in benchmark.architectures}) == 4


@EVERY
def test_published_parameters_of_gpt2_are_met_by_part(shared: Path, step: int) -> None:
    path = shared / "data" / "gpt2_lts" / "architectures.csv"
    kinds = ("AdaEmb", "Attn", "FFN", "nonembedding", "total")
    rows, _ = read_table(path, ["id", *[f"params_{kind}" for kind in kinds]])
    benchmark = open_benchmark("gpt2-lts", path)
    for row, architecture in list(zip(rows, benchmark.architectures, strict=True))[::step]:
        found = benchmark.model_terminals(architecture)
        with torch.device("meta"):
            network = benchmark.network(architecture.config)
        positions: Any = network.position
        embedding: Any = network.embedding
        adaptive = positions.numel() + sum(p.numel() for p in embedding.parameters())
        counts = (
            adaptive,
            found["params_attention"],
            found["params_mlp"],
            found["params_body"],
            found["params"],
        )
        assert counts == tuple(row.number_of(f"params_{kind}") for kind in kinds)
