"""Texts, the roles that keep them apart, and blocks of their tokens."""

import hashlib
import importlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoproxy.errors import TextError, unknown_name
from autoproxy.seeding import stream
from evaluators.spacing import SPACINGS

ROLES = ("train", "calibration", "validation", "test")
FORMS = (
    ".txt, .jsonl (field `text`), .parquet (column `text`), a folder of .txt files,"
    " topics:ROLE, or hub:NAME[:CONFIG|:FILE]:SPLIT; tokenised: or detokenised: before any"
)
DATASETS = "AUTOPROXY_DATASETS"
"""Environment variable: a folder that holds data sets under their names, looked in before a hub."""

JOINS: Mapping[str, tuple[str, bool]] = {
    "paragraphs": ("\n\n", False),
    "newlines": ("\n\n", True),
    "spaces": (" ", True),
}
"""How records become one text: what stands between two, and whether empty ones count.

WikiText has an empty record wherever the page had an empty line, so tables of the literature
(`newlines` for its test text, `spaces` for its train text) have more tokens than `paragraphs`.
"""

JOINED = " + "
"""What stands between sources in the name of a text."""

_FILES = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".json.zst", ".parquet", ".txt", ".arrow")
SHINGLE_WORDS = 12
SHORTEST_LINE = 6
"""Words of a line that counts besides; shorter ones, such as headings, are in many texts."""

MOST_SHARED = 0.01
TOPICS = Path(__file__).parent / "assets" / "topics"


class Tokenizer(Protocol):
    """What is asked of a tokenizer; those of transformers have it."""

    def encode(self, text: str, *, add_special_tokens: bool, verbose: bool) -> list[int]:
        """Return the token ids of `text`."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text and where it came from.

    Attributes:
        name: What the user called it: the sources, joined by ` + `.
        content: All of it.

    >>> Text("note", "A cat sat.").sha256
    '8686568f0586cba3'
    """

    name: str
    content: str

    @property
    def sha256(self) -> str:
        """First 16 hex digits of the content's hash: it goes into every protocol."""
        return hashlib.sha256(self.content.encode("utf-8")).hexdigest()[:16]


def read_text(sources: Sequence[str], join: str = "paragraphs") -> Text:
    """Return the text of the sources, their records joined.

    Args:
        sources: Paths of .txt, .jsonl (field `text`) or .parquet (column `text`) files, folders
            (all their .txt files, sorted by name), `topics:ROLE` (see `topics`) or
            `hub:NAME[:CONFIG]:SPLIT` (a data set that the `datasets` library finds; NAME may be
            a local folder, and a file of the set may stand for CONFIG). `tokenised:SOURCE` and
            `detokenised:SOURCE` set its marks apart from its words, or undo it (`spacing`).
        join: A name of `JOINS`.

    Raises:
        TextError: A source is missing, cannot be read, is not UTF-8, or holds no text.

    >>> read_text(["topics:test"]) == topics("test")
    True
    """
    between, empty_too = JOINS[join]
    parts = read_records(sources)
    every = (record for part in parts for record in part)
    return Text(JOINED.join(sources), between.join(r or "" for r in every if r or empty_too))


def read_records(sources: Sequence[str]) -> list[Sequence[str | None]]:
    """Return the records of each source: lines of .jsonl, rows of tables, files of a folder.

    A .txt file and `topics:ROLE` are one record. Rows of a data set are read when they are asked
    for, so a set may be larger than memory, unless its spacing is changed. An empty row may be
    None.

    Args:
        sources: As `read_text` takes them.

    Raises:
        TextError: A source is missing, cannot be read, is not UTF-8, or holds no text.
    """
    if isinstance(sources, str) or not sources:
        raise TextError(f"expected a list of one or more texts, got {sources!r}; give {FORMS}")
    parts = [_read(source) for source in sources]
    for source, part in zip(sources, parts, strict=True):
        if not any(record and not record.isspace() for record in part):
            raise TextError(f"{source}: there is no text in it; give another: {FORMS}")
    return parts


def _read(source: str) -> Sequence[str | None]:
    if not source.strip():  # such as a shell's variable that was never set
        raise TextError(f"the name of a text is empty; give {FORMS}")
    scheme, _, rest = source.partition(":")
    if spacing := SPACINGS.get(scheme):
        return [None if record is None else spacing(record) for record in _read(rest)]
    if scheme == "topics":
        return [topics(rest).content]
    if scheme == "hub":
        return _read_hub(source, rest)
    path = Path(source)
    if not path.exists():
        raise TextError(f"{source}: no such file or folder; give a path that exists: {FORMS}")
    if path.is_dir():
        return _read_folder(path)
    if path.suffix not in _READERS:
        raise TextError(
            f"{source}: cannot read a {path.suffix or 'nameless'} file; allowed: {FORMS}"
        )
    return _READERS[path.suffix](path)


def _read_folder(folder: Path) -> list[str]:
    paths = sorted(folder.glob("*.txt"))
    if not paths:
        raise TextError(
            f"{folder}: no .txt file in this folder (folders inside it are not searched);"
            " give the folder that has them, or the files themselves"
        )
    return [_read_plain(path) for path in paths]


def _read_plain(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TextError(
            f"{path}: not UTF-8, byte {error.start} is"
            f" 0x{error.object[error.start]:02x}; convert it, for example with"
            f" `iconv -f latin1 -t utf-8`"
        ) from error
    except OSError as error:
        raise TextError(f"{path}: cannot be read ({error.strerror}); check its mode") from error


def _read_jsonl(path: Path) -> list[str]:
    lines = _read_plain(path).split("\n")
    filled = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    return [_record_text(path, number, line) for number, line in filled]


def _record_text(path: Path, number: int, line: str) -> str:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise TextError(
            f"{path}, line {number}: not JSON ({error}); each line must be an object such as"
            ' {"text": "..."}'
        ) from error
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        found = ", ".join(record) if isinstance(record, dict) else type(record).__name__
        raise TextError(
            f"{path}, line {number}: no `text` field with a string,"
            f" found: {found or 'nothing'};"
            ' each line must be an object such as {"text": "..."}'
        )
    return text


def _read_parquet(path: Path) -> list[str | None]:
    parquet = importlib.import_module("pyarrow.parquet")
    wrong = importlib.import_module("pyarrow").ArrowException
    try:
        table = parquet.ParquetFile(path)
        names: list[str] = table.schema_arrow.names
        if "text" in names:
            rows: list[str | None] = table.read(columns=["text"])["text"].to_pylist()
            return rows
    except (wrong, OSError) as error:
        raise TextError(f"{path}: not a parquet file ({error}); allowed: {FORMS}") from error
    raise TextError(
        f"{path}: no column `text`, found: {', '.join(names)}; rename the column that holds it"
    )


_READERS: dict[str, Callable[[Path], Sequence[str | None]]] = {
    ".txt": lambda path: [_read_plain(path)],
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def _read_hub(source: str, name: str) -> Sequence[str | None]:
    parts = name.split(":")
    if len(parts) not in {2, 3} or not all(parts):
        raise TextError(
            f"{source}: a data set is given as hub:NAME:SPLIT or hub:NAME:CONFIG:SPLIT,"
            " for example hub:wikitext:wikitext-2-raw-v1:test"
        )
    try:
        rows = _load_rows(parts[0], parts[1:-1], parts[-1])
    except (OSError, ValueError, RuntimeError) as error:
        raise TextError(
            f"{source}: the data set could not be loaded ({type(error).__name__}: {error});"
            " check its name, configuration, split and the network, or give a file:"
            f" {FORMS}; a copy on disk is found under its name in the folder that the"
            f" environment variable {DATASETS} names"
        ) from error
    if "text" not in rows.column_names:
        found = ", ".join(rows.column_names)
        raise TextError(f"{source}: no column `text`, found: {found}; save it as .jsonl")
    found_rows: Sequence[str | None] = rows["text"]
    return found_rows


def _load_rows(name: str, part: list[str], split: str) -> Any:
    """Return the rows of a data set that the `datasets` library finds on disk or on its hub.

    Args:
        name: On the hub, or a local folder.
        part: Nothing, or one word: a configuration, or a file of the set.
        split: Such as `train`.
    """
    datasets = importlib.import_module("datasets")
    local = _local(name)
    where = name if local is None else str(local)
    if part and part[0].endswith(_FILES):
        # One shard of a large set: the others are missing on purpose, so nothing is verified.
        files = {split: part[0]}
        return datasets.load_dataset(
            where, data_files=files, split=split, verification_mode="no_checks"
        )
    if local is None:
        return datasets.load_dataset(where, *part, split=split)
    folder = local.joinpath(*part)
    for saved in (folder, folder / split):
        if (saved / "state.json").is_file():
            return datasets.load_from_disk(str(saved))
    if part and folder.is_dir():
        return datasets.load_dataset(where, data_dir=part[0], split=split)
    return datasets.load_dataset(where, *part, split=split)


def _local(name: str) -> Path | None:
    """Return the folder on disk that holds a data set, or None."""
    under = os.environ.get(DATASETS)
    places = [Path(under) / name] if under else []
    return next((path for path in (*places, Path(name)) if path.is_dir()), None)


def topics(role: str) -> Text:
    """Return the share of Python's reference documentation that plays `role`.

    About 370,000 characters of English prose ship with the project, dealt out by topic, so that
    no role sees a passage of another (`deal_topics.py` made the files). They are those of Python
    3.11.7 whatever Python runs, so values can be compared between machines.

    Args:
        role: `train`, `calibration`, `validation` or `test`.

    Raises:
        TextError: There is no such role.

    >>> [len(topics(role).content) for role in ROLES]
    [180530, 42906, 70545, 79228]
    """
    if role not in ROLES:
        raise TextError(f"topics:{role}: {unknown_name('role', role, ROLES)}")
    return Text(f"topics:{role}", (TOPICS / f"{role}.txt").read_bytes().decode("utf-8"))


def blocks(
    text: Text,
    tokenizer: Tokenizer,
    *,
    length: int,
    count: int | None,
    role: str,
    seed: int | None = None,
) -> Tensor:
    """Return windows of the text that do not overlap.

    The text is tokenised once, without special tokens, and cut into windows from its start; what
    is left at its end is dropped.

    Args:
        text: What to cut.
        tokenizer: The tokenizer of the model that will read the blocks.
        length: Tokens in a block, at least 1.
        count: Blocks to return, at least 1; None for all there are.
        role: What the blocks are for; it names the stream of `seed`, and the error.
        seed: `None` for the first `count` windows in order; a number draws `count` different
            windows, in the order drawn.

    Returns:
        (count, length) token ids, int64.

    Raises:
        TextError: The text is too short, or a number is below 1.

    >>> from unittest.mock import Mock
    >>> letters = Mock(encode=lambda text, **_: [ord(letter) - 97 for letter in text])
    >>> blocks(Text("t", "abcdefg"), letters, length=2, count=3, role="test").tolist()
    [[0, 1], [2, 3], [4, 5]]
    """
    check_amount(role, length, 1 if count is None else count)
    ids = tokenizer.encode(text.content, add_special_tokens=False, verbose=False)
    whole = len(ids) // length
    count = max(1, whole) if count is None else count
    if whole < count:
        fewer = f"at most {whole} blocks of this length, for " if whole else ""
        raise TextError(
            f"{role}: text {text.name!r} is too short: it has {len(ids)} tokens, and {count}"
            f" blocks of {length} need {count * length}; ask for {fewer}shorter blocks, or give"
            " more text"
        )
    chosen = (
        list(range(count))
        if seed is None
        else stream(seed, "blocks", role).sample(range(whole), count)
    )
    return torch.tensor(ids[: whole * length]).view(whole, length)[chosen]


def check_amount(role: str, length: int, count: int) -> None:
    """Raise a TextError unless there is something to draw."""
    if min(length, count) < 1:
        raise TextError(
            f"{role}: asked for {count} blocks of {length} tokens; both must be at least 1"
        )


def refuse_overlap(texts: Mapping[str, Text]) -> None:
    """Raise if texts of two roles share passages; say nothing if they are apart.

    Compared are all windows of 12 words, and short lines, without regard to case, marks and white
    space, so that a text is known again in another spacing; of the shorter text at most 1 % may
    also be in the other, which lets a common header pass.

    Args:
        texts: The text of each role.

    Raises:
        TextError: Two texts overlap.

    >>> refuse_overlap({"calibration": topics("calibration"), "test": topics("test")})
    """
    passages = {role: shingles(text.content) for role, text in texts.items()}
    for first, second in combinations(texts, 2):
        share = share_of(passages[first], passages[second])
        if share > MOST_SHARED:
            raise TextError(
                f"the {_called(first)} {texts[first].name!r} and the {_called(second)}"
                f" {texts[second].name!r} overlap: {share:.1%} of the shorter one's"
                f" {SHINGLE_WORDS}-word passages are also in the other, at most"
                f" {MOST_SHARED:.0%} may be; values from overlapping texts cannot be believed;"
                f" give each role a text of its own, for example topics:{ROLES[1]}"
                f" and topics:{ROLES[3]}"
            )


def _called(role: str) -> str:
    return "report text" if role == "text" else f"{role} text"


def shingles(content: str) -> NDArray[np.uint64]:
    """Return the hashes of all windows of 12 words, sorted, each once.

    Short lines, of 6 to 11 words, count besides: in another order they share no window. Marks are
    as white space. A character of a script that is written without spaces is a word.
    """
    content = _UNSPACED.sub(r" \g<0> ", _MARKS.sub(" ", content.casefold()))
    words = content.split()
    lines = {tuple(line.split()) for line in content.splitlines()}
    short = [
        _word_code(" ".join(line)) for line in lines if SHORTEST_LINE <= len(line) < SHINGLE_WORDS
    ]
    codes = {word: _word_code(word) for word in set(words)}
    sequence = np.array([codes[word] for word in words], dtype=np.uint64)
    width = min(SHINGLE_WORDS, len(words))
    windows = np.zeros(len(words) - width + 1 if words else 0, dtype=np.uint64)
    factor = np.uint64(0x9E3779B97F4A7C15)  # odd, so no bit of a word is lost; wraps at 2**64
    for offset in range(width):
        windows = windows * factor + sequence[offset : offset + len(windows)]
    return np.unique(np.concatenate([windows, np.array(short, dtype=np.uint64)]))


_MARKS = re.compile("[!-/:-@\\[-`{-~\u00a1\u00ab\u00bb\u00bf\u2010-\u2027\u3001-\u3020]")
"""ASCII's, dashes, quotes and full stops of other scripts; not \\W, which vowel signs are, too."""


_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Thai, Lao, Burmese, Khmer, Japanese kana, and Chinese characters."""


def _word_code(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")


def share_of(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> float:
    """Return which share of the shorter one's `shingles` is in the other, too, 0 to 1."""
    common = np.intersect1d(first, second, assume_unique=True)
    return len(common) / max(min(len(first), len(second)), 1)
