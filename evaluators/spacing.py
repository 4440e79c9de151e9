"""Prose with its marks set apart from its words, as tokenised data sets have it, and back.

WikiText, Penn Treebank and others come with spaces round every mark: `red , " white " ( 1 @,@ 200
people ) .`. Language models hardly saw such text in training, and how metrics compare on it can
differ from how they do on prose; see docs/findings.md. So a source of text may be read in either
form: `tokenised:SOURCE`, `detokenised:SOURCE`.
"""

import re
from collections.abc import Callable, Mapping

_CLITICS = r"(?:'(?:s|d|m|ll|re|ve)|n't)\b"
_MARKS = r'[.,;:!?"()\[\]]'


def tokenised(text: str) -> str:
    """Return prose as WikiText writes it: spaces round marks, `@-@` for a mark inside a word.

    Capitals, line ends and words stay; runs of spaces become one. Rare words are not replaced by
    `<unk>`, and abbreviations lose their dots as sentences do. Written to look like WikiText
    (Merity et al. 2016), whose spacing is that of Moses's tokeniser.

    >>> print(tokenised('For 1,200.50, a well-kept "house" (it was) once'))
    For 1 @,@ 200 @.@ 50 , a well @-@ kept " house " ( it was ) once
    """
    text = re.sub(r"(?<=\d)([.,])(?=\d)", r" @\1@ ", text)
    text = re.sub(r"(?<=\w)-(?=\w)", " @-@ ", text)
    text = re.sub(rf"(?<!@)({_MARKS})(?!@)", r" \1 ", text)
    text = re.sub(rf"(?<=\w)({_CLITICS})", r" \1", text)
    return re.sub(r"[ \t]+", " ", text)


def detokenised(text: str) -> str:
    """Return a tokenised text as prose; what was prose before stays but for spaces at its marks.

    The usual practice where models that were trained on prose are measured on WikiText (the GPT-2
    paper's section 3.1, lm-evaluation-harness). Quotation marks are taken by pairs inside a line.

    >>> print(detokenised('a well @-@ kept " house " ( it was ) , for 1 @,@ 200 .'))
    a well-kept "house" (it was), for 1,200.
    """
    text = re.sub(r" @([-.,])@ ", r"\1", text)
    text = re.sub(r'"[ \t]*([^"\n]*?)[ \t]*"', r'"\1"', text)
    text = re.sub(r"[ \t]+([.,;:!?)\]])", r"\1", text)
    text = re.sub(r"([(\[])[ \t]+", r"\1", text)
    return re.sub(rf"(?<=\w)[ \t]+({_CLITICS})", r"\1", text)


SPACINGS: Mapping[str, Callable[[str], str]] = {
    "tokenised": tokenised,
    "detokenised": detokenised,
}
"""What stands before a source of text, and what it does to each record."""
