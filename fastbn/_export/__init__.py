"""The kernels as a C library: what ``fastbn export`` writes.

The serial kernels are compiled once more around entries with C signatures (`entries`), taken as LLVM's text, cut loose
from Numba's runtime and from this machine (`modules`), and made into objects for the processor asked for (`targets`).
Headers, examples and self tests follow from one table of what there is (`interface`).
"""
