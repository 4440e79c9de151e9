"""How results look on a terminal: tables."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from autoproxy.columns import cells, change_in_words, columns_of, heading, headings

MOST_COLUMNS = 3
"""Columns of a report that fit on a terminal; boards have all."""

MOST_BASELINES = 5
"""Hand-made metrics beside the best of an enumeration; its certificate has all."""


def summary(console: Console, found: Mapping[str, Any]) -> None:
    """Print what a run found, against what it is compared."""
    winner = found["winner"]
    console.print(f"\n[bold]Run {escape(found['run'])}[/]")
    console.print(_funnel_table(found["funnel"], found["evaluations_saved"]))
    console.print(_ladder_line(found["ladder"]))
    console.print(_front_table(found["front"], found["objective"]))
    console.print(_baseline_table(found["baselines"], found["objective"]))
    random = found["random_search"]
    if random:
        console.print(
            f"Random search with the same {random['spent']:.4g} evaluations: "
            f"{found['objective']['name']} {random['best']['value']:.4f}  "
            f"{escape(random['best']['formula'])}"
        )
    for report in found["reports"]:
        console.print(_report_table(report["entries"], report["protocol"]))
        if told := _changes(report):
            console.print(told, markup=False, highlight=False)
    console.print(f"[bold]Winner[/] {escape(winner['formula'])}")
    console.print(
        f"{found['objective']['name']} {winner['value']:.4f} ({found['objective']['unit']}) on the "
        f"search text; {found['seconds']:.0f} s in all; exported: autoproxy export "
        f"{escape(found['run'])}"
    )


def _changes(report: Mapping[str, Any]) -> str:
    """Return how the winner compares draw by draw with the best by hand and random search."""
    found = report.get("changes", {})
    others = [entry for entry in report["entries"] if entry["name"] in found]
    best = [entry for entry in others if entry["role"] == "baseline"][:1]
    told = [
        f"{entry['name']} {change_in_words(found[entry['name']])}"
        for entry in (*best, *(entry for entry in others if entry["role"] == "random-search"))
    ]
    return f"Draw by draw (95 % interval): against {', '.join(told)}" if told else ""


def evaluation(console: Console, found: Mapping[str, Any]) -> None:
    """Print what one metric is worth on one text."""
    table = Table("", "", show_header=False)
    for name in ("metric", "formula", "seed"):
        table.add_row(name, escape(str(found[name])))
    for column in columns_of(found["protocol"]):
        for name in (column.name, f"dense_{column.name}", column.low, column.high):
            if name in found:
                unit = f" ({column.unit})" if column.unit else ""
                title = f"{name.replace('_', ' ')}{unit}"
                table.add_row(title, f"{found[name]:.{column.digits + 2}f}")
    for name, value in found["protocol"].items():
        if name != "columns":
            table.add_row(name, escape(str(value)))
    console.print(table)
    if "tasks" in found:
        _print_tasks(console, found["tasks"])
    for notice in found["notices"]:
        console.print(f"note: {escape(notice)}")


def ranking(console: Console, found: Mapping[str, Any]) -> None:
    """Print how well proxies order the networks of a benchmark; of one, also the order."""
    protocol = found["protocol"]
    title = (
        f"{protocol['model']}: {protocol['architectures']} networks by {protocol['quality']}; "
        "tau-b with 95 % intervals"
    )
    table = Table("proxy", "tau", "within", "rho", "top 10 %", "tied", "s", title=escape(title))
    for row in found["proxies"]:
        if "reason" in row:
            table.add_row(escape(row["name"]), escape(row["reason"]))
            continue
        cells = [_with_interval(row, name) for name in ("tau", "within", "rho", "recall")]
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.2f}"
        table.add_row(escape(row["name"]), *cells, f"{row['tied']:.3f}", seconds)
    console.print(table)
    if ceiling := found.get("ceiling"):
        told = (
            f"ceiling: two trainings of one network agree with tau {ceiling['agreement']:.3f} "
            f"({ceiling['networks']} networks trained more than once); a proxy that knew the mean "
            f"of endless trainings would have about {_with_interval(ceiling, 'tau')}"
        )
        console.print(told, markup=False, highlight=False, soft_wrap=True)
    for told in found["notices"]:
        console.print(f"note: {told}", markup=False, highlight=False, soft_wrap=True)
    if len(found["proxies"]) == 1 and "order" in found["proxies"][0]:
        order = Table("", "network", "score", protocol["quality"])
        for place, row in enumerate(found["proxies"][0]["order"], 1):
            score, quality = f"{row['score']:.6g}", f"{row['quality']:.5g}"
            order.add_row(str(place), escape(row["id"]), score, quality)
        console.print(order)


def _with_interval(row: Mapping[str, Any], name: str) -> str:
    if row[name] is None:
        return "-"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{row[name]:.3f}" + ("" if low is None else f" [{low:.2f}, {high:.2f}]")


def _print_tasks(console: Console, found: Mapping[str, Any]) -> None:
    """Print accuracies, one table a kind: two kinds never share a column."""
    protocol = found["protocol"]
    for kind, means in found["means"].items():
        limit = "" if protocol["limit"] is None else f", first {protocol['limit']} documents"
        title = f"{kind} by {protocol['harness']} {protocol['harness_version']}{limit}"
        table = Table("task", "version", "shots", "documents", "dense", "pruned", title=title)
        for row in found["tasks"]:
            cells = [row["task"], row["version"], row["shots"], row["documents"]]
            cells += [_share(row[side][kind]) for side in ("dense", "pruned")]
            table.add_row(*(escape(str(cell)) for cell in cells))
        if means is not None:
            table.add_row("mean", "", "", "", _share(means["dense"]), _share(means["pruned"]))
        console.print(table)
        if means is None:
            console.print(f"no mean of {kind}: not every task has it", highlight=False)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def pruned(console: Console, found: Mapping[str, Any]) -> None:
    """Print what was pruned, and where it was written."""
    layers = [layer["sparsity"] for layer in found["layers"].values()]
    table = Table("", "", show_header=False)
    table.add_row("metric", escape(found["metric"]))
    method, protocol = found.get("method"), found["protocol"]
    table.add_row(
        "formula", escape(f"(a method: {method['source']})" if method else found["formula"])
    )
    where = method["compares"] if method else protocol["group"]
    table.add_row("condition", escape(f"{protocol['condition']} per {where}"))
    table.add_row("dropped", f"{found['dropped']:,} of {found['weights']:,} weights")
    table.add_row("sparsity", f"{found['sparsity']:.4%}")
    table.add_row("of a layer", f"{min(layers):.4%} to {max(layers):.4%}")
    table.add_row("of the whole model", f"{found['dropped'] / found['parameters']:.4%}")
    if found["check"]:
        for name in ("dense", "pruned"):
            value = found["check"][f"{name}_perplexity"]
            table.add_row(f"{name} perplexity", "not finite" if value is None else f"{value:.4f}")
        checked = found["check"]
        table.add_row("on", escape(f"{checked['tokens']} tokens of {checked['text']}"))
    console.print(table)
    console.print(f"wrote {found['out']}", markup=False, highlight=False, soft_wrap=True)


def allocation(console: Console, found: Mapping[str, Any]) -> None:
    """Print a tuned allocation beside the uniform one."""
    table = Table("decoder layer", "sparsity", title=f"{escape(found['formula'])}")
    for number, share in enumerate(found["sparsities"]):
        table.add_row(str(number), f"{share:.3f}")
    console.print(table)
    console.print(
        f"KL on the search text {found['kl']:.4f} nats, uniform {found['uniform_kl']:.4f}, after "
        f"{found['trials']} trials; a report on another text tells what it is worth"
    )
    console.print(f"wrote {found['out']}", markup=False, highlight=False, soft_wrap=True)


def certificate(console: Console, found: Mapping[str, Any]) -> None:
    """Print what an enumeration found: counts, the best, and how sure that is."""
    objective = found["objective"]
    unit = f"{objective['name']} ({objective['unit']})"
    console.print(_counts_table(found["counts"], found["measured"]))
    table = Table("", "size", unit, "formula", title="Best", title_justify="left")
    for row in found["best"]:
        cells = (row["rank"], row["size"], f"{row['value']:.6f}", row["formula"])
        table.add_row(*(escape(str(cell)) for cell in cells))
    console.print(table)
    title = "Formulas from elsewhere, and how many of the enumerated are better"
    table = Table("metric", "size", unit, "better", "formula", title=title, title_justify="left")
    handmade = _with_value(found["baselines"], objective)[:MOST_BASELINES]
    for row in [*found["against"], *handmade]:
        value = row["reason"] if row["value"] is None else f"{row['value']:.6f}"
        better = "-" if row["better"] is None else f"{row['better']:,}"
        words = (row["name"], str(row["size"]), value, better, row["formula"])
        table.add_row(*map(escape, words))
    console.print(table)
    console.print(_audit_table(found["audit"]))
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in found["seconds"].items())
    console.print(f"{seconds}; {found['recalled']:,} values were known", highlight=False)
    for text in (found["claim"], f"wrote {found['file']}"):
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _with_value(
    rows: Sequence[Mapping[str, Any]], objective: Mapping[str, str]
) -> list[Mapping[str, Any]]:
    """Return those hand-made metrics that have a value, the best first."""
    sign = 1 if objective["direction"] == "min" else -1
    return sorted(
        (row for row in rows if row["value"] is not None), key=lambda row: sign * row["value"]
    )


def _counts_table(counts: Mapping[str, Any], measured: Mapping[str, Any]) -> Table:
    """Return how many formulas each stage of an enumeration left, size by size."""
    names = [name for name in counts["by_size"][0] if name != "size"]
    title = (
        f"{measured['different']:,} different formulas; measured in full {measured['in_full']:,}, "
        f"left early {measured['left_early']:,}, screened {measured['screened']:,}, failed "
        f"{sum(measured['failed'].values()):,}"
    )
    sizes = [str(row["size"]) for row in counts["by_size"]]
    table = Table("nodes", *sizes, "all", title=title, title_justify="left")
    for name in names:
        cells = ["-" if row[name] is None else f"{row[name]:,}" for row in counts["by_size"]]
        table.add_row(name.replace("_", " "), *cells, f"{counts['total'][name]:,}")
    return table


def _audit_table(audit: Mapping[str, Any]) -> Table:
    title = f"Audit: {audit['drawn']:,} trees drawn"
    bound = f"at most ({audit['confidence']:.0%})"
    table = Table("merged as", "checked", "wrong", bound, title=title, title_justify="left")
    for row in audit["ways"].values():
        upper = "-" if row["upper"] is None else f"{row['upper']:.2%}"
        table.add_row(row["what"], str(row["checked"]), str(row["false"]), upper)
    return table


def explanation(console: Console, found: Mapping[str, Any]) -> None:
    """Print what a metric is."""
    table = Table("", "", show_header=False)
    for name, value in found.items():
        if name == "inputs":
            for item in value:
                table.add_row(item["name"], escape(f"{item['kind']}: {item['meaning']}"))
        elif isinstance(value, Mapping):
            for inner, text in value.items():
                table.add_row(f"{name} ({inner})", escape(str(text)))
        elif isinstance(value, list):
            table.add_row(name, escape(", ".join(map(str, value)) or "-"))
        else:
            table.add_row(name.replace("_", " "), escape(str(value)))
    console.print(table)


def leaderboard(console: Console, found: Mapping[str, Any]) -> None:
    """Print the leaderboard, one table a protocol."""
    for group in found["groups"]:
        console.print(_report_table(group["entries"], group["protocol"]))
    console.print(f"wrote {escape(', '.join(found['files']))}")


def verified(console: Console, found: Mapping[str, Any]) -> None:
    """Print which rows of the leaderboard could be repeated."""
    rows = found["rows"]
    counts = Counter(row["verdict"] for row in rows)
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    title = f"{said} (tolerance {found['tolerance']:g})"
    table = Table(title=title)
    for head in ("row", "role", "seeds", "verdict", "difference", "largest at"):
        table.add_column(head, overflow="fold")
    for row in rows:
        difference = "" if row["difference"] is None else f"{row['difference']:.2g}"
        cells = (row["row"], row["role"], str(len(row["seeds"])), row["verdict"], difference)
        table.add_row(*(escape(cell) for cell in (*cells, _largest(row["worst"]))))
    console.print(table)
    for row in rows:
        if row["reason"]:
            told = f"{row['row']}: {row['reason']}"
            console.print(told, markup=False, highlight=False, soft_wrap=True)
    for note in found["notes"]:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    if found["stopped"]:
        console.print("stopped before all was measured")


def _largest(worst: Mapping[str, Any] | None) -> str:
    """Return where a value is farthest from what was reported."""
    if worst is None or worst["difference"] == 0:
        return ""
    values = ("none" if v is None else f"{v:.7g}" for v in (worst["reported"], worst["measured"]))
    return f"{worst['name']}, seed {worst['seed']}: {' -> '.join(values)}"


def archive(console: Console, found: Mapping[str, Any]) -> None:
    """Print the best of all that a run measured."""
    columns = ("slot", "origin", "fate", "value", "fidelity", "complexity", "text")
    title = f"{found['run']}: {found['measured']} measured, {found['in_full']} of them in full"
    table = Table(*columns, title=escape(title), title_justify="left")
    for row in found["best"]:
        table.add_row(*(escape(_cell(row[column])) for column in columns))
    console.print(table)
    if found["file"]:
        console.print(f"all of them: {escape(found['file'])}")


def report(console: Console, found: Mapping[str, Any]) -> None:
    """Print where a report was written, and how to look at it."""
    pages = f"{len(found['pages'])} pages, of {len(found['runs'])} run(s)"
    start = f"{found['out']}/index.html"
    console.print(f"wrote {pages}; open {start}", markup=False, highlight=False, soft_wrap=True)


def figures(console: Console, found: Mapping[str, Any]) -> None:
    """Print which files of figures were written."""
    for path in found["files"]:
        console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)


def listing(console: Console, found: Mapping[str, Any]) -> None:
    """Print what there is to choose from."""
    for name in ("spaces", "evaluators", "runs"):
        console.print(f"[bold]{name}[/] {escape(', '.join(found[name]) or '-')}")
    of_space = f"of space {escape(found['space'])} (root kind {found['root']})"
    for name, told, columns in (
        ("terminals", of_space, ("name", "kind", "unit", "meaning", "in_space")),
        ("primitives", of_space, ("name", "operands", "cost", "meaning", "in_space")),
        ("baselines", of_space, ("name", "text", "source")),
        ("methods", "of evaluators, taken like baselines", ("name", "evaluator", "source")),
    ):
        table = Table(*columns, title=f"{name} {told}", title_justify="left")
        for row in found[name]:
            table.add_row(*(escape(_cell(row[column])) for column in columns))
        console.print(table)


def audit(console: Console, found: Mapping[str, Any]) -> None:
    """Print how many merges of a run were false, and how much was new by generation."""
    title = f"Merges of {found['run']} (same = {found['same']}); false ones with 95 % intervals"
    heads = ("rule", "tier", "merged", "compared", "differ", "rate", "bits that differ, median")
    table = Table(*heads, title=escape(title))
    for row in found["merges"]:
        cells = (row["rule"], row["tier"] or "", row["merged"], row["compared"])
        exact = "" if row["merged"] == 0 else "exact"
        told = ("", exact) if row["rate"] is None else (row["different"], _rate(row))
        share = "" if row["median_share"] is None else f"{row['median_share']:.2g}"
        table.add_row(*map(str, (*cells, *told, share)))
    console.print(table)
    for row in found["merges"]:
        for pair in row["examples"]:
            console.print(_pair(row["rule"], pair), markup=False, highlight=False, soft_wrap=True)
    console.print(_freshness_table(found["freshness"]))


def _rate(row: Mapping[str, Any]) -> str:
    return f"{row['rate']:.2%} [{row['low']:.2%}, {row['high']:.2%}]"


def _pair(rule: str, pair: Mapping[str, Any]) -> str:
    """Return two formulas that were taken for one, and are not, with what each is worth."""
    values = ["-" if pair[k] is None else f"{pair[k]:.5g}" for k in ("value", "other_value")]
    return (
        f"{rule}: slot {pair['slot']} {pair['text']} ({values[0]}) is not slot {pair['same_as']} "
        f"{pair['other']} ({values[1]}): {pair['share']:.3g} of the bits differ"
    )


def _freshness_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the share of each generation's proposals that no tier so far had merged."""
    tiers = list(rows[0]["new"]) if rows else []
    heads = ("generation", "proposed", *(f"new by {tier}" for tier in tiers), "kept")
    table = Table(*heads, title="New proposals", title_justify="left")
    for row in rows:
        shares = [f"{row['new'][tier] / row['proposed']:.0%}" for tier in tiers]
        table.add_row(str(row["generation"]), str(row["proposed"]), *shares, str(row["kept"]))
    return table


def cache(console: Console, found: Mapping[str, Any]) -> None:
    """Print what the cache of statistics holds, and what was deleted."""
    size = f"{_bytes(found['bytes'])} of at most {_bytes(found['limit'])}"
    table = Table("terminal", "model", "tokens", "size", "last used", "file")
    for row in found["files"]:
        what = "corrupted" if row["corrupted"] else row["terminal"] or "unknown"
        tokens = "" if row["tokens"] is None else f"{row['tokens']:,}"
        cells = (what, row["model"] or "", tokens, _bytes(row["bytes"]), _age(row["age_seconds"]))
        table.add_row(*(escape(cell) for cell in (*cells, row["file"][:8])))
    if found["files"]:
        console.print(table)
    for row in found["files"]:
        if row["corrupted"]:
            told = f"{row['file']} is corrupted ({row['corrupted']}); it is made anew when needed"
            console.print(told, markup=False, highlight=False, soft_wrap=True)
    if found["deleted"]:
        freed = _bytes(sum(row["bytes"] for row in found["deleted"]))
        console.print(f"deleted {_files(found['deleted'])}, {freed}", highlight=False)
    told = f"{found['folder']}: {_files(found['files'])}, {size}"
    console.print(told, markup=False, highlight=False, soft_wrap=True)


def benchmarks(console: Console, found: Mapping[str, Any]) -> None:
    """Print which benchmarks there are, and where their tables lie."""
    table = Table("benchmark", "networks", "quality", "state", "table")
    for row in found["benchmarks"]:
        cells = (row["name"], row["networks"], row["quality"], row["state"], row["table"])
        table.add_row(*(escape("-" if cell is None else str(cell)) for cell in cells))
    console.print(table)
    for row in found["benchmarks"]:
        if row["reason"]:
            told = f"{row['name']}: {row['reason']}"
            console.print(told, markup=False, highlight=False, soft_wrap=True)


def benchmark(console: Console, found: Mapping[str, Any]) -> None:
    """Print what a table is that was fetched or built."""
    told = f"{found['table']}: {found['networks']} networks"
    if found.get("total", found["networks"]) != found["networks"]:
        told += f" of {found['total']}"
    told += f", quality {found['quality']}" if found["quality"] else ""
    console.print(told, markup=False, highlight=False, soft_wrap=True)
    if found["reason"]:
        console.print(found["reason"], markup=False, highlight=False, soft_wrap=True)


def health(console: Console, found: Mapping[str, Any]) -> None:
    """Print what `doctor` found."""
    for check in found["checks"]:
        mark = "[green]ok[/]" if check["ok"] else "[red]wrong[/]"
        console.print(f"{mark}\t{check['name']}: {escape(check['found'])}")


def _files(found: Sequence[object]) -> str:
    return "1 file" if len(found) == 1 else f"{len(found)} files"


def _bytes(count: int) -> str:
    """Return a size in the unit that leaves three digits or fewer before the point.

    >>> _bytes(999), _bytes(20_000_000_000)
    ('999 B', '20.0 GB')
    """
    if count < 1000:
        return f"{count} B"
    power = min(4, (len(str(count)) - 1) // 3)
    return f"{count / 1000**power:.1f} {' KMGT'[power]}B"


def _age(seconds: float) -> str:
    """Return how long ago something was, in its largest unit.

    >>> _age(59), _age(7200), _age(200_000)
    ('59 s ago', '2 h ago', '2 d ago')
    """
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def _cell(value: object) -> str:
    return {True: "yes", False: ""}.get(value, "") if isinstance(value, bool) else str(value)


def _funnel_table(funnel: Mapping[str, int], saved: int) -> Table:
    title = f"Funnel: {saved} evaluations saved by the sieve"
    table = Table("fate", "proposals", title=title, title_justify="left")
    for name, count in funnel.items():  # downwards: side by side they need a wide terminal
        table.add_row(name, str(count))
    return table


def _ladder_line(ladder: Sequence[Mapping[str, Any]]) -> str:
    """Return which rung screened at the end, and how well the rungs order the best."""
    known = [rung for rung in ladder if rung["rank_correlation"] is not None]
    if not known:
        return "Ladder: one rung"
    told = ", ".join(f"{r['fidelity']:.3g}: {r['rank_correlation']:.2f}" for r in known)
    screens = [f"{rung['fidelity']:.3g}" for rung in ladder if rung["screens"]]
    return (
        f"Ladder: screened at fidelity {screens[0] if screens else '1'}; rank correlation with the "
        f"full value over {known[0]['pairs']} candidates: {told}"
    )


def _front_table(front: Sequence[Mapping[str, Any]], objective: Mapping[str, str]) -> Table:
    unit = f"{objective['name']} ({objective['unit']})"
    table = Table("complexity", unit, "formula", title="Front", title_justify="left")
    for row in front:
        table.add_row(str(row["complexity"]), f"{row['value']:.4f}", escape(row["formula"]))
    return table


def _baseline_table(rows: Sequence[Mapping[str, Any]], objective: Mapping[str, str]) -> Table:
    unit = f"{objective['name']} ({objective['unit']})"
    title = "Hand-made metrics on the search text"
    table = Table("metric", unit, "formula", title=title, title_justify="left")
    for row in rows:
        value = row["reason"] if row["value"] is None else f"{row['value']:.4f}"
        table.add_row(row["name"], value, escape(row["text"]))
    return table


def _report_table(rows: Sequence[Mapping[str, Any]], protocol: Mapping[str, Any]) -> Table:
    columns = columns_of(protocol)[:MOST_COLUMNS]
    title = f"Report: {heading(protocol)}"
    if "columns" not in protocol:
        title = (
            f"Report: {protocol['model']}, {protocol['condition']} per {protocol['group']}, "
            f"{protocol['tokens']} tokens of {protocol['text']}"
        )
    titles = [escape(word) for word in headings(columns)]
    table = Table("metric", *titles, "seeds", title=escape(title), title_justify="left")
    for row in rows:
        style = "bold" if row["role"] == "discovered" else None
        name = "random search" if row["role"] == "random-search" else escape(row["name"])
        words = [escape(word) for word in cells(columns, row)]
        table.add_row(name, *words, str(row["seeds"]), style=style)
    return table
