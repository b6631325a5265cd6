"""The monitor: which steps are looked at, and what was seen."""

from typing import Any, Self

from fastbn.engine import arguments
from fastbn.monitor._layers import watches
from fastbn.monitor._writers import Records, writer_of


class Monitor:
    """Watch normalization layers while they train: what goes in and out, and the gradients, at every so many-th step.

    Parameters
    ----------
    layers : layers, mapping of names to layers, or torch model
        fastbn's layers or torch's normalization modules, those of `fastbn.torch` among them.  Of a torch model, all
        normalization modules under their paths.
    writer : path, str or object, optional
        Where the numbers go: a path that ends in ``.csv``; another path, a folder for TensorBoard's files; "live", a
        table in the terminal; an object with ``add_scalar`` (a SummaryWriter), or with
        ``write(step, records)`` and ``close()``.  Without one they are in `latest` only.  A CSV file is begun anew.
    every : int
        How many steps lie between two that are looked at; the first step is.

    Attributes
    ----------
    latest : dict of str to dict of str to float
        By layer and metric, of the last step that was looked at; see `fastbn.monitor.METRICS`.  A layer that was not
        called in training mode has none.

    Raises
    ------
    TypeError
        If a layer or the writer is of another kind.
    ValueError
        If there is no layer, or `every` is less than 1.
    ImportError
        If the writer needs a package that is missing; the error names the command.

    Notes
    -----
    Call `step` once for each training step, after backward and before gradients are set to zero.  A layer that is
    called several times in a step counts with its last call, gradients of parameters with all.  Between the steps that
    are looked at, layers run untouched; copies and saved ones are not watched.  Several monitors may watch one layer.

    All numbers are of all elements, or of those for which the call's `where` is true.  Sums are taken in float64 about
    an element; mean and variance of what goes into batch norm are those that it has normalized by.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> norm = fastbn.BatchNorm1d(3)
    >>> x = np.random.default_rng(0).normal(5.0, 2.0, (64, 3))
    >>> with fastbn.monitor.Monitor({"norm": norm}) as monitor:
    ...     y = norm(x)
    ...     dx = norm.backward(y)
    ...     monitor.step()
    >>> round(monitor.latest["norm"]["output_var"], 3)
    1.0
    """

    def __init__(self, layers: Any, writer: Any = None, every: int = 10) -> None:
        self._every = arguments.integer(every, "every")
        if self._every < 1:
            raise ValueError(f"every is {every}; expected at least 1")
        self._watches = watches(layers)
        self._writer = writer_of(writer)
        self.latest: Records = {name: {} for name in self._watches}
        self._steps = 0
        self._armed = self._closed = False
        self._arm()

    def step(self) -> None:
        """Take note that a training step has ended.

        Raises
        ------
        ValueError
            If the monitor has been closed.
        """
        if self._closed:
            raise ValueError("the monitor is closed; expected a new one: fastbn.monitor.Monitor(layers)")
        step, self._steps = self._steps, self._steps + 1
        try:
            if self._armed:
                self.latest = self._disarm()
                if self._writer is not None:
                    self._writer.write(step, self.latest)
        finally:
            if self._steps % self._every == 0:
                self._arm()

    def close(self) -> None:
        """Let go of the layers, and close the writer; a second time, do nothing."""
        self._closed = True
        if self._armed:
            self._let_go()
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _arm(self) -> None:
        for watch in self._watches.values():
            watch.arm()
        self._armed = True

    def _let_go(self) -> None:
        for watch in self._watches.values():
            watch.let_go()
        self._armed = False

    def _disarm(self) -> Records:
        self._let_go()
        return {name: watch.seen() for name, watch in self._watches.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
