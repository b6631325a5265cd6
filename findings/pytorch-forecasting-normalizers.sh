#!/usr/bin/env bash
# pytorch-forecasting 1.8.0, torch 2.13.0, pandas 3.0.6.  GroupNormalizer with `scale_by_group` takes the geometric mean of a row's centers, those of its shop and of
# its item: of two centers of -100 that is 100, and series about -100 end at -173.  One number for a row was expected to lie between those
# that it comes from.  A group of a single row has no unbiased deviation: to transform, it gets the median of the others, while
# get_parameters, by which a prediction is scaled back, has NaN.  And EncoderNormalizer divides a tensor by its unbiased deviation and
# 1.2e-7, the same numbers as an array by their biased deviation and the epsilon of float16, 0.001, so that a faint series ends at 0.01.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install pytorch-forecasting==1.8.0 torch==2.13.0 pandas==3.0.6 numpy==2.4.6
expect 'about 100: center 100, from -1 to 1
about -100: center 100, from -174 to -172
group of 2 rows: to transform 1.4, to scale back 1.4
group of 1 rows: to transform 2.1, to scale back nan
[1.0, 3.0]: as a tensor up to 0.71, as an array up to 1.00
[1e-05, 3e-05]: as a tensor up to 0.70, as an array up to 0.01' <<'PY'
import logging
import warnings

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
import numpy as np
import pandas as pd
import torch
from pytorch_forecasting.data.encoders import EncoderNormalizer, GroupNormalizer

rows = pd.DataFrame({"shop": list("aaaabbbb"), "item": list("ppqqppqq")})
for about in (100.0, -100.0):
    y = pd.Series(about + np.tile([1.0, -1.0], 4))
    normalizer = GroupNormalizer(groups=["shop", "item"], scale_by_group=True)
    z = np.asarray(normalizer.fit_transform(y, rows))
    center = normalizer.get_parameters(("a", "p"))[0]
    print(f"about {about:.0f}: center {center:.0f}, from {z.min():.0f} to {z.max():.0f}")

rows = pd.DataFrame({"shop": list("aabbc")})
normalizer = GroupNormalizer(groups=["shop"])
_, norms = normalizer.fit_transform(pd.Series([1.0, 3, 10, 14, 5]), rows, return_norm=True)
for shop, index, count in (("a", 0, 2), ("c", 4, 1)):
    back = normalizer.get_parameters((shop,))[1]
    print(f"group of {count} rows: to transform {norms[index, 1]:.1f}, to scale back {back:.1f}")

for values in ([1.0, 3.0], [1e-5, 3e-5]):
    ends = []
    for x in (torch.tensor(values), np.array(values)):
        normalizer = EncoderNormalizer()
        ends.append(float(normalizer.fit(x).transform(x)[-1]))
    print(f"{values}: as a tensor up to {ends[0]:.2f}, as an array up to {ends[1]:.2f}")
PY
