"""Statistics of data that come in parts: mean and variance that are updated, merged, and handed to trained layers.

Sums are taken in float64 about an element of the group, as in forward (see `fastbn.functional`), and that element is
kept beside the mean's distance from it.  So a mean that is large against the deviation costs no digits in a merge.
Sums of integers are exact.
"""

from fastbn.moments._class import Moments
from fastbn.moments._datasets import dataset_statistics
from fastbn.moments._population import population_statistics

__all__ = ["Moments", "dataset_statistics", "population_statistics"]
