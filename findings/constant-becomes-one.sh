#!/usr/bin/env bash
# monai 1.6.1, torchio 1.2.1, tslearn 0.10.0, torch 2.13.0.  Each of these divides by 1, or refuses, where the deviation is exactly 0, as of
# nothing but 7; of nothing but 0.1 rounding leaves one of 1e-17 or 1e-9, and its quotient is 1 or -1 all over: a blank image or a
# silent series is one or minus one deviation from its own mean.  0, or the error, was expected of every constant.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install monai==1.6.1 torchio==1.2.1 tslearn==0.10.0 torch==2.13.0 scikit-learn==1.9.1 numpy==2.4.6
expect 'nothing but 7: MONAI [0.0], tslearn [0.0], TorchIO Standard deviation is 0
nothing but 0.1: MONAI [1.0], tslearn [1.0], TorchIO [-1.0]' <<'PY'
import warnings

import numpy as np
import torch
import torchio
from monai.transforms import NormalizeIntensity
from tslearn.preprocessing import TimeSeriesScalerMeanVariance

warnings.simplefilter("ignore")


def told(result):
    return np.unique(np.asarray(result, np.float64).round(2)).tolist()


for value in (7, 0.1):
    line = [f"MONAI {told(NormalizeIntensity()(np.full((1, 7, 7), value)))}"]
    line.append(f"tslearn {told(TimeSeriesScalerMeanVariance().fit_transform(np.full((1, 7, 1), value)))}")
    try:
        image = torchio.ScalarImage(tensor=torch.full((1, 40, 40, 4), value, dtype=torch.float32))
        line.append(f"TorchIO {told(torchio.ZNormalization()(image).data)}")
    except RuntimeError as error:
        line.append(f"TorchIO {str(error).split(' for')[0]}")
    print(f"nothing but {value}: {', '.join(line)}")
PY
