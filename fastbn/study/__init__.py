"""What is claimed for normalization, run on real data and judged: ``fastbn study``, or `run` here.

It needs ``pip install "fastbn[study]"``: the data ship with scikit-learn and with Python, pictures are matplotlib's.
"""

from fastbn.study._report import Report
from fastbn.study._run import run
from fastbn.study._table import NAMES

__all__ = ["NAMES", "Report", "run"]
