"""Tables of speeds in docs/speed.md, and lines in README.md, from files that ``fastbn bench --json`` wrote.

python benchmarks/render_table.py            # writes the table between the two marks named loop in docs/speed.md
python benchmarks/render_table.py --check    # exit code 1 if docs/speed.md has another one
python benchmarks/render_table.py program.json --marks program
python benchmarks/render_table.py program.json --marks program --page README.md --line    # a line instead of a table
python benchmarks/render_table.py steps.json more.json --marks torch    # of suite torch: the cells of several files
"""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def marks(name):
    """What stands before a table and after it."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def line(results):
    """One sentence: how fastbn compares over all cells."""
    from fastbn.cli.bench._results import Summary, mean

    every = Summary("all", "", results.cells)
    best, torch = every.against_best, every.against("torch")
    how = "One call after other work, as in a program" if results.between else "Called in a loop of their own"
    beside = f", {mean(torch):.2f} times as fast as PyTorch" if torch else ""
    return (
        f"{how}: {mean(best):.2f} times as fast as the best peer of each cell{beside} (geometric means of {len(best)} "
        f"cells; the worst of them {min(best):.2f}; `fastbn bench --suite {results.suite}`, {results.date[:10]}, "
        f"{results.where})."
    )


def render(results):
    """Markdown: how often fastbn is as fast as each peer, operation by operation, and where that was measured."""
    from fastbn.cli.bench._between import in_words
    from fastbn.cli.bench._report import peers_of, summary
    from fastbn.cli.bench._results import LARGE_BYTES

    head, *rows = ([str(value) for value in row] for row in summary(results.cells, peers_of(results.cells)))
    rule = ["---", "---", *["---:"] * (len(head) - 2)]
    lines = [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]
    versions = ", ".join(f"{name} {version}" for name, version in results.peers.items())
    where = (
        "Geometric means over the cells; `at least` is the worst cell beside its best peer; `of limit` is the speed of "
        f"a streaming copy that was reached, in the median of arrays past {LARGE_BYTES // 10**6} MB. Measured by "
        f"`fastbn bench --suite {results.suite}`, {results.date[:10]}: {results.where}, "
        f"fastbn {results.machine['fastbn']}, {versions}."
    )
    if results.between:
        where += f" Every call comes after other work: {in_words(results.between)}."
    return "\n".join([*lines, "", where])


def text_of(paths, in_a_line):
    """What goes between the marks, from files of one suite."""
    from fastbn.cli._errors import CommandError
    from fastbn.cli.bench import _torch_report
    from fastbn.cli.bench._results import Results
    from fastbn.cli.bench._torch_results import SUITE, TorchResults

    try:
        suite = json.loads(paths[0].read_text(encoding="utf-8")).get("suite")
    except (OSError, ValueError, AttributeError):
        suite = None  # which is told below
    if suite == SUITE:
        first, *others = map(TorchResults.load, paths)
        results = first.joined(others)
        return _torch_report.line(results) if in_a_line else _torch_report.markdown(results)
    if len(paths) > 1:
        raise CommandError(f"{len(paths)} files; expected one, other than of suite {SUITE}")
    results = Results.load(paths[0])
    return line(results) if in_a_line else render(results)


def insert(page, text, name="loop"):
    """The page with `text` between the marks of that name, in place of what stood there."""
    first, last = marks(name)
    before, begin, rest = page.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"expected {first} and, after it, {last}")
    return f"{before}{first}\n{text}\n{last}{after}"


def main(argv=None):
    # here, not at the top: asv imports every file of this folder, and fastbn only in the forks that measure it
    from fastbn.cli._errors import CommandError

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", nargs="*", type=Path, help="JSON files (benchmarks/results.json)")
    parser.add_argument(
        "--page", type=Path, default=ROOT / "docs" / "speed.md", help="the file with the marks (docs/speed.md)"
    )
    parser.add_argument("--marks", default="loop", metavar="NAME", help="the name in the marks (%(default)s)")
    parser.add_argument("--line", action="store_true", help="write one sentence instead of a table")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the table is another one")
    args = parser.parse_args(argv)
    paths = args.results or [ROOT / "benchmarks" / "results.json"]
    try:
        text = text_of(paths, args.line)
        page = args.page.read_text(encoding="utf-8")
        fresh = insert(page, text, args.marks)
    except (CommandError, OSError, ValueError) as error:
        print(f"{parser.prog}: {args.page.name}: {error}", file=sys.stderr)
        return 2
    if args.check:
        if page != fresh:
            print(f"{args.page.name} has another table than {paths[-1].name}: run {parser.prog}", file=sys.stderr)
        return int(page != fresh)
    args.page.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
