"""Statistics, against recording modules and the plain formulas in float64; and their cache."""

import copy
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from autoproxy.errors import ModelError, StorageError
from autoproxy.language.terminals import VOCABULARY
from autoproxy.language.types import Kind
from evaluators import statistics as module
from evaluators.layers import prunable
from evaluators.models import LoadedModel
from evaluators.statistics import EXTRAS, PROVIDED, Statistics, cached_statistics, collect, noise
from tests.evaluators.tiny import VOCABULARY_SIZE, hook_count, mean_loss, state, tiny_model

MEASURED = sorted((PROVIDED | EXTRAS) - {"W", "noise"})
SEQUENCES = 3


class Recording(nn.Linear):
    """A linear layer that stores what goes in and out."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        self.__dict__.setdefault("seen", []).append((x.detach(), y.detach()))
        return y


class RegionRecorder(nn.Module):
    """A decoder layer that, whenever it is called, differentiates the norm of its output."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.gradients: list[dict[str, Tensor]] = []

    def forward(self, states: Tensor, *args: Any, **kwargs: Any) -> Any:
        with torch.enable_grad():
            weights = {n: m.weight for n, m in self.inner.named_modules() if is_linear(m)}
            for weight in weights.values():
                weight.requires_grad_(requires_grad=True)
            output = self.inner(states.detach(), *args, **kwargs)
            tensor = output[0] if isinstance(output, tuple) else output
            tensor.square().sum().sqrt().backward()
        self.gradients.append({n: w.grad.clone() for n, w in weights.items()})
        for weight in weights.values():
            weight.grad = None
        return output


def is_linear(m: nn.Module) -> bool:
    return isinstance(m, nn.Linear)


def doubled(model: PreTrainedModel) -> PreTrainedModel:
    return copy.deepcopy(model).double()


def flow_oracle(model: PreTrainedModel, blocks: Tensor) -> Statistics:
    model = doubled(model)
    layers = {name: layer.module for name, layer in prunable(model).items()}
    for layer in layers.values():
        layer.__class__ = Recording
    with torch.no_grad():
        for block in blocks:
            model(block.unsqueeze(0))
    found: Statistics = {}
    for name, layer in layers.items():
        x = np.concatenate([seen[0].reshape(-1, layer.in_features) for seen, _ in pairs(layer)])
        y = np.concatenate([seen[0].reshape(-1, layer.out_features) for _, seen in pairs(layer)])
        moments = torch.from_numpy(2.0 / SEQUENCES * (x.T @ x))
        h = moments.clone()
        # Dead inputs have the damping alone, and 1 where there is none: SparseGPT's 1 among small
        # entries would make OBS keep what it sets to zero at once.
        h += (0.01 * float(h.diagonal().mean()) or 1.0) * torch.eye(len(h))
        rows = {
            "x_norm": np.sqrt((x**2).sum(axis=0) / SEQUENCES),
            "x_mean": x.mean(axis=0),
            "x_var": x.var(axis=0),
            "x_max": np.abs(x).max(axis=0),
            "h_inv": torch.linalg.inv(h).diagonal().numpy(),
            "u_diag": np.sqrt([torch.linalg.inv(h[j:, j:])[0, 0] for j in range(len(h))]),
            "x_sum": x.sum(axis=0) / SEQUENCES,
        }
        found[name] = {key: torch.from_numpy(row).reshape(1, -1) for key, row in rows.items()}
        found[name]["moments"] = moments
        out = np.sqrt((y**2).sum(axis=0) / SEQUENCES)
        found[name]["y_norm"] = torch.from_numpy(out).reshape(-1, 1)
    return found


def pairs(layer: nn.Linear) -> list[tuple[tuple[np.ndarray], tuple[np.ndarray]]]:
    return [((x.numpy(),), (y.numpy(),)) for x, y in layer.__dict__["seen"]]


def gradient_oracle(model: PreTrainedModel, blocks: Tensor) -> Statistics:
    model = doubled(model)
    weights = {name: layer.parameter for name, layer in prunable(model).items()}
    for weight in weights.values():
        weight.requires_grad_(requires_grad=True)
    each: dict[str, list[Tensor]] = {name: [] for name in weights}
    for block in blocks:
        loss = mean_loss(model, block)
        for name, weight in weights.items():
            (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
            each[name].append(gradient)
    return {
        name: {
            "g": torch.stack(several).sum(dim=0),
            "g_norm": torch.stack(several).square().sum(dim=0).sqrt(),
            "g_abs": torch.stack(several).abs().sum(dim=0),
        }
        for name, several in each.items()
    }


def token_oracle(model: PreTrainedModel, blocks: Tensor) -> Statistics:
    """One token at a time: its own part of the gradient of each weight, squared."""
    model = doubled(model)
    layers = {name: layer.module for name, layer in prunable(model).items()}
    for layer in layers.values():
        layer.weight.requires_grad_(requires_grad=True)
    found = {name: torch.zeros_like(layer.weight) for name, layer in layers.items()}
    for block in blocks:
        ran: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        write: Any = lambda layer, x, y, ran=ran: ran.update({layer: (x[0].detach()[0], y)})  # noqa: E731
        hooks = [layer.register_forward_hook(write) for layer in layers.values()]
        loss = mean_loss(model, block)
        slopes = torch.autograd.grad(loss, [y for _, y in ran.values()])
        slope_of = dict(zip(ran, slopes, strict=True))
        for name, layer in layers.items():
            for change, x in zip(slope_of[layer][0], ran[layer][0], strict=True):
                found[name] += torch.outer(change, x).square()
        for hook in hooks:
            hook.remove()
    return {name: {"g_token": total.detach().sqrt()} for name, total in found.items()}


def region_oracle(model: PreTrainedModel, blocks: Tensor) -> Statistics:
    model = doubled(model)
    recorders = [RegionRecorder(layer) for layer in model.model.layers]
    model.model.layers = nn.ModuleList(recorders)
    with torch.no_grad():
        for block in blocks:
            model(block.unsqueeze(0), use_cache=False)
    return {
        f"model.layers.{i}.{name}": {
            "g_region": torch.stack([g[name] for g in recorder.gradients])
            .square()
            .mean(dim=0)
            .sqrt()
        }
        for i, recorder in enumerate(recorders)
        for name in recorder.gradients[0]
    }


class BlockRecorder(nn.Module):
    """A decoder layer that writes down what goes in and out."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, states: Tensor, *args: Any, **kwargs: Any) -> Any:
        output = self.inner(states, *args, **kwargs)
        self.seen += list(zip(states[0], output[0], strict=True))  # token by token
        return output


def block_oracle(model: PreTrainedModel, blocks: Tensor) -> Statistics:
    """The angle by the law of cosines, which asks for three lengths and no product."""
    model = doubled(model)
    names = list(prunable(model))
    recorders = [BlockRecorder(layer) for layer in model.model.layers]
    model.model.layers = nn.ModuleList(recorders)
    with torch.no_grad():
        for block in blocks:
            model(block.unsqueeze(0), use_cache=False)
    values = {}
    for index, recorder in enumerate(recorders):
        angles, changes = [], []
        for before, after in recorder.seen:
            a, b, c = (float(v.square().sum().sqrt()) for v in (before, after, after - before))
            angles.append(math.degrees(math.acos((a * a + b * b - c * c) / (2 * a * b))) / 180)
            changes.append(c / a)
        values[str(index)] = {
            "block_angle": torch.tensor([[sum(angles) / len(angles)]], dtype=torch.float64),
            "block_change": torch.tensor([[sum(changes) / len(changes)]], dtype=torch.float64),
            "block_index": torch.tensor([[index]], dtype=torch.float64),
        }
    return {name: values[name.split(".")[2]] for name in names}


ORACLES: dict[str, Callable[[PreTrainedModel, Tensor], Statistics]] = {
    **dict.fromkeys(("x_norm", "x_mean", "x_var", "x_max", "x_sum", "y_norm"), flow_oracle),
    **dict.fromkeys(("h_inv", "u_diag", "moments"), flow_oracle),
    **dict.fromkeys(("g", "g_norm", "g_abs"), gradient_oracle),
    "g_token": token_oracle,
    "g_region": region_oracle,
    **dict.fromkeys(("block_angle", "block_change", "block_index"), block_oracle),
}


def loaded_of(model: PreTrainedModel, sha256: str = "0" * 32) -> LoadedModel:
    return LoadedModel(model, None, "tiny", sha256, "llama")


def model_of(kind: str) -> PreTrainedModel:
    model = tiny_model(gqa=kind != "mha", bias=kind == "bias")
    if kind == "dead":  # the first and third inputs of down_proj, and a head's of o_proj
        for layer in model.model.layers:
            layer.mlp.up_proj.weight[[0, 2]] = 0.0
            layer.self_attn.v_proj.weight[:4] = 0.0
    return model


def some_blocks(length: int = 24) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    return torch.randint(VOCABULARY_SIZE, (SEQUENCES, length), generator=draw)


@pytest.fixture(scope="module", params=["gqa", "mha", "bias", "dead"])
def measured(request: pytest.FixtureRequest) -> tuple[PreTrainedModel, Statistics]:
    model = model_of(request.param)
    return model, collect(loaded_of(model), some_blocks(), MEASURED)


def test_every_terminal_has_an_oracle() -> None:
    assert set(ORACLES) == set(MEASURED)


@pytest.mark.parametrize("name", MEASURED)
def test_each_statistic_is_its_formula(
    measured: tuple[PreTrainedModel, Statistics], name: str
) -> None:
    model, found = measured
    expected = ORACLES[name](model, some_blocks())
    assert list(found) == list(prunable(model))
    for layer, values in found.items():
        right = expected[layer][name]
        assert values[name].dtype == torch.float32
        assert values[name].shape == right.shape
        scale = float(right.abs().max())
        torch.testing.assert_close(
            values[name].double(),
            right,
            rtol=2e-4,
            atol=1e-5 * scale,
            msg=lambda m, layer=layer: f"{layer}: {m}",
        )


def test_shapes_are_those_of_the_kinds(measured: tuple[PreTrainedModel, Statistics]) -> None:
    model, found = measured
    for layer, linear in prunable(model).items():
        for name, value in found[layer].items():
            rows, columns = linear.weight.shape
            assert torch.isfinite(value).all()
            if name in EXTRAS:
                assert tuple(value.shape) == (columns if name == "moments" else 1, columns)
                continue
            shape = {
                Kind.WEIGHT: (rows, columns),
                Kind.PER_INPUT: (1, columns),
                Kind.PER_OUTPUT: (rows, 1),
                Kind.SCALAR: (1, 1),
            }[VOCABULARY[name].kind]
            assert tuple(value.shape) == shape, name
            assert not VOCABULARY[name].nonnegative or bool((value >= 0).all())


def test_dead_inputs_are_the_first_to_go() -> None:
    """Their weights have no effect, so OBS, W^2 / h_inv, must rate them below all others."""
    model = model_of("dead")
    for layer in model.model.layers:  # so that a 1 in H would be large
        layer.mlp.up_proj.weight.mul_(1e-3)
    found = collect(loaded_of(model), some_blocks(), ["h_inv", "u_diag", "x_norm"])
    for number in range(2):
        values = found[f"model.layers.{number}.mlp.down_proj"]
        dead = torch.tensor([0, 2])
        assert values["x_norm"][0, dead].tolist() == [0.0, 0.0]
        for name in ("h_inv", "u_diag"):
            alive = values[name][0].clone().index_fill_(0, dead, 0.0)
            assert bool((values[name][0, dead] > alive.max()).all()), name


def test_inputs_that_are_all_dead_count_as_one() -> None:
    flow = module._Flow(3, torch.device("cpu"), second_moments=True)
    flow.add(torch.zeros(5, 3))
    for name in ("h_inv", "u_diag"):
        assert flow.statistics(1, frozenset({name}))[name].tolist() == [[1.0, 1.0, 1.0]]


def test_moments_that_are_not_finite_are_said_in_words() -> None:
    """float16 overflows to infinity, and a factorisation of it ended in a traceback."""
    flow = module._Flow(3, torch.device("cpu"), second_moments=True)
    flow.add(torch.full((5, 3), math.inf))
    for name in ("h_inv", "u_diag"):
        with pytest.raises(ModelError, match=r"float16.*--dtype bfloat16 or float32"):
            flow.statistics(1, frozenset({name}))


@pytest.mark.parametrize("name", ["g", "g_norm", "g_abs", "g_token"])
def test_small_gradients_survive_float16(name: str) -> None:
    """Slopes of a mean over many tokens and words are below all that float16 holds."""
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight *= 1e-4
    half = model.half()
    exact = collect(loaded_of(copy.deepcopy(half).float()), some_blocks(), [name])
    found = collect(loaded_of(half), some_blocks(), [name])
    for layer, values in exact.items():
        error = (found[layer][name] - values[name]).norm() / values[name].norm()
        assert error < 0.05, layer


def test_variance_survives_a_large_mean() -> None:
    flow = module._Flow(2, torch.device("cpu"), second_moments=False)
    x = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32) + np.float32(10_000)
    for part in (x[:7], x[7:8], x[8:]):
        flow.add(torch.from_numpy(part))
    variance = flow.statistics(3, frozenset({"x_var"}))["x_var"].numpy()[0]
    np.testing.assert_allclose(variance, x.astype(np.float64).var(axis=0), rtol=1e-6)


@pytest.mark.parametrize("name", MEASURED)
def test_one_sequence_alone_and_all_together(name: str) -> None:
    # Sums over sequences, not over batches: a repeated sequence changes only the gradients'.
    model = loaded_of(tiny_model())
    once = collect(model, some_blocks()[:1], [name])
    twice = collect(model, some_blocks()[[0, 0]], [name])
    factor = {"g": 2.0, "g_norm": 2.0**0.5, "g_abs": 2.0, "g_token": 2.0**0.5}.get(name, 1.0)
    for layer, values in once.items():
        torch.testing.assert_close(twice[layer][name], factor * values[name], rtol=1e-4, atol=1e-7)


# --- the model afterwards --------------------------------------------------------------------


@pytest.mark.parametrize("wants", [False, True])
def test_the_model_is_as_before(wants: bool) -> None:
    model = tiny_model()
    model.model.layers[0].mlp.up_proj.weight.requires_grad_(requires_grad=wants)
    before, flags = state(model), [p.requires_grad for p in model.parameters()]
    hooks = hook_count(model)
    collect(loaded_of(model), some_blocks(), MEASURED)
    assert state(model) == before
    assert [p.requires_grad for p in model.parameters()] == flags
    assert hook_count(model) == hooks
    assert all(p.grad is None for p in model.parameters())
    assert not model.training


def test_hooks_and_flags_go_when_the_model_fails() -> None:
    model = tiny_model()
    hooks = hook_count(model)
    bad = torch.full((1, 5), VOCABULARY_SIZE)  # no such token
    for name in ("x_norm", "g", "g_token", "g_region"):
        with pytest.raises(IndexError):
            collect(loaded_of(model), bad, [name])
        assert hook_count(model) == hooks
        assert not any(p.requires_grad for p in model.parameters())


def test_a_hook_that_was_there_stays() -> None:
    model = tiny_model()
    calls: list[int] = []
    model.model.layers[0].mlp.up_proj.register_forward_hook(lambda *_: calls.append(1))
    collect(loaded_of(model), some_blocks(), ["x_norm"])
    assert len(calls) == SEQUENCES
    assert hook_count(model) == 1


@pytest.mark.parametrize(
    "names",
    [
        ["x_norm"],
        ["g"],
        ["y_norm", "h_inv"],
        ["u_diag"],
        ["g_region"],
        ["moments", "g_abs"],
        ["g_token"],
        [],
    ],
)
def test_only_what_is_asked_is_collected(names: list[str]) -> None:
    found = collect(loaded_of(tiny_model()), some_blocks(), [*names, "W", "noise"])
    assert len(found) == 14
    assert all(set(values) == set(names) for values in found.values())


def test_nothing_runs_where_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    monkeypatch.setattr(model, "forward", None)
    monkeypatch.setattr(model.model, "forward", None)
    assert all(not v for v in collect(loaded_of(model), some_blocks(), ["W", "noise"]).values())


def test_backward_runs_only_for_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.autograd, "backward", None)
    collect(loaded_of(tiny_model()), some_blocks(), sorted(module.FLOWING))
    with pytest.raises(TypeError):
        collect(loaded_of(tiny_model()), some_blocks(), ["g"])


def test_second_moments_of_one_decoder_layer_at_a_time_are_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a model with 7B parameters those of all would be 44 GB."""
    alive, most = [0], [0]

    class Counted(module._Flow):
        def __init__(self, width: int, device: torch.device, *, second_moments: bool) -> None:
            super().__init__(width, device, second_moments=second_moments)
            self.size = self.moments.numel()
            alive[0] += self.size
            most[0] = max(most[0], alive[0])

        def __del__(self) -> None:
            alive[0] -= self.size

    monkeypatch.setattr(module, "_Flow", Counted)
    collect(loaded_of(tiny_model()), some_blocks(), ["h_inv", "x_norm"])
    assert most[0] == 3 * 16**2 + 24**2  # inputs of q, k and v; of o; of gate and up; of down
    assert alive == [0]


def test_collecting_twice_gives_the_same_bits() -> None:
    model = loaded_of(tiny_model())
    first, second = (collect(model, some_blocks(), MEASURED) for _ in range(2))
    assert all(
        torch.equal(first[layer][name], second[layer][name]) for layer in first for name in MEASURED
    )


def test_a_layer_that_is_never_called_is_said_in_words() -> None:
    """Nothing is known of it: at zero, a metric would drop it whole."""
    model = tiny_model()
    model.model.layers[1].mlp.add_module("spare", nn.Linear(16, 8))
    for name in ("x_norm", "g_norm", "g_token", "g_region"):
        with pytest.raises(ModelError, match=r"no calibration token came to .*spare.*W alone"):
            collect(loaded_of(model), some_blocks(), [name])
    assert hook_count(model) == 0


def test_noise_belongs_to_a_layer_and_a_seed() -> None:
    shape = torch.Size((40, 50))
    first = noise("a", shape, 0)
    assert torch.equal(first, noise("a", shape, 0))
    assert not torch.equal(first, noise("b", shape, 0))
    assert not torch.equal(first, noise("a", shape, 1))
    assert bool((first >= 0).all() and (first < 1).all())
    assert abs(float(first.mean()) - 0.5) < 0.03
    before = torch.get_rng_state()
    noise("a", shape, 0)
    assert torch.equal(torch.get_rng_state(), before)


# --- the cache -------------------------------------------------------------------------------


class Cache:
    """Calls `cached_statistics` on one folder, and counts what was measured and noticed."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.loaded = loaded_of(tiny_model())
        self.measured: list[list[str]] = []
        self.notices: list[str] = []
        monkeypatch.setattr(module, "collect", self._collect)

    def _collect(self, loaded: LoadedModel, blocks: Tensor, names: Any, notice: Any) -> Statistics:
        self.measured.append(sorted(names))
        return collect(loaded, blocks, names, notice)

    def __call__(self, *names: str, blocks: Tensor | None = None) -> Statistics:
        chosen = some_blocks() if blocks is None else blocks
        return cached_statistics(self.folder, self.loaded, chosen, names, self.notices.append)

    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir())

    def take_measured(self) -> list[str]:
        taken = [name for names in self.measured for name in names]
        self.measured.clear()
        return taken


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    return Cache(tmp_path / "deep" / "cache", monkeypatch)


def same(first: Statistics, second: Statistics) -> bool:
    return list(first) == list(second) and all(
        set(first[layer]) == set(second[layer])
        and all(torch.equal(first[layer][n], second[layer][n]) for n in first[layer])
        for layer in first
    )


def test_a_second_call_reads_files(cache: Cache) -> None:
    first = cache(*MEASURED)
    assert cache.take_measured() == MEASURED
    assert len(cache.files()) == len(MEASURED)
    assert same(first, collect(cache.loaded, some_blocks(), MEASURED))
    assert same(cache(*MEASURED, "W", "noise"), first)
    assert cache.take_measured() == []
    assert cache.notices == []


def test_only_what_lacks_is_measured(cache: Cache) -> None:
    cache("x_norm")
    cache.take_measured()
    found = cache("x_norm", "g")
    assert cache.take_measured() == ["g"]
    assert same(found, collect(cache.loaded, some_blocks(), ["x_norm", "g"]))


@pytest.mark.parametrize("change", ["tokens", "shape", "model", "version", "torch", "transformers"])
def test_what_determines_a_statistic_is_in_the_key(
    cache: Cache, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache("x_norm")
    cache.take_measured()
    blocks = some_blocks()
    if change == "tokens":
        blocks[0, 0] = (blocks[0, 0] + 1) % VOCABULARY_SIZE
    elif change == "shape":
        blocks = blocks.reshape(2 * SEQUENCES, -1)
    elif change == "model":
        cache.loaded = loaded_of(tiny_model(seed=1), sha256="1" * 32)
    elif change == "version":
        monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    else:
        monkeypatch.setattr(getattr(module, change), "__version__", "0.0")
    found = cache("x_norm", blocks=blocks)
    assert cache.take_measured() == ["x_norm"]
    assert same(found, collect(cache.loaded, blocks, ["x_norm"]))
    assert len(cache.files()) == 2


@pytest.mark.parametrize("content", ["truncated", "header", "garbage", "empty"])
def test_a_corrupted_file_is_noticed_and_rebuilt(cache: Cache, content: str) -> None:
    first = cache("x_norm")
    (path,) = cache.files()
    whole = path.read_bytes()
    broken = {
        "truncated": whole[:-5],
        "header": whole[:20],
        "garbage": b"\xff" * 100,
        "empty": b"",
    }[content]
    path.write_bytes(broken)
    cache.take_measured()
    assert same(cache("x_norm"), first)
    assert cache.take_measured() == ["x_norm"]
    assert len(cache.notices) == 1
    assert path.name in cache.notices[0]
    assert path.read_bytes() == whole
    cache("x_norm")
    assert (cache.take_measured(), len(cache.notices)) == ([], 1)


def test_a_file_of_other_layers_is_noticed_and_rebuilt(cache: Cache) -> None:
    first = cache("x_norm")
    (path,) = cache.files()
    tensors = load_file(path)
    tensors.popitem()
    save_file(dict(tensors), path)
    cache.take_measured()
    assert same(cache("x_norm"), first)
    assert cache.take_measured() == ["x_norm"]
    assert "other layers" in cache.notices[0]


def test_what_is_read_can_be_changed_without_changing_the_file(cache: Cache) -> None:
    first = cache("x_norm")
    again = cache("x_norm")
    for values in again.values():
        values["x_norm"].zero_()
    assert same(cache("x_norm"), first)


def test_a_folder_that_cannot_be_written_says_what_to_do(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(StorageError, match=r"No space left.*--results DIR"):
        cache("x_norm")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_an_error_for_people(cache: Cache) -> None:
    cache.folder.mkdir(parents=True)
    cache.folder.chmod(0o500)
    with pytest.raises(StorageError):
        cache("x_norm")
    cache.folder.chmod(0o700)


def test_a_file_in_place_of_the_folder_is_an_error_for_people(cache: Cache) -> None:
    cache.folder.parent.mkdir()
    cache.folder.write_text("in the way", encoding="utf-8")
    with pytest.raises(StorageError, match="cannot be written"):
        cache("x_norm")


def test_nothing_half_written_stays_behind(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(_: object, path: Path, **__: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", half)
    with pytest.raises(StorageError):
        cache("x_norm")
    assert cache.files() == []
    monkeypatch.undo()
    monkeypatch.setattr(module, "collect", cache._collect)
    assert same(cache("x_norm"), collect(cache.loaded, some_blocks(), ["x_norm"]))
