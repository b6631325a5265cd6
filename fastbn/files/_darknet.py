"""Darknet: .weights, numbers in the order of the layers, and the .cfg beside that tells what the layers are."""

from math import prod

from fastbn.files._content import Content, Norm
from fastbn.files._source import Source, Table, beside, flat

_LONGEST_CFG = 1 << 22
_WITHOUT_WEIGHTS = {
    "maxpool", "avgpool", "upsample", "route", "shortcut", "yolo", "region", "detection", "softmax", "dropout",
    "reorg", "reorg3d", "cost", "scale_channels", "sam", "gaussian_yolo", "logistic", "activation", "crop",
}  # fmt: skip
EPS = 1e-6  # inside the root, as OpenCV reads it; Darknet itself adds it to the root on a processor
Section = dict[str, str]


def read_cfg(source: Source) -> Content:
    """A .cfg, whose numbers lie beside it."""
    path = beside(source, source.path.with_suffix(".weights").name)
    if not path.is_file():
        source.bad(f"it tells the layers, but {path.name}, which holds the numbers, is not beside it")
    return _with(Source(path), source)


def read(source: Source) -> Content:
    """A .weights, whose layers the .cfg beside it tells."""
    path = beside(source, source.path.with_suffix(".cfg").name)
    if not path.is_file():
        source.bad(f"it may be Darknet's, but {path.name}, which tells its layers, is not beside it")
    cfg = Source(path)
    try:
        content = _with(source, cfg)
    finally:
        cfg.close()
    content.closers = [close for close in content.closers if close != source.close]
    return content


def _with(weights: Source, cfg: Source) -> Content:
    try:
        entries, norms = _Layout(weights, _sections(cfg), cfg).told()
    except BaseException:
        if cfg.path.suffix != ".weights":
            weights.close()
        raise

    def bias_of(weight: str) -> str:
        layer = weight.removesuffix(".weights")
        return f"{layer}.bias" if layer in norms else f"{layer}.biases"  # where the biases are the batch norm's

    return Content(
        "darknet",
        entries,
        lambda: (norms, {}),
        closers=[weights.close],
        bias_of=bias_of,
        pairs=lambda: {name: {"weight": f"{name}.weights"} for name in norms},
    )


def _sections(cfg: Source) -> list[tuple[str, Section]]:
    if cfg.size > _LONGEST_CFG:
        cfg.bad(f"a cfg of {cfg.size} bytes; expected at most {_LONGEST_CFG}")
    result: list[tuple[str, Section]] = []
    for number, raw in enumerate(cfg.read(0, cfg.size).decode("utf-8", "replace").splitlines(), 1):
        line = raw.split("#")[0].split(";")[0].strip()
        if line.startswith("[") and line.endswith("]"):
            result.append((line[1:-1].strip(), {}))
        elif line and not result:
            cfg.bad("an option before the first section", f"line {number}")
        elif line:
            key, _, value = line.partition("=")
            if key.strip() in result[-1][1]:
                cfg.bad(f"the option {key.strip()[:200]!r} comes twice", f"line {number}")
            result[-1][1][key.strip()] = value.strip()
    if not result or result[0][0] not in ("net", "network"):
        cfg.bad("it does not begin with [net]")
    return result


class _Layout:
    """Follows the layers and says where the numbers of each are."""

    def __init__(self, weights: Source, sections: list[tuple[str, Section]], cfg: Source) -> None:
        self._weights, self._sections, self._cfg = weights, sections[1:], cfg
        self._entries, self._norms = Table(weights), dict[str, Norm]()
        header = [int.from_bytes(weights.read(4 * k, 4), "little") for k in range(3)]
        if header[0] > 1000 or header[1] > 1000:
            weights.bad(f"version {header[0]}.{header[1]}, which is transposed or none", 0)
        self._at = 20 if header[0] * 10 + header[1] >= 2 else 16
        net = sections[0][1]
        self._channels = [self._number(net, "channels", 3)]
        self._size = [(self._number(net, "height", 0), self._number(net, "width", 0))]

    def told(self) -> tuple[Table, dict[str, Norm]]:
        for k, (kind, section) in enumerate(self._sections):
            name = f"{k}.{kind}"
            if kind == "convolutional":
                self._convolution(name, section)
            elif kind in ("route", "shortcut"):
                self._joined(kind, section, k)
            elif kind in _WITHOUT_WEIGHTS:
                stride = self._number(section, "stride", 1)
                self._channels.append(self._channels[-1] * (stride * stride if kind.startswith("reorg") else 1))
            else:
                self._cfg.bad(
                    f"a layer [{kind[:40]}], whose numbers are not known; expected convolutional and such without"
                )
        if self._at != self._weights.size:
            self._weights.bad(f"{self._weights.size - self._at} bytes are left over; expected another cfg", self._at)
        return self._entries, self._norms

    def _number(self, section: Section, key: str, usual: int) -> int:
        try:
            value = int(section.get(key, usual))
        except ValueError:
            value = -1
        if not 0 <= value < 1 << 31:
            self._cfg.bad(f"{key} is {section.get(key, '')[:40]!r}; expected a number")
        return value

    def _take(self, name: str, shape: tuple[int, ...]) -> None:
        self._entries.add(name, flat(self._weights, name, self._at, "<f4", shape))
        self._at += 4 * prod(shape)

    def _convolution(self, name: str, section: Section) -> None:
        out, size = self._number(section, "filters", 1), self._number(section, "size", 1)
        groups = max(self._number(section, "groups", 1), 1)
        self._take(f"{name}.biases", (out,))
        if self._number(section, "batch_normalize", 0):
            arrays = {"bias": f"{name}.biases"}
            for role, own in (
                ("weight", "scales"),
                ("running_mean", "rolling_mean"),
                ("running_var", "rolling_variance"),
            ):
                self._take(f"{name}.{own}", (out,))
                arrays[role] = f"{name}.{own}"
            self._norms[name] = Norm("batch", arrays, (out,), EPS)
        self._take(f"{name}.weights", (out, self._channels[-1] // groups, size, size))
        self._channels.append(out)

    def _joined(self, kind: str, section: Section, k: int) -> None:
        given = section.get("layers" if kind == "route" else "from", "")
        try:
            layers = [int(part) for part in given.split(",")]
        except ValueError:
            layers = [k]
        at = [n if n >= 0 else k + n for n in layers]
        if not all(0 <= n < k for n in at):
            self._cfg.bad(f"[{kind}] takes the layers {given[:80]!r}; expected earlier ones")
        groups = max(self._number(section, "groups", 1), 1)
        total = sum(self._channels[n + 1] for n in at) // groups
        self._channels.append(total if kind == "route" else self._channels[-1])
