"""Scores of networks against a slow way: build each, collect everything, compute by hand."""

import dataclasses
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from autoproxy.evaluation import Failed
from autoproxy.language.parse import parse
from autoproxy.language.terminals import VOCABULARY
from autoproxy.language.types import Kind
from evaluators import cache, networks, scoring
from evaluators import text as text_module
from evaluators.benchmarks import batches
from evaluators.benchmarks.batches import batch_of
from evaluators.benchmarks.table import Benchmark, open_benchmark
from evaluators.scoring import Gathering, Reader, Scorer, scaled
from evaluators.sites import Sampling, Site, collect
from tests.evaluators.tables import starter_rows, write

Matrix = NDArray[np.float64]
Terminals = Mapping[str, Matrix]

WANTED = frozenset({
    "W", "g", "hg", "flow", "x", "y", "dy", "attention", "heads", "x_norm", "y_norm", "fan_in",
    "fan_out", "is_attention", "is_mlp", "is_first", "block_index", "log_flow",
})  # fmt: skip
SMALL = Gathering(sequences=2, tokens=12)
AMPLE = 10**9


def no(_: Terminals) -> float:
    raise KeyError


def total(values: Sequence[float]) -> float:
    return math.fsum(values)


def average(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def spread(values: Sequence[float]) -> float:
    return math.sqrt(average([(v - average(values)) ** 2 for v in values]))


def logarithms(values: Sequence[float]) -> float:
    return math.fsum(math.log(abs(v)) for v in values)


def entropy(t: Matrix) -> float:
    p = np.abs(t) / np.abs(t).sum()
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


def log_determinant(t: Matrix) -> float:
    rows = t.reshape(-1, t.shape[-1])
    rows = rows if rows.shape[0] <= rows.shape[1] else rows.T
    gram = rows @ rows.T / rows.shape[1] + 1e-6 * np.eye(len(rows))
    return float(np.linalg.slogdet(gram)[1])


def singular(t: Matrix) -> Matrix:
    return np.asarray(np.linalg.svd(t.reshape(-1, t.shape[-1]), compute_uv=False))


ORACLES: Mapping[str, tuple[Callable[[Sequence[float]], float], Callable[[Terminals], float]]] = {
    "layers_sum(all_norm(g))": (total, lambda t: float(np.sqrt((t["g"] ** 2).sum()))),
    "layers_sum(all_sum(abs(mul(W, g))))": (total, lambda t: float(np.abs(t["W"] * t["g"]).sum())),
    "layers_mean(all_std(W))": (average, lambda t: float(t["W"].std())),
    "layers_max(all_max(abs(dy)))": (max, lambda t: float(np.abs(t["dy"]).max())),
    "layers_min(all_sum(mul(W, x_norm)))": (min, lambda t: float((t["W"] * t["x_norm"]).sum())),
    "layers_std(all_mean(abs(hg)))": (spread, lambda t: float(np.abs(t["hg"]).mean())),
    "layers_logsum(all_norm(y_norm))": (
        logarithms,
        lambda t: float(np.sqrt((t["y_norm"] ** 2).sum())),
    ),
    "layers_first(all_sum(abs(mul(W, flow))))": (
        lambda v: v[0],
        lambda t: float(np.abs(t["W"] * t["flow"]).sum()),
    ),
    "layers_last(nuclear(W))": (lambda v: v[-1], lambda t: float(singular(t["W"]).sum())),
    "layers_sum(entropy(attention))": (total, lambda t: entropy(t["attention"])),
    "layers_sum(all_sum(square(heads)))": (total, lambda t: float((t["heads"] ** 2).sum())),
    "layers_sum(mul(is_first, all_mean(square(y))))": (
        total,
        lambda t: float(t["is_first"].item() * (t["y"] ** 2).mean()),
    ),
    "layers_mean(logdet(W))": (average, lambda t: log_determinant(t["W"])),
    "layers_sum(correlation(W, g))": (
        total,
        lambda t: float(np.corrcoef(t["W"].ravel(), t["g"].ravel())[0, 1]),
    ),
}
"""Each with what becomes of its numbers of layers, and what a number of a layer is."""


@pytest.fixture(scope="module")
def decoders(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    path = write(tmp_path_factory.mktemp("table") / "table.csv", starter_rows(12))
    return open_benchmark("starter", path)


@pytest.fixture(scope="module")
def scorer(decoders: Benchmark, tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    """Give one scorer whose cache is filled by whoever comes first."""
    return made(decoders, tmp_path_factory.mktemp("cache"))


def made(
    decoders: Benchmark,
    folder: Path,
    gathering: Gathering = SMALL,
    wanted: frozenset[str] = WANTED,
    limit: int = AMPLE,
) -> Scorer:
    return Scorer(Reader(decoders, gathering, wanted=wanted, folder=folder, limit=limit))


def numbers(scorer: Scorer, texts: Sequence[str], places: Sequence[int]) -> list[list[float]]:
    """Return the scores of some expressions, none of which fails."""
    found = scorer.scores([parse(text) for text in texts], places)
    assert not [f for f in found if isinstance(f, Failed)], found
    return [f.tolist() for f in found if not isinstance(f, Failed)]


def reasons(scorer: Scorer, *texts: str) -> list[str]:
    found = scorer.scores([parse(text) for text in texts], [0, 1, 2])
    assert all(isinstance(f, Failed) for f in found)
    return [f.reason for f in found if isinstance(f, Failed)]


def test_scores_are_those_of_the_slow_way(decoders: Benchmark, scorer: Scorer) -> None:
    places = [7, 0, 5, 2]
    found = dict(zip(ORACLES, numbers(scorer, list(ORACLES), places), strict=True))
    ids = batch_of(decoders, 2, 12, 0)
    for row, place in enumerate(places):
        network = decoders.build(decoders.architectures[place], 0)
        sites = collect(network, ids, WANTED).sites
        tensors = [
            {name: t.double().numpy() for name, t in site.terminals.items()} for site in sites
        ]
        for text, (aggregated, of_layer) in ORACLES.items():
            needed = parse(text).terminals()
            values = [of_layer(t) for t in tensors if needed <= set(t)]
            assert values, text
            assert found[text][row] == pytest.approx(aggregated(values), rel=1e-4, abs=1e-7), text


def test_what_a_model_is_by_its_numbers(decoders: Benchmark, scorer: Scorer) -> None:
    texts = ["div(params, width)", "log_flow", "mul(n_layers, layers_sum(div(fan_in, fan_in)))"]
    each, flow, counted = numbers(scorer, texts, range(4))
    for place in range(4):
        architecture = decoders.architectures[place]
        depth, width = architecture.columns["depth"], architecture.columns["width"]
        assert each[place] == architecture.columns["parameters"] / width
        matrices = 7 if architecture.columns["swiglu"] else 6
        assert counted[place] == depth * depth * matrices
        network = decoders.build(architecture, 0)
        ids = batch_of(decoders, 2, 12, 0)
        assert flow[place] == collect(network, ids, {"log_flow"}).model["log_flow"]


def test_what_is_kept_is_of_one_text_one_torch_and_one_code(
    decoders: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names stay what they are when the text, torch or a network's code change."""

    def key() -> str:
        scoring.sources.cache_clear()
        batches._hash.cache_clear()
        batches._read.cache_clear()
        return made(decoders, tmp_path).reader.key(decoders.architectures[0])

    first = key()
    assert key() == first
    found = {first}
    (tmp_path / "calibration.txt").write_text("another text\n" * 999, encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(text_module, "TOPICS", tmp_path)
        found.add(key())
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "9.9")
        found.add(key())
    folder = Path(shutil.copytree(Path(networks.__file__).parent, tmp_path / "networks"))
    with (folder / "decoder.py").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    with monkeypatch.context() as patch:
        patch.setattr(networks, "__file__", str(folder / "__init__.py"))
        found.add(key())
    assert len(found) == 4
    assert key() == first


def test_terminals_that_few_layers_have_are_read_where_they_are(
    decoders: Benchmark, scorer: Scorer
) -> None:
    """One layer in each block has attention probabilities, whatever else it has."""
    (found,) = numbers(
        scorer, ["layers_sum(div(all_mean(attention), all_mean(attention)))"], [0, 4]
    )
    assert found == [decoders.architectures[place].columns["depth"] for place in (0, 4)]


def test_a_second_pass_has_the_same_bits_whoever_asks_with_it(
    decoders: Benchmark, scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [*ORACLES, "log_flow"]
    first = numbers(scorer, texts, range(6))
    anew = made(decoders, tmp_path)
    assert numbers(anew, texts, range(6)) == first  # gathered by another
    monkeypatch.setattr(scoring, "collect", refuse)
    again = made(decoders, tmp_path)
    backwards = numbers(again, texts[::-1], range(6)[::-1])
    assert [row[::-1] for row in backwards[::-1]] == first
    alone = [numbers(made(decoders, tmp_path), [text], [3])[0][0] for text in texts]
    assert alone == [row[3] for row in first]


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("this was to come from the cache")


def test_ranking_keeps_nothing(decoders: Benchmark, tmp_path: Path) -> None:
    expressions = [parse("layers_sum(all_norm(g))")]
    (kept,) = made(decoders, tmp_path).scores(expressions, [0], keep=False)
    assert isinstance(kept, torch.Tensor)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("spoilt", ["cut", "empty", "foreign", "header", "sites"])
def test_a_damaged_file_is_gathered_anew(decoders: Benchmark, tmp_path: Path, spoilt: str) -> None:
    text = "layers_sum(all_norm(g))"
    wanted = frozenset({"g", "W"})
    before = numbers(made(decoders, tmp_path, wanted=wanted), [text], [1])
    (path,) = tmp_path.glob("*.safetensors")
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut": content[:-7],
            "empty": b"",
            "foreign": b"no tensors at all",
            "header": content.replace(b"autoproxy", b"autoprozy", 1),
            "sites": content.replace(b'"0/', b'"9/', 1),
        }[spoilt]
    )
    assert path.read_bytes() != content
    assert numbers(made(decoders, tmp_path, wanted=wanted), [text], [1]) == before
    assert path.read_bytes() == content


def test_networks_make_room_for_each_other_alone(decoders: Benchmark, tmp_path: Path) -> None:
    """Statistics for pruning lie in the same folder, and are older than what a search adds."""
    folder = tmp_path / "cache"
    folder.mkdir()
    other = folder / "starter-W.safetensors"
    other.write_bytes(bytes(5000))
    os.utime(other, (0, 0))
    reader = made(decoders, folder, wanted=frozenset({"W"}), limit=1).reader
    for architecture in decoders.architectures[:3]:
        reader.statistics(architecture)
    assert list(folder.iterdir()) == [other]


def test_what_is_read_is_the_last_to_go(decoders: Benchmark, tmp_path: Path) -> None:
    reader = made(decoders, tmp_path, wanted=frozenset({"W"})).reader
    first, second = decoders.architectures[:2]
    for architecture in (first, second):
        reader.statistics(architecture)
    for age, architecture in ((100, second), (200, first)):
        os.utime(reader._path(architecture), (age, age))
    reader.statistics(second)
    cache.evict(tmp_path, reader._path(second).stat().st_size)
    assert [reader.is_kept(architecture) for architecture in (first, second)] == [False, True]


def test_networks_to_be_gathered_are_dearer_than_those_that_are_kept(
    decoders: Benchmark, tmp_path: Path
) -> None:
    """One proxy on 120 networks is worth several processes, if none of them was gathered yet."""
    scorer = made(decoders, tmp_path, wanted=frozenset({"W"}))
    jobs = [(a, [parse("all_norm(W)")]) for a in decoders.architectures[:4]]
    assert scorer._work(jobs) * 30 > scoring.WORTH_PROCESSES
    scorer.reader.statistics(decoders.architectures[1])
    assert scorer._work(jobs) == 3 * scoring.GATHERED + 4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_device_gives_the_scores_of_the_cpu(decoders: Benchmark, tmp_path: Path) -> None:
    """docs/predict.md states the tolerance; a second pass reads what the first one kept."""
    texts = [text for text in ORACLES if "logsum" not in text]
    places = range(len(decoders.architectures))
    plain = numbers(made(decoders, tmp_path), texts, places)
    cuda = dataclasses.replace(SMALL, device="cuda")
    scorer = made(decoders, tmp_path, gathering=cuda)
    first = numbers(scorer, texts, places)
    for site in scorer.reader.statistics(decoders.architectures[0]).sites:
        assert {t.device.type for t in site.terminals.values()} == {"cpu"}
    for text, ours, theirs in zip(texts, plain, first, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-3), text
    assert numbers(made(decoders, tmp_path, gathering=cuda), texts, places) == first


def test_the_cache_keeps_to_its_limit(decoders: Benchmark, tmp_path: Path) -> None:
    wanted = frozenset({"W", "x"})
    text = "layers_sum(all_norm(x))"
    numbers(made(decoders, tmp_path / "ample", wanted=wanted), [text], range(6))
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "ample").iterdir()}
    assert len(sizes) == 6
    limit = sum(sizes.values()) // 2
    small = made(decoders, tmp_path / "small", wanted=wanted, limit=limit)
    found = numbers(small, [text], range(6))
    left = sum(path.stat().st_size for path in (tmp_path / "small").iterdir())
    assert limit - max(sizes.values()) < left <= limit
    assert found == numbers(made(decoders, tmp_path / "ample", wanted=wanted), [text], range(6))


def test_what_decides_statistics_decides_the_file(decoders: Benchmark, tmp_path: Path) -> None:
    others = [
        dataclasses.replace(SMALL, **change)
        for change in ({"sequences": 1}, {"tokens": 8}, {"rows": 3}, {"seed": 1})
    ]
    text = "layers_sum(all_norm(y))"
    wanted = frozenset({"y"})
    found = [
        numbers(made(decoders, tmp_path, g, wanted), [text], [2])[0][0] for g in (SMALL, *others)
    ]
    assert len(set(found)) == len(found)
    assert len(list(tmp_path.iterdir())) == len(found)


# --- samples of rows --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("all_sum(abs(W))", "mul(all_sum(abs(W)), row_scale)"),
        ("all_norm(y)", "mul(all_norm(y), sqrt(row_scale))"),
        ("col_sum(W)", "mul(col_sum(W), row_scale)"),
        ("all_sum(row_norm(W))", "mul(all_sum(row_norm(W)), row_scale)"),
        ("all_sum(col_norm(W))", "all_sum(mul(col_norm(W), sqrt(row_scale)))"),
        ("all_sum(x_norm)", "all_sum(x_norm)"),
        ("all_sum(x)", "all_sum(x)"),
        ("all_sum(attention)", "all_sum(attention)"),
        ("all_mean(W)", "all_mean(W)"),
        ("all_max(W)", "all_max(W)"),
    ],
)
def test_only_sums_and_norms_over_outputs_are_scaled(text: str, meant: str) -> None:
    assert str(scaled(parse(text))) == meant


def test_as_many_rows_as_there_are_change_no_bit(decoders: Benchmark, tmp_path: Path) -> None:
    texts = list(ORACLES)
    rows = max(16, *(int(r["ff_widths"].split()[0]) for r in starter_rows(12)))
    whole = numbers(made(decoders, tmp_path / "a"), texts, range(3))
    sampled = dataclasses.replace(SMALL, rows=rows)
    assert numbers(made(decoders, tmp_path / "b", sampled), texts, range(3)) == whole


def test_samples_of_rows_stand_for_all_in_expectation(decoders: Benchmark) -> None:
    """Sums, and squares of norms, over 80 draws of the rows of one network."""
    network = decoders.build(decoders.architectures[5], 0)
    ids = batch_of(decoders, 2, 12, 0)
    features = [parse(t) for t in ("all_sum(abs(W))", "square(all_norm(y))")]
    wanted = {"W", "y"}
    whole = [v.sum().item() for v in scoring.read(features, collect(network, ids, wanted).sites)]
    drawn = []
    for seed in range(80):
        sites = collect(network, ids, wanted, sampling=Sampling(rows=5, seed=seed)).sites
        assert all(site.terminals["W"].shape[0] == min(5, site.d_out) for site in sites)
        drawn.append([v.sum().item() for v in scoring.read(features, sites)])
    table = np.array(drawn)
    error = table.std(axis=0) / math.sqrt(len(table))
    assert (error > 0).all()
    assert (np.abs(table.mean(axis=0) - whole) < 4 * error).all()
    assert (error < 0.1 * np.array(whole)).all()


# --- the control ------------------------------------------------------------------------------


def test_noise_takes_the_place_of_every_tensor_and_leaves_what_counts(
    decoders: Benchmark, tmp_path: Path
) -> None:
    control = dataclasses.replace(SMALL, control="noise")
    real, noisy = made(decoders, tmp_path), made(decoders, tmp_path, control)
    architecture = decoders.architectures[4]
    for ours, theirs in zip(
        real.reader.statistics(architecture).sites,
        noisy.reader.statistics(architecture).sites,
        strict=True,
    ):
        assert (ours.name, ours.d_out) == (theirs.name, theirs.d_out)
        assert set(ours.terminals) == set(theirs.terminals)
        for name, value in ours.terminals.items():
            noise = theirs.terminals[name]
            known = VOCABULARY[name]
            assert noise.shape == value.shape
            if known.kind is Kind.SCALAR:
                assert torch.equal(noise, value)
                continue
            assert not torch.isclose(noise, value).any(), name
            assert bool((noise >= 0).all()) is known.nonnegative, name
            assert float(noise.square().mean()) == pytest.approx(1, abs=8 / noise.numel() ** 0.5)
    different = [
        torch.equal(a.terminals["W"], b.terminals["W"])
        for a, b in zip(
            noisy.reader.statistics(architecture).sites,
            noisy.reader.statistics(architecture).sites,
            strict=True,
        )
    ]
    assert all(different)  # the same noise each time
    assert len(list(tmp_path.iterdir())) == 1  # it is made of the real ones' shapes


def test_noise_is_blind_to_weights(decoders: Benchmark, tmp_path: Path) -> None:
    """Real scores follow the weights; with noise nothing is left that would."""
    lighter = dataclasses.replace(decoders, name="lighter", weights=halve)
    texts = ["layers_sum(all_norm(g))", "layers_mean(erank(W))"]
    for control in (None, "noise"):
        gathering = dataclasses.replace(SMALL, control=control)
        ours, theirs = (
            numbers(made(b, tmp_path, gathering, frozenset({"W", "g"})), texts, range(4))
            for b in (decoders, lighter)
        )
        assert (ours == theirs) is (control == "noise")


def halve(network: torch.nn.Module, config: object) -> None:
    del config
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter.mul_(0.5 + 0.1 * (number % 3)).add_(0.001)


def test_noise_of_twins_is_one_whoever_is_asked_first(decoders: Benchmark, tmp_path: Path) -> None:
    """Two rows of one network have one score, so who is asked first must not decide it."""
    twin = dataclasses.replace(decoders.architectures[0], id="twin")
    doubled = dataclasses.replace(decoders, architectures=(*decoders.architectures, twin))
    control = dataclasses.replace(SMALL, control="noise")
    wanted = frozenset({"W"})
    text = ["layers_sum(all_norm(W))"]
    last = len(doubled.architectures) - 1
    first = numbers(made(doubled, tmp_path, control, wanted), text, [0, last])
    other = numbers(made(doubled, tmp_path, control, wanted), text, [last])
    assert first[0] == other[0] * 2


def test_other_draws_have_other_noise(decoders: Benchmark, tmp_path: Path) -> None:
    """Else the interval over draws of a control would be a point."""
    text = ["layers_sum(all_norm(W))"]
    found = [
        numbers(
            made(
                decoders,
                tmp_path,
                dataclasses.replace(SMALL, control="noise", seed=seed),
                frozenset({"W"}),
            ),
            text,
            [0],
        )[0][0]
        for seed in range(3)
    ]
    assert len(set(found)) == 3


# --- no score ---------------------------------------------------------------------------------


def test_what_no_layer_offers_is_said(decoders: Benchmark, tmp_path: Path) -> None:
    scorer = made(decoders, tmp_path, wanted=frozenset({"W"}))
    (reason,) = reasons(scorer, "layers_sum(all_norm(mul(W, g)))")
    assert reason == "3 of 3 networks have no layer that offers W, g"
    (other,) = reasons(scorer, "add(params, layers_mean(all_mean(heads)))")
    assert "no layer that offers heads" in other


def test_what_is_not_finite_is_no_number(decoders: Benchmark, scorer: Scorer) -> None:
    del decoders
    for reason in reasons(
        scorer,
        "layers_sum(mul(1e38, mul(1e38, add(1, all_sum(square(W))))))",
        "layers_min(sub(mul(1e38, exp(add(80, all_max(W)))), mul(1e38, exp(add(81, all_max(W))))))",
        "mul(1e38, layers_mean(mul(1e38, add(1e5, all_max(abs(W))))))",
    ):
        assert reason == "no finite score for 3 of 3 networks"


def test_synflow_without_its_terminal_is_no_number(decoders: Benchmark, tmp_path: Path) -> None:
    scorer = made(decoders, tmp_path, wanted=frozenset({"W"}))
    assert reasons(scorer, "log_flow") == ["no finite score for 3 of 3 networks"]
    control = dataclasses.replace(SMALL, control="noise")
    assert reasons(made(decoders, tmp_path, control), "log_flow")  # it reads weights


def test_one_network_without_a_score_leaves_none(decoders: Benchmark, tmp_path: Path) -> None:
    """A missing score is refused, not left out: orders of different networks do not compare."""
    spoilt = dataclasses.replace(decoders, name="spoilt", weights=spoil)
    scorer = made(spoilt, tmp_path, wanted=frozenset({"W"}))
    (found,) = scorer.scores([parse("layers_sum(all_norm(W))")], range(6))
    assert found == Failed("no finite score for 2 of 6 networks")


def spoil(network: torch.nn.Module, config: object) -> None:
    if getattr(config, "depth", 0) == 2:
        with torch.no_grad():
            list(network.parameters())[-2].fill_(math.inf)


def test_a_formula_of_numbers_alone_scores_every_network(scorer: Scorer) -> None:
    (found,) = scorer.scores([parse("sub(params, params)")], [0, 1, 2])
    assert isinstance(found, torch.Tensor)
    assert found.tolist() == [0, 0, 0]


def test_the_threads_are_given_back(scorer: Scorer) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with scoring.one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        numbers(scorer, ["layers_sum(all_norm(W))"], [0])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_site_says_how_many_outputs_its_rows_stand_for() -> None:
    def site(**terminals: torch.Tensor) -> Site:
        return Site("a", 12, 4, terminals)

    kept = torch.ones(3, 5)
    for given in (site(W=kept), site(y=torch.ones(2, 4, 3)), site(y_norm=torch.ones(3, 1))):
        (name,) = given.terminals
        (found,) = scoring.read([parse(f"all_sum({name})")], [given])
        assert found.item() == 4 * given.terminals[name].numel()
    given = site(x=torch.ones(2, 4, 5))
    (found,) = scoring.read([parse("all_sum(x)")], [given])
    assert found.item() == 40


def test_several_processes_give_the_same_bits(
    decoders: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "WORTH_PROCESSES", 1)
    expressions = [parse("layers_sum(all_sum(abs(W * g)))"), parse("layers_mean(erank(x))")]
    places = range(len(decoders.architectures))
    alone = made(decoders, tmp_path).scores(expressions, places)
    together = Scorer(made(decoders, tmp_path).reader, jobs=2).scores(expressions, places)
    assert all(
        torch.equal(as_tensor(a), as_tensor(b)) for a, b in zip(alone, together, strict=True)
    )


def as_tensor(scores: object) -> torch.Tensor:
    assert isinstance(scores, torch.Tensor)
    return scores
