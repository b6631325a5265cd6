"""The tables and the picture of ``fastbn bench --suite torch``: on the terminal, in Markdown, as PNG."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fastbn.cli._console import console, heading, make_table, say
from fastbn.cli.bench._torch_results import CONTENDERS, SHARES, STEPS, Interval, Timed, TorchResults

_PARTS = (True, "Training steps"), (False, "Inference")
_ASKED = (
    "Asked of a step: gained at least "
    f"{', '.join(f'{share:g} of {name}' for name, share in SHARES.items())}; "
    f"{' and '.join(STEPS)} at least {min(STEPS.values()):g} times as fast; memory at most torch's. Asked of "
    "inference: never slower. A step is not judged where what can be gained is under 5 times its spread; level: "
    "slower, but not beyond the interval."
)
_LEGEND = (
    "Medians of interleaved steps with intervals of 95%. bare: the network without norms, activations and sums. "
    "gained: (torch - fastbn) / (torch - bare). memory: the most that fastbn's steps take over torch's most. "
    "folded: norms that became part of a convolution."
)


def _parts(cells: list[Timed]) -> Iterator[tuple[str, list[Timed]]]:
    """Training steps, and inference, as far as there are any."""
    for training, title in _PARTS:
        rows = [timed for timed in cells if timed.cell.training is training]
        if rows:
            yield title, rows


def show(results: TorchResults) -> None:
    """A table of training steps, and one of inference."""
    from fastbn.cli import info

    heading("What this ran on")
    console.print(info.as_text(results.machine))
    for title, rows in _parts(results.cells):
        heading(f"{title}, in milliseconds, {results.threads} threads, float32")
        console.print(table_of(rows))
        for timed in rows:
            for contender, reason in timed.failures.items():
                say(f"{timed.cell.name}: no {contender}: {reason}")
    say(_LEGEND)
    say(_ASKED)


def table_of(rows: list[Timed]) -> Any:
    """A table of cells that are all training steps, or all inference, narrow enough for 80 columns."""
    training = rows[0].cell.training
    names = _contenders(rows)
    heads = ["", *(n.removeprefix("torch.") for n in names), "speed-up"]
    table = make_table([*heads, *(("gained", "memory") if training else ("folded",))])
    for timed in rows:
        cell, said = timed.cell, timed.verdicts()
        row = [f"{cell.network}\n{cell.sizes}\n{cell.layout}"]
        row += [_milliseconds(timed, n) for n in names]
        row.append(_with_interval(timed.speedup(), said.get("speed-up", "")))
        if training:
            row += [_with_interval(timed.share(), said["gained"]), f"{_memory(timed)}\n{said.get('memory', '')}"]
        else:
            row.append(_folded(timed))
        table.add_row(*row)
        table.add_section()
    return table


def _contenders(rows: list[Timed]) -> list[str]:
    return [n for n in CONTENDERS if any(n in timed.seconds for timed in rows)]


def _milliseconds(timed: Timed, contender: str) -> str:
    if contender not in timed.seconds:
        return "-"
    seconds = timed.median(contender)
    return f"{seconds * 1e3:.1f}" if seconds < 0.1 else f"{seconds * 1e3:.0f}"


def _memory(timed: Timed) -> str:
    memory = timed.memory()
    return "-" if memory is None else f"{memory:.2f}"


def _folded(timed: Timed) -> str:
    return f"{timed.norms[0]} of {timed.norms[1]}" if timed.norms[1] else "-"


def _with_interval(found: Interval, said: str) -> str:
    """A figure, its interval, and what is said of it, a line each."""
    return f"{found.value:.2f}\n{found.low:.2f} to\n{found.high:.2f}\n{said}".rstrip()


def markdown(results: TorchResults) -> str:
    """The tables for a page, and where they were measured."""
    parts = [text for title, rows in _parts(results.cells) for text in _markdown_table(title, rows)]
    versions = f"fastbn {results.machine.get('fastbn')}, torch {results.torch}"
    where = f"Measured by `fastbn bench --suite torch`, {results.date[:10]}: {results.where}, {versions}, float32."
    return "\n".join([*parts, f"{_LEGEND} {_ASKED} {where}"])


def _markdown_table(title: str, rows: list[Timed]) -> Iterator[str]:
    training, names = rows[0].cell.training, _contenders(rows)
    last = ["gained", "memory"] if training else ["folded"]
    head = [f"{title}, ms", *(n.removeprefix("torch.") for n in names), "times as fast", *last]
    yield f"| {' | '.join(head)} |"
    yield f"| --- |{' ---: |' * (len(head) - 1)}"
    for timed in rows:
        said = timed.verdicts()
        row = [timed.cell.name.rpartition(", ")[0], *(_milliseconds(timed, n) for n in names)]
        row.append(_in_line(timed.speedup(), said.get("speed-up")))
        if training:
            memory = said.get("memory")
            row += [_in_line(timed.share(), said["gained"]), _memory(timed) + (f", {memory}" if memory else "")]
        else:
            row.append(_folded(timed))
        yield f"| {' | '.join(row)} |"
    yield ""


def _in_line(found: Interval, said: str | None) -> str:
    text = f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"
    return f"{text}, {said}" if said else text


def line(results: TorchResults) -> str:
    """One sentence: what training steps and inference gain, from the least to the most."""
    told = []
    for title, rows in _parts(results.cells):
        found = [timed.speedup().value for timed in rows]
        told.append(f"{title.lower()} of {_listed(rows)} are {min(found):.2f} to {max(found):.2f} times as fast")
    text = "; ".join(told).replace("inference of", "calls in evaluation of")
    return (
        f"In PyTorch, compared with torch's own norms: {text} ({len(results.cells)} cells, "
        f"`fastbn bench --suite torch`, {results.date[:10]}, {results.where})."
    )


def _listed(rows: list[Timed]) -> str:
    names = list(dict.fromkeys(timed.cell.network for timed in rows))
    return " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]


def draw(results: TorchResults, path: Path) -> None:
    """A bar a cell: the share of the gain, or the speed-up of inference; marked is what is asked."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    most = max(len(rows) for _, rows in _parts(results.cells))
    figure, axes = plt.subplots(1, 2, figsize=(14, 2 + 0.5 * most), layout="constrained")
    parts: tuple[tuple[bool, str, Callable[[Timed, str], Interval]], ...] = (
        (True, "training: share of what norms, activations and sums cost that is gained", Timed.share),
        (False, "inference: times as fast as torch", Timed.speedup),
    )
    for axis, (training, title, statistic) in zip(axes, parts, strict=True):
        rows = [timed for timed in results.cells if timed.cell.training is training]
        for k, (contender, color) in enumerate((("fastbn", "tab:blue"), ("torch.compile", "tab:orange"))):
            places = [n for n, timed in enumerate(rows) if contender in timed.seconds]
            found = np.array([statistic(rows[n], contender) for n in places]).reshape(-1, 3)
            error = np.clip(np.abs(found[:, 1:] - found[:, :1]).T, 0, None)
            axis.barh(np.array(places) + 0.4 * k, found[:, 0], 0.38, xerr=error, color=color, label=contender)
        asked = [SHARES[timed.cell.network] if training else 1.0 for timed in rows]
        axis.plot(asked, np.arange(len(rows)), "|", color="black", markersize=14, label="asked")
        axis.set_yticks(range(len(rows)), [timed.cell.name.rpartition(", ")[0] for timed in rows])
        axis.set_title(title, fontsize="medium")
        axis.invert_yaxis()
    axes[0].legend(loc="lower right")
    figure.savefig(path, dpi=130)
    plt.close(figure)
