"""Data sets on disk of the form of C4's and WikiText-2's, and a tokenizer that marks the start."""

import gzip
import json
import random
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from tests.evaluators.tiny import tiny_tokenizer

C4_FILE = "en/c4-train.00000-of-01024.json.gz"
START = 256
"""Token that `marking_tokenizer` puts before every text."""


def prose(seed: int, words: int) -> str:
    """Return words that no other seed gives in this order."""
    draw = random.Random(seed)
    return " ".join(f"w{draw.randrange(500)}" for _ in range(words))


def c4_documents() -> list[str]:
    """Return forty documents, most of them short, as on the web."""
    draw = random.Random(7)
    return [prose(100 + at, draw.choice((1, 3, 6, 12, 25, 60, 110))) for at in range(40)]


def wikitext_rows(split: str) -> list[str]:
    """Return rows as WikiText has them: a heading, empty rows, paragraphs that end in a break."""
    seed = {"train": 1, "validation": 2, "test": 3}[split]
    body = [f" {prose(1000 * seed + at, 40)} \n" for at in range(9)]
    rows = [""]
    for at, paragraph in enumerate(body):
        rows += [f" = Heading {split} {at} = \n", "", paragraph, paragraph.replace("w", "v"), ""]
    return rows


def write_corpora(folder: Path) -> Path:
    """Write both data sets under their names, as a copy of the hub's files has them."""
    shard = folder / "allenai" / "c4" / C4_FILE
    shard.parent.mkdir(parents=True)
    rows = [
        {"text": text, "url": f"https://example.org/{at}"} for at, text in enumerate(c4_documents())
    ]
    with gzip.open(shard, "wt", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    wiki = folder / "Salesforce" / "wikitext" / "wikitext-2-raw-v1"
    wiki.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        table = pa.table({"text": wikitext_rows(split)})
        parquet.write_table(table, wiki / f"{split}-00000-of-00001.parquet")
    return folder


def marking_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer of single bytes that puts a start token before a text, as LLaMA's."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    assert tokenizer.convert_tokens_to_ids("<s>") == START
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", START)]
    )
    return tokenizer
