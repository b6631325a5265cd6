#!/usr/bin/env bash
# scikit-learn-intelex 2026.2.0 with oneDAL 2026.2.0.  IncrementalBasicStatistics keeps sums and sums of squares in the type of the data: in float32
# the variance of ten batches about a mean of 1e4 is off by more than a tenth, and about 1e6 it is below -100.  BasicStatistics of the same
# rows at once is near everywhere.  Such batches were expected to merge without loss.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install scikit-learn-intelex==2026.2.0 daal==2026.2.0 numpy==2.4.6
expect 'about 0: at once True, in batches True, below -100 False
about 1e4: at once True, in batches False, below -100 False
about 1e6: at once True, in batches False, below -100 True' <<'PY'
import numpy as np
from sklearnex.basic_statistics import BasicStatistics, IncrementalBasicStatistics

noise = np.random.default_rng(0).standard_normal((5000, 2))
for name, mean in (("0", 0.0), ("1e4", 1e4), ("1e6", 1e6)):
    x = (noise + mean).astype(np.float32)
    true = x.astype(np.float64).var(axis=0, ddof=1)
    at_once = BasicStatistics(result_options="variance").fit(x).variance_
    batches = IncrementalBasicStatistics(result_options="variance", batch_size=500).fit(x).variance_
    near = [bool(np.allclose(found, true, rtol=0.1)) for found in (at_once, batches)]
    print(f"about {name}: at once {near[0]}, in batches {near[1]}, below -100 {bool((batches < -100).any())}")
PY
