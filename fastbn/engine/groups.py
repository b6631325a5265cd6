"""Which elements share statistics: one description, by which arguments are checked and plans are made."""

from typing import Any, NamedTuple

from numpy.typing import NDArray

from fastbn.engine import arguments, views
from fastbn.engine.arrays import ViewOf

Array = NDArray[Any]
Shape = tuple[int, ...]


class Groups(NamedTuple):
    """How an array is parted."""

    view_of: ViewOf
    args: tuple[Any, ...]  # of view_of, beside shape and memory order
    weights: Shape  # the shape of a weight
    statistics: Shape  # and that of mean and rstd
    kept: tuple[int, ...]  # axes that statistics keep,
    split: int = 0  # the last of which is split into so many, unless 0

    def told(self, x: Array, name: str = "x") -> str:
        """Why weights have the shape that they have, at the end of an error."""
        if self.view_of is views.layer_view:
            return f", the normalized axes of {name}, which has shape {x.shape}"
        return f", one number for each channel (axis {self.args[0]} of {name}, which has shape {x.shape})"


# Each takes x, rstd of a backward, which may tell what the caller does not, and what the caller says about groups.


def of_channels(x: Array, rstd: Any, axis: Any) -> Groups:
    """A group a channel."""
    arguments.rank(x, 2)
    channel = arguments.axis(axis, x)
    shape = (x.shape[channel],)
    return Groups(views.batch_view, (channel,), shape, shape, (channel,))


def of_channels_of_samples(x: Array, rstd: Any, axis: Any) -> Groups:
    """As `of_channels`, where axis 0 counts samples."""
    arguments.rank(x, 2)
    return of_channels(x, rstd, arguments.sample_axis(axis, x))


def of_instances(x: Array, rstd: Any, axis: Any) -> Groups:
    """A group a channel of a sample."""
    arguments.rank(x, 2)
    channel = arguments.sample_axis(axis, x)
    return _of_samples(x, channel, x.shape[channel])


def of_groups(x: Array, rstd: Any, number: Any, axis: Any) -> Groups:
    """So many groups of the channels of each sample; number: None in a backward."""
    arguments.rank(x, 2)
    channel = arguments.sample_axis(axis, x)
    channels = x.shape[channel]
    groups = arguments.groups_of(rstd, channels) if number is None else arguments.groups(number, channels)
    return _of_samples(x, channel, groups)


def _of_samples(x: Array, channel: int, groups: int) -> Groups:
    statistics = x.shape[0], groups
    return Groups(views.group_view, (channel, groups), (x.shape[channel],), statistics, (0, channel), groups)


def of_rows(x: Array, rstd: Any, normalized_shape: Any) -> Groups:
    """The trailing axes together; normalized_shape: None in a backward."""
    if normalized_shape is None:
        shape = arguments.trailing(rstd, "rstd", x)
    else:
        shape = arguments.normalized_shape(normalized_shape, x)
    kept = x.ndim - len(shape)
    return Groups(views.layer_view, (len(shape),), shape, x.shape[:kept], tuple(range(kept)))
