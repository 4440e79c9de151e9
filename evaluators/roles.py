"""The texts of an evaluator by role: read, kept apart, and cut into blocks."""

from collections.abc import Mapping
from functools import cached_property

from torch import Tensor

from evaluators.config import PruningConfig
from evaluators.drawing import WINDOWS, Documents, WithSpecialTokens
from evaluators.text import Text, Tokenizer, read_text, refuse_overlap


class Texts:
    """The texts that a configuration names, by role; no two may share passages.

    Args:
        config: Says which, and how they are joined and cut.
        roles: Those that are read at once: `calibration`, `text`, or both.

    Raises:
        ConfigError: A text cannot be read, or two overlap.
    """

    def __init__(self, config: PruningConfig, *roles: str) -> None:
        self._config = config
        self._read: dict[str, Text | Documents] = {role: self._open(role) for role in roles}
        self._drawn: dict[tuple[str, int | None], Tensor] = {}
        _keep_apart(self._read)

    def __contains__(self, role: str) -> bool:
        return role in self._read

    def __getitem__(self, role: str) -> Text | Documents:
        return self.validation if role == "validation" else self._read[role]

    @cached_property
    def validation(self) -> Text:
        """The text of the search, which a single metric's value on the report text needs not."""
        text = read_text(self._config.validation, self._config.text_join)
        _keep_apart({**self._read, "validation": text})
        return text

    def blocks(
        self, role: str, tokenizer: Tokenizer, length: int, count: int | None, seed: int | None
    ) -> Tensor:
        """Return windows of the text of a role, as the configuration has them drawn, once.

        Args:
            role: `calibration`, `validation` or `text`.
            tokenizer: Of the model.
            length: Tokens of a window.
            count: How many; None for all that the text has.
            seed: Of the draw; None for the first windows.

        Returns:
            (count, length) token ids.

        Raises:
            ConfigError: The text is too short, or overlaps with another one.
        """
        if (role, seed) not in self._drawn:
            spoken = WithSpecialTokens(tokenizer) if self._config.special_tokens else tokenizer
            cut = WINDOWS[self._config.windows if role == "calibration" else "grid"]
            drawn = cut(self[role], spoken, length=length, count=count, role=role, seed=seed)
            if isinstance(self[role], Documents):  # only now is it known what is read of it
                searched = "validation" in self.__dict__
                _keep_apart({**self._read, **({"validation": self.validation} if searched else {})})
            self._drawn[role, seed] = drawn
        return self._drawn[role, seed]

    def keep_apart_from(self, other: "Texts", *, ours: str, theirs: str) -> None:
        """Refuse a report text that shares passages with what is decided by elsewhere.

        Args:
            other: The texts of another condition of the same search.
            ours: What this condition is called.
            theirs: What the other is called.

        Raises:
            ConfigError: The report text here overlaps with validation or calibration there.
        """
        for role in ("validation", "calibration"):
            one = other[role]
            if not isinstance(one, Documents) and one.sha256 == self[role].sha256:
                continue  # kept apart from it anyway
            _keep_apart({f"{ours}'s report": self["text"], f"{theirs}'s {role}": one})

    def _open(self, role: str) -> Text | Documents:
        config = self._config
        if role == "calibration" and config.windows == "documents":
            return Documents(config.calibration)
        join = config.calibration_join if role == "calibration" else config.text_join
        return read_text(getattr(config, role), join)


def _keep_apart(texts: Mapping[str, Text | Documents]) -> None:
    """Refuse texts that overlap; of a corpus of documents those count that were drawn so far."""
    refuse_overlap({r: t.drawn if isinstance(t, Documents) else t for r, t in texts.items()})
