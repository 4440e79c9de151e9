"""Addresses: each row of a leaderboard has one, which means it alone."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoproxy.errors import ConfigError
from autoproxy.evaluation import content_hash
from autoproxy.ledger.addresses import ALL, claims_of, find
from autoproxy.ledger.leaderboard import rank
from autoproxy.ledger.records import ReportRow

PROTOCOLS = tuple({"model": "tiny", "number": number} for number in range(3))
FIRST = content_hash(PROTOCOLS[0])[:12]
WHOLE = f"baseline:wanda:{content_hash('k')[:12]}"


def row(name: str, *, role: str = "baseline", key: str = "k", seed: int = 0, table: int = 0):
    return ReportRow(
        run=None,
        role=role,
        name=name,
        text=f"f({name})",
        key=content_hash(key),
        complexity=1,
        seed=seed,
        values={"perplexity": 10.0},
        protocol=PROTOCOLS[table],
    )


rows = st.lists(
    st.builds(
        row,
        # names that look like addresses are the hard ones
        st.sampled_from(["wanda", "W / x", "baseline:wanda", "evaluated:W / x", "all", WHOLE]),
        role=st.sampled_from(["baseline", "evaluated"]),
        key=st.sampled_from(["k", "l"]),
        seed=st.integers(0, 2),
        table=st.integers(0, 2),
    ),
    max_size=15,
)


@given(rows)
def test_every_address_means_its_row_and_no_other(found: list[ReportRow]) -> None:
    claims = claims_of(found)
    assert all(find(claims, claim.address) == [claim] for claim in claims)
    assert find(claims, ALL) == claims
    assert len({claim.address for claim in claims}) == len(claims)


@given(rows)
def test_claims_are_the_rows_of_the_leaderboard(found: list[ReportRow]) -> None:
    claims = claims_of(found)
    entries = [(g.digest, e.role, e.name, e.seeds) for g in rank(found) for e in g.entries]
    own = [(c.table, c.rows[0].role, c.rows[0].name, len(c.rows)) for c in claims]
    assert sorted(own) == sorted(entries)
    for claim in claims:
        assert find(claims, claim.table) == [c for c in claims if c.table == claim.table]
        seeds = [one.seed for one in claim.rows]
        assert seeds == sorted(set(seeds))
        assert {content_hash(dict(one.protocol)) for one in claim.rows} == {claim.table}


def test_the_name_alone_is_enough_where_one_has_it() -> None:
    claims = claims_of([row("wanda"), row("wanda", seed=1), row("ria"), row("wanda", table=1)])
    assert [claim.address.partition("/")[2] for claim in claims].count("wanda") == 2
    (claim,) = find(claims, f"{FIRST[:6].upper()}/wanda")
    assert [one.seed for one in claim.rows] == [0, 1]


def test_a_name_that_several_have_is_refused_with_the_choices() -> None:
    claims = claims_of([row("wanda"), row("wanda", role="evaluated"), row("ria")])
    with pytest.raises(ConfigError) as refused:
        find(claims, f"{FIRST}/wanda")
    said = str(refused.value)
    assert f"{FIRST}/baseline:wanda, {FIRST}/evaluated:wanda" in said
    assert "ria" not in said
    (claim,) = find(claims, f"{FIRST}/evaluated:wanda")
    assert claim.rows[0].role == "evaluated"
    twins = claims_of([row("wanda", key="k"), row("wanda", key="l")])
    with pytest.raises(ConfigError, match=content_hash("l")[:12]):
        find(twins, f"{FIRST}/baseline:wanda")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (f"{FIRST}/wunda", "did you mean 'wanda'"),
        (f"{FIRST}/", "unknown row"),
        ("zzz", f"known: {FIRST}"),
        ("", "unknown table"),
        ("/wanda", "unknown table"),
    ],
)
def test_what_means_nothing_is_refused(asked: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        find(claims_of([row("wanda")]), asked)


def test_too_few_digits_are_refused_with_the_choices() -> None:
    tables = [{"model": "tiny", "number": number} for number in range(17)]  # 16 first digits
    many = [
        ReportRow(None, "baseline", "wanda", "", "", 0, 0, {"perplexity": 1.0}, protocol)
        for protocol in tables
    ]
    digests = sorted(content_hash(table)[:12] for table in tables)
    shared = next(a for a, b in itertools.pairwise(digests) if a[0] == b[0])
    with pytest.raises(ConfigError, match=shared):
        find(claims_of(many), shared[0])
