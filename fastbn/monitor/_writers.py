"""Where the numbers go: a CSV file, TensorBoard's event files, a table in the terminal."""

import csv
from io import IOBase
from pathlib import Path
from typing import Any, Protocol

from fastbn._doors import need
from fastbn.monitor._record import METRICS

Records = dict[str, dict[str, float]]


class Writer(Protocol):
    """What takes the numbers of one step, by layer and metric."""

    def write(self, step: int, records: Records) -> None: ...

    def close(self) -> None: ...


class CsvWriter:
    """One line for each layer and step; empty where a layer does not have the number."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", newline="", encoding="utf-8")
        self._csv = csv.writer(self._file)
        self._csv.writerow(["step", "layer", *METRICS])

    def write(self, step: int, records: Records) -> None:
        for layer, values in records.items():
            self._csv.writerow([step, layer, *(values.get(name, "") for name in METRICS)])
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoardWriter:
    """Scalars named layer/metric, by tensorboardX or whatever has its ``add_scalar``."""

    def __init__(self, summary: Any) -> None:
        self._summary = summary

    def write(self, step: int, records: Records) -> None:
        for layer, values in records.items():
            for name, value in values.items():
                self._summary.add_scalar(f"{layer}/{name}", value, step)

    def close(self) -> None:
        if hasattr(self._summary, "close"):
            self._summary.close()


class LiveWriter:
    """A table that is drawn anew at every step, and whose last state stays."""

    _COLUMNS = ("input_mean", "input_var", "output_var", "saturation", "dead", "mean_drift", "input_gradient")

    def __init__(self) -> None:
        need("rich", "monitor")
        from rich.live import Live

        self._live = Live(auto_refresh=False)
        self._live.start()

    def write(self, step: int, records: Records) -> None:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title=f"step {step}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
        )
        table.add_column("layer", no_wrap=True)
        for name in self._COLUMNS:
            table.add_column(name.replace("_", "\n"), justify="right", no_wrap=True)
        for layer, values in records.items():
            table.add_row(Text(layer), *(_told(name, values.get(name)) for name in self._COLUMNS))
        self._live.update(table, refresh=True)

    def close(self) -> None:
        self._live.stop()


def _told(name: str, value: float | None) -> str:
    if value is None:
        return ""
    text = f"{value:.0%}" if name in ("saturation", "dead") else f"{value:.2g}"
    bad = value != value or value in (float("inf"), float("-inf")) or (name == "dead" and value > 0)
    return f"[red]{text}[/red]" if bad else text


def writer_of(value: Any) -> Writer | None:
    """A writer from what a user gives."""
    if value is None:
        return None
    if isinstance(value, str) and value == "live":
        return LiveWriter()
    if isinstance(value, str | Path):
        path = Path(value)
        if path.suffix.lower() == ".csv":
            return CsvWriter(path)
        return TensorBoardWriter(need("tensorboardX", "monitor").SummaryWriter(str(path)))
    if hasattr(value, "add_scalar") and not isinstance(value, type):
        return TensorBoardWriter(value)
    if hasattr(value, "write") and hasattr(value, "close") and not isinstance(value, IOBase | type):
        return value
    raise TypeError(
        f"writer is {value!r}; expected a path that ends in .csv, a folder for TensorBoard, 'live', an object with "
        "add_scalar or with write and close, or None"
    )
