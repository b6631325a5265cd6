"""What goes on in the normalization layers of a network while it trains.

The writers for TensorBoard and for the terminal need ``pip install "fastbn[monitor]"``; numbers in Python and CSV files
need nothing.
"""

from fastbn.monitor._monitor import Monitor
from fastbn.monitor._record import METRICS

__all__ = ["METRICS", "Monitor"]
