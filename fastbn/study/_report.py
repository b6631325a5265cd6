"""What came of a study: as rows, as Markdown, as a picture."""

from dataclasses import dataclass, field
from pathlib import Path

from fastbn.study._judge import Verdict
from fastbn.study._study import Array, Results, Study, label


@dataclass(frozen=True)
class Report:
    """What came of a study.

    Attributes
    ----------
    name : str
        Its name.
    study : Study
        Its title, what it does, and what it compares.
    results : Results
        All that was measured, by way and seed.
    verdicts : list of Verdict
        The claims, each with its verdict and its interval.
    """

    name: str
    study: Study = field(repr=False)
    results: Results = field(repr=False)
    verdicts: list[Verdict]

    @property
    def seeds(self) -> int:
        return len(self.results.runs[self.study.ways[0]])

    def rows(self) -> list[list[str]]:
        """The table, its headings first: a row a way, with the mean of the seeds and the range of them."""
        columns = self.study.columns
        table = [[self.study.compared, *(column.heading for column in columns)]]
        for way in self.study.ways:
            cells = [spread(self.results.values(column.key, *way), column.format) for column in columns]
            table.append([label(way), *cells])
        return table

    def markdown(self, picture: str | None = None) -> str:
        """A section of a page; `picture` is a link to the picture."""
        head, *body = self.rows()
        table = [head, ["---", *["---:"] * len(self.study.columns)], *body]
        lines = [f"## {self.study.title}", "", self.study.about, ""]
        lines += ["| " + " | ".join(row) + " |" for row in table] + [""]
        if picture is not None:
            lines += [f"![{self.study.title}]({picture})", ""]
        lines += [f"- {v.claim.text}: **{v.words}**; {v}." for v in self.verdicts]
        return "\n".join(lines) + "\n"

    def save_picture(self, path: str | Path) -> None:
        """Write the picture as a PNG, which needs matplotlib."""
        from fastbn.study._picture import draw

        draw(self.study.title, self.study.panels(self.results), Path(path))


def spread(values: Array, format: str) -> str:
    """The mean, and the range from the least to the greatest, in the given format."""
    mean, low, high = (f"{value:{format}}" for value in (values.mean(), values.min(), values.max()))
    return mean if low == high else f"{mean} ({low} to {high})"
