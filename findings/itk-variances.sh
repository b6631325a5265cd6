#!/usr/bin/env bash
# SimpleITK 2.5.7, numpy 2.4.6.  ITK takes a variance as a difference of sums, in float64.  Of counts about 1e8 in uint32, every other one larger
# by 1, StatisticsImageFilter gives 0, LabelStatisticsImageFilter -231 for a label that is everywhere, and Normalize, which promises a
# variance of 1, nothing but the largest float64 and its negative.  0.25 was expected, as of counts about 10,000.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install SimpleITK==2.5.7 numpy==2.4.6
expect 'about 10000: variance 0.25, of the label 0.25003, normalized [-1.0, 1.0]
about 100000000: variance 0, of the label -231.04, normalized [-1.797693e+308, 1.797693e+308]' <<'PY'
import numpy as np
import SimpleITK as sitk

for offset in (10**4, 10**8):
    counts = (offset + np.arange(10_000) % 2).astype(np.uint32).reshape(100, 100)
    image, label = sitk.GetImageFromArray(counts), sitk.GetImageFromArray(np.ones(counts.shape, np.uint8))
    whole, labelled = sitk.StatisticsImageFilter(), sitk.LabelStatisticsImageFilter()
    whole.Execute(image)
    labelled.Execute(image, label)
    normalized = [float(f"{v:.6e}") for v in np.unique(sitk.GetArrayFromImage(sitk.Normalize(image)))]
    short = [round(v, 2) if abs(v) < 2 else v for v in normalized]
    variances = f"variance {whole.GetVariance():.2g}", f"of the label {labelled.GetVariance(1):.5g}"
    print(f"about {offset}: {', '.join(variances)}, normalized {short}")
PY
