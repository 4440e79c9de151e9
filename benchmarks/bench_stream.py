"""Peak memory of `autoproxy prune` with and without `--stream`, on a random LLaMA.

A model in bfloat16 is written to a temporary folder, one decoder layer after another, and pruned
in child processes whose anonymous memory (RssAnon in /proc) is sampled. Files that are mapped into
memory are not part of it: the system drops their pages when memory is short. What Python and the
libraries take by themselves, measured by pruning a model of next to nothing, is subtracted. At
last both ways are run under a cap: a child that passes it is ended, as a system without swap would.

    python benchmarks/bench_stream.py
    python benchmarks/bench_stream.py --layers 6 --width 512
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from benchmarks.memory import anonymous
from evaluators.starter import starter_folder

MIB = 1024**2
PRUNE = "from autoproxy.cli import main; raise SystemExit(main())"


def write_model(folder: Path, *, layers: int, width: int) -> dict[str, float]:
    """Write a random LLaMA in bfloat16, a file for each decoder layer; return sizes in MiB."""
    tokenizer = AutoTokenizer.from_pretrained(starter_folder())
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=8 * width // 3 // 64 * 64,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        max_position_embeddings=2048,
        dtype="bfloat16",
    )
    config.architectures = ["LlamaForCausalLM"]
    with torch.device("meta"):
        planned = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    draw = torch.Generator().manual_seed(0)
    places: dict[str, str] = {}
    for home, part in itertools.groupby(
        planned.state_dict().items(), key=lambda item: _home(item[0])
    ):
        file = f"model-{home}.safetensors"
        tensors = {name: _drawn(name, held.shape, draw) for name, held in part}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, file)
    index = json.dumps({"metadata": {}, "weight_map": places})
    (folder / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    layer = sum(p.numel() for p in planned.model.layers[0].parameters())
    total = sum(p.numel() for p in planned.parameters())
    return {
        "files": 2 * total / MIB,
        "model in float32": 4 * total / MIB,
        "decoder layer in float32": 4 * layer / MIB,
        "outside of decoder layers in float32": 4 * (total - layers * layer) / MIB,
        "masks": layers * layer / 8 / MIB,
    }


def _home(name: str) -> str:
    """Return which file a tensor goes to; tensors of one come one after another."""
    parts = name.split(".")
    return parts[2] if parts[1] == "layers" else f"{parts[0]}-{parts[1]}"


def _drawn(name: str, shape: Sequence[int], draw: torch.Generator) -> torch.Tensor:
    if "norm" in name:
        return torch.ones(shape, dtype=torch.bfloat16)
    return (0.02 * torch.randn(shape, generator=draw)).bfloat16()


def run(words: Sequence[str], *, cap: float | None = None) -> dict[str, Any]:
    """Run a command in a child; return its peak of anonymous memory, its end and its seconds.

    Args:
        words: Of `autoproxy`.
        cap: MiB of anonymous memory at which the child is ended.
    """
    start, peak, ended = time.monotonic(), 0.0, False
    child = subprocess.Popen(  # noqa: S603 - our own words
        [sys.executable, "-c", PRUNE, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    for now in _anonymous(child):
        peak = max(peak, now)
        if cap is not None and now > cap and not ended:
            ended = True
            child.kill()
    said = child.communicate()[1].decode()
    if child.returncode and not ended:
        raise SystemExit(said)
    return {"peak": peak, "ended": ended, "seconds": time.monotonic() - start}


def _anonymous(child: "subprocess.Popen[bytes]") -> Iterator[float]:
    """Yield MiB of anonymous memory of a child, a hundred times a second, until it ends."""
    while child.poll() is None:
        yield anonymous(child.pid)
        time.sleep(0.01)


def main(argv: Sequence[str] | None = None) -> None:
    """Read options, measure, and print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--mode", default="oneshot")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as held:
        folder = Path(held)
        sizes = write_model(folder / "model", layers=options.layers, width=options.width)
        write_model(folder / "small", layers=1, width=64)
        tokens = options.sequences * options.length
        sizes["hidden states"] = 4 * tokens * options.width / MIB
        found = measure(folder, options, sizes)
    Console().print(table_of(sizes, found))
    print(json.dumps({"sizes": sizes, "found": found}, indent=2))


def measure(folder: Path, options: Any, sizes: dict[str, float]) -> dict[str, Any]:
    """Return what each way takes, the floor subtracted, without and with a cap between them."""
    more = ["--baseline", "wanda", "--calibration-blocks", str(options.sequences)]
    more += ["--length", str(options.length), "--mode", options.mode]
    more += ["--results", str(folder / "results")]

    def prune(name: str, out: str, *words: str, cap: float | None = None) -> dict[str, Any]:
        given = ["prune", str(folder / name), *more, *words, "--out", str(folder / out)]
        return run(given, cap=cap)

    floor = prune("small", "least")["peak"]
    cap = floor + sizes["model in float32"] / 2
    found = {
        "ordinary": prune("model", "ordinary"),
        "--stream": prune("model", "streamed", "--stream"),
        "ordinary, capped": prune("model", "ordinary-2", "--mode", options.mode, cap=cap),
        "--stream, capped": prune("model", "streamed-2", "--stream", cap=cap),
    }
    same = all(
        (folder / "streamed" / path.name).read_bytes() == path.read_bytes()
        for path in (folder / "ordinary").iterdir()
        if path.name != "recipe.json"
    )
    for one in found.values():
        one["peak"] -= floor
    return {**found, "floor": floor, "cap": cap - floor, "same files": same}


def table_of(sizes: dict[str, float], found: dict[str, Any]) -> Table:
    """Return what was measured as a table."""
    table = Table(title=f"Anonymous memory above {found['floor']:.0f} MiB, cap {found['cap']:.0f}")
    for column in ("what", "MiB", "seconds", "end"):
        table.add_column(column)
    for name, size in sizes.items():
        table.add_row(name, f"{size:.0f}")
    for name, one in found.items():
        if isinstance(one, dict):
            end = "ended at the cap" if one["ended"] else "done"
            table.add_row(name, f"{one['peak']:.0f}", f"{one['seconds']:.0f}", end)
    return table


if __name__ == "__main__":
    main()
