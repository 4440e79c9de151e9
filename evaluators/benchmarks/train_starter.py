"""Training the benchmark that ships, for `autoproxy benchmark build starter`.

Every network learns the same text for as many steps in the same order. Each is one file of the
work folder once it is trained, so a run that is killed goes on with the next, and several
processes share the work.
"""

import contextlib
import dataclasses
import hashlib
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock
import torch
from torch import Tensor
from torch.nn import functional

from autoproxy.errors import ConfigError, StorageError
from evaluators.benchmarks.starter_space import LENGTH, StarterArchitecture, architectures
from evaluators.networks.decoder import Decoder
from evaluators.train_starter import Corpus


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What every network gets.

    Attributes:
        steps: Optimizer steps.
        rows: Sequences in a step, of `LENGTH` bytes each.
        peak: Learning rate after the warm-up; it falls straight to a twentieth.
        warm_up: Steps until the peak.
        held_out: Bytes of held-out text that the loss is of.
    """

    steps: int = 1000
    rows: int = 6
    peak: float = 3e-3
    warm_up: int = 40
    held_out: int = 1200 * LENGTH


def read_bytes(corpus: Corpus) -> tuple[Tensor, Tensor]:
    """Return the bytes of the training and of the held-out text, (bytes,) uint8 each."""
    train, apart = ("".join(part).encode() for part in (corpus.train, corpus.held_out))
    return _tensor(train), _tensor(apart)


def _tensor(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def train(architecture: StarterArchitecture, seed: int, text: Tensor, budget: Budget) -> Decoder:
    """Return the trained network.

    Args:
        architecture: Its shape.
        seed: Of the initial weights and of the order of the text; the same order for all
            networks of one seed.
        text: (bytes,) uint8.
        budget: How long.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Decoder(architecture.config)
    device = text.device
    network.to(device).train()
    matrices = [p for p in network.parameters() if p.dim() >= 2]
    vectors = [p for p in network.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=budget.peak,
        betas=(0.9, 0.95),
        foreach=True,
    )
    for step, rows in enumerate(batches(text, seed, budget)):
        for group in optimizer.param_groups:
            group["lr"] = budget.peak * rate(step, budget)
        loss(network, rows).backward()  # type: ignore[no-untyped-call]  # torch's has no types
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return network.eval()


def batches(text: Tensor, seed: int, budget: Budget) -> Iterator[Tensor]:
    """Yield (rows, LENGTH + 1) bytes a step; they depend on the seed alone."""
    digest = hashlib.sha256(f"starter-benchmark:batches:{seed}".encode()).digest()
    draw = random.Random(digest)  # noqa: S311 - not for secrets
    for _ in range(budget.steps):
        starts = [draw.randrange(len(text) - LENGTH) for _ in range(budget.rows)]
        yield torch.stack([text[start : start + LENGTH + 1] for start in starts]).long()


def rate(step: int, budget: Budget) -> float:
    """Return the learning rate of a step as a share of the peak.

    >>> [round(rate(step, Budget()), 3) for step in (0, 39, 999)]
    [0.025, 1.0, 0.05]
    """
    if step < budget.warm_up:
        return (step + 1) / budget.warm_up
    done = (step + 1 - budget.warm_up) / (budget.steps - budget.warm_up)
    return 1.0 - 0.95 * done


def loss(network: Decoder, rows: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats a byte of rows (sequences, tokens + 1)."""
    logits = network(rows[:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def held_out_loss(network: Decoder, text: Tensor, budget: Budget) -> float:
    """Return the mean loss over windows of held-out text that do not overlap, nats a byte."""
    count = (min(budget.held_out, len(text)) - 1) // LENGTH
    ends = range(0, count * LENGTH, LENGTH)
    rows = torch.stack([text[start : start + LENGTH + 1] for start in ends]).long()
    with torch.inference_mode():
        losses = [float(loss(network, part)) * len(part) for part in torch.split(rows, 100)]
    return sum(losses) / count


def train_all(
    folder: Path,
    corpus: Corpus,
    budget: Budget,
    device: str,
    tell: Callable[[int, int], None] = lambda *_: None,
) -> None:
    """Train what is not in `folder` yet, in an order that leaves any part of it useful.

    Args:
        folder: Holds one JSON file a network and seed that is trained.
        corpus: What to learn.
        budget: How long.
        device: Where.
        tell: Told how many are trained, by whomever, and of how many, after each.

    Raises:
        ConfigError: What is trained learned another text, or got another budget.
        StorageError: A file in `folder` is damaged.
    """
    text, apart = (part.to(device) for part in read_bytes(corpus))
    what = {
        "budget": dataclasses.asdict(budget),
        "text": [
            hashlib.sha256(bytes(part.cpu().numpy())).hexdigest()[:16] for part in (text, apart)
        ],
        "torch": torch.__version__,
    }
    _check_alike(folder, what)
    jobs = [(a, seed) for a in architectures() for seed in range(a.seeds)]
    jobs.sort(key=lambda job: (job[1], hashlib.sha256(job[0].id.encode()).digest()))
    paths = {job: folder / f"{job[0].id}.{job[1]}.json" for job in jobs}
    for (architecture, seed), path in paths.items():
        with _claimed(path) as mine:
            if not mine:
                continue
            began = time.monotonic()
            network = train(architecture, seed, text, budget)
            row = {
                "id": architecture.id,
                "seed": seed,
                "loss": held_out_loss(network, apart, budget),
                "seconds": round(time.monotonic() - began, 1),
                "device": device,
                **what,
            }
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(row), encoding="utf-8")
            partial.replace(path)
        tell(sum(p.exists() for p in paths.values()), len(jobs))


def _check_alike(folder: Path, what: dict[str, Any]) -> None:
    """See that the first network that is trained, if any, learned as this one will."""
    for path in sorted(folder.glob("*.json"))[:1]:
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            differs = [name for name in ("budget", "text") if held[name] != what[name]]
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(
                f"{path} is not what training leaves: {error!r}; remove it and train again"
            ) from error
        if differs:
            raise ConfigError(
                f"{folder} holds networks trained with another {differs[0]}, and losses of the "
                "two could not be compared; give the same, or another work folder"
            )


@contextlib.contextmanager
def _claimed(path: Path) -> Iterator[bool]:
    """Take a network for this process; False where it is trained, or another trains it.

    The system lets go of a process's locks when it dies, so nothing stays claimed.
    """
    try:
        with filelock.FileLock(path.with_suffix(".busy"), timeout=0):
            yield not path.exists()
            path.with_suffix(".busy").unlink(missing_ok=True)
    except filelock.Timeout:
        yield False
