"""What is measured: an operation, a direction and a shape make a cell; cells make a suite."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from math import prod
from typing import Any, Self

from fastbn.cli.bench import _networks
from fastbn.cli.bench._networks import Layer

TRAINING, INFERENCE = "batch norm, training", "batch norm, inference"
LAYER, GROUP, INSTANCE, RMS = "layer norm", "group norm", "instance norm", "RMS norm"
OPERATIONS = (TRAINING, INFERENCE, LAYER, GROUP, INSTANCE, RMS)
FORWARD, BACKWARD = DIRECTIONS = ("forward", "backward")
FIRST, LAST = 1, -1
ITEM_BYTES = 4  # every cell is float32


@dataclass(frozen=True)
class Cell:
    """One row of the table."""

    operation: str
    direction: str
    shape: tuple[int, ...]  # as it lies in memory
    axis: int = FIRST  # of the channels: FIRST or LAST; of layer and RMS norm, the one normalized over
    groups: int | None = None
    source: str = ""  # the network and its layer
    activation: str | None = None
    residual: bool = False

    def __post_init__(self) -> None:
        if self.operation not in OPERATIONS or self.direction not in DIRECTIONS or self.axis not in (FIRST, LAST):
            raise ValueError(f"no such cell: {self}")

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells the cell from others, wherever it comes from."""
        return self.operation, self.direction, self.shape, self.axis, self.groups, self.activation, self.residual

    @property
    def channels(self) -> int:
        return self.shape[self.axis]

    @property
    def normalizes_vectors(self) -> bool:
        """Whether statistics are taken over the channels of one position, as layer and RMS norm do."""
        return self.operation in (LAYER, RMS)

    @property
    def nbytes(self) -> int:
        """The size of x."""
        return ITEM_BYTES * prod(self.shape)

    @property
    def copies(self) -> float:
        """The bytes that must move, in copies of x: forward reads x and writes y, backward reads dy too.

        A residual is read both ways, and backward its gradient is written.
        """
        return (1.0 if self.direction == FORWARD else 1.5) + self.residual * (0.5 if self.direction == FORWARD else 1.0)

    @property
    def fused(self) -> tuple[str, ...]:
        """What is done in the same call, besides."""
        return ("residual",) * self.residual + ((self.activation,) if self.activation else ())

    @property
    def task(self) -> str:
        return f"{' + '.join((self.operation, *self.fused))}, {self.direction}"

    @property
    def layout(self) -> str:
        return "first" if self.axis == FIRST else "last"

    @property
    def size(self) -> str:
        return "x".join(map(str, self.shape))

    @property
    def name(self) -> str:
        return f"{self.task}, {self.size}, channels {self.layout}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        return cls(**(record | {"shape": tuple(record["shape"])}))


def _image(layer: Layer, axis: int) -> tuple[int, ...]:
    channels, *plane = layer.features
    return (layer.batch, channels, *plane) if axis == FIRST else (layer.batch, *plane, channels)


def _both_ways(operation: str, layer: Layer, axes: tuple[int, ...] = (FIRST, LAST)) -> Iterator[Cell]:
    source = f"{layer.network}, {layer.name}"
    for axis in axes:
        for direction in DIRECTIONS[: 1 if operation == INFERENCE else 2]:
            yield Cell(operation, direction, _image(layer, axis), axis, layer.groups, source)


def networks() -> Iterator[Cell]:
    """Every operation over the layers of published networks, both ways and in both memory orders."""
    for layer in _networks.BATCH_NORM:
        # without a plane the two orders are one
        axes = (FIRST, LAST) if len(layer.features) > 1 else (FIRST,)
        yield from _both_ways(TRAINING, layer, axes)
        yield from _both_ways(INFERENCE, layer, axes)
    for operation, layers in (
        (LAYER, _networks.LAYER_NORM_OF_IMAGES),
        (GROUP, _networks.GROUP_NORM),
        (INSTANCE, _networks.INSTANCE_NORM),
    ):
        for layer in layers:
            yield from _both_ways(operation, layer)
    for operation, sequences in ((LAYER, _networks.LAYER_NORM), (RMS, _networks.RMS_NORM)):
        for sequence in sequences:
            for direction in DIRECTIONS:
                yield Cell(operation, direction, sequence.shape, LAST, source=f"{sequence.network}, {sequence.name}")


def quick() -> Iterator[Cell]:
    """A cell or two of every operation, most of them past the caches."""
    yield Cell(TRAINING, FORWARD, (32, 64, 56, 56))
    yield Cell(TRAINING, FORWARD, (32, 256, 56, 56))
    yield Cell(TRAINING, BACKWARD, (32, 64, 56, 56))
    yield Cell(TRAINING, FORWARD, (32, 56, 56, 64), LAST)
    yield Cell(INFERENCE, FORWARD, (32, 256, 14, 14))
    yield Cell(LAYER, FORWARD, (4096, 768), LAST)
    yield Cell(LAYER, BACKWARD, (4096, 768), LAST)
    yield Cell(GROUP, FORWARD, (4, 320, 64, 64), groups=32)
    yield Cell(INSTANCE, FORWARD, (1, 128, 128, 128))
    yield Cell(RMS, FORWARD, (2048, 4096), LAST)


def small() -> Iterator[Cell]:
    """Calls so small that the call itself is the cost, then two operations from 1 kB to 200 MB."""
    yield Cell(LAYER, FORWARD, (2, 8), LAST)
    yield Cell(LAYER, FORWARD, (1, 768), LAST)
    yield Cell(INFERENCE, FORWARD, (8, 16, 8, 8))
    yield Cell(INFERENCE, FORWARD, (1, 512, 7, 7))
    for rows in (1, 16, 256, 2048, 16384, 65536, 196608):
        yield Cell(LAYER, FORWARD, (rows, 256), LAST)
    for batch, channels, side in (
        (4, 4, 4),
        (4, 16, 8),
        (8, 32, 14),
        (8, 64, 28),
        (32, 64, 56),
        (32, 256, 56),
        (64, 256, 56),
    ):
        yield Cell(TRAINING, FORWARD, (batch, channels, side, side))


def program() -> Iterator[Cell]:
    """Every operation as programs call it: batches of 1, 8 and 16, in both memory orders, and what is fused into it."""
    for layer in _networks.TRAINED:
        yield from _both_ways(TRAINING, layer)
    for layer in _networks.TRAINED[:2]:
        for direction, axis in product(DIRECTIONS, (FIRST, LAST)):
            where = f"{layer.network}, {layer.name}"
            for residual in (False, True):
                shape = _image(layer, axis)
                yield Cell(TRAINING, direction, shape, axis, None, where, activation="relu", residual=residual)
    for layer in _networks.SERVED:
        yield from _both_ways(INFERENCE, layer)
    relu = _networks.SERVED[0]
    yield Cell(INFERENCE, FORWARD, _image(relu, FIRST), FIRST, None, f"{relu.network}, {relu.name}", activation="relu")
    for operation, layers in ((GROUP, _networks.GROUPS_IN_PROGRAMS), (INSTANCE, _networks.INSTANCES_IN_PROGRAMS)):
        for layer in layers:
            yield from _both_ways(operation, layer)
    for operation, sequences in ((LAYER, _networks.LAYERS_IN_PROGRAMS), (RMS, _networks.RMS_IN_PROGRAMS)):
        for sequence in sequences:
            for direction in DIRECTIONS:
                yield Cell(operation, direction, sequence.shape, LAST, source=f"{sequence.network}, {sequence.name}")


@dataclass(frozen=True)
class Suite:
    """Cells, the time each of them gets, and the peers that are asked when the user names none."""

    cells: Callable[[], Iterator[Cell]]
    seconds: float
    compiles: bool = False  # whether torch.compile, which takes seconds a cell, is among the peers
    between: str = ""  # other work between any two calls


SUITES = {
    "quick": Suite(quick, seconds=3),
    "networks": Suite(networks, seconds=2, compiles=True),
    "program": Suite(program, seconds=2, between="matmul+copy"),
    "small": Suite(small, seconds=2),
}
