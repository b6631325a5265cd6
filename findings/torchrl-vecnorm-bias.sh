#!/usr/bin/env bash
# torchrl 0.14.1, tensordict 0.14.3, torch 2.13.0.  VecNorm of the new kind (`VecNorm(..., new_api=True)`, VecNormV2) keeps moving averages of x and of x**2 that
# start at 0, and takes the one's square off the other before it corrects both for that start: what it calls a variance is
# variance + decay**n * mean**2.  With the default decay of 0.9999, observations about 100 with a deviation of 1 are divided by 95 after a
# thousand steps, and still by 86 after three thousand; about 0, or with a decay of 1, by 1.  A deviation of 1 was expected from the first hundred
# steps on, as the mean, which is corrected, is right at once.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install torchrl==0.14.1 tensordict==0.14.3 torch==2.13.0 numpy==2.4.6
expect 'about 0, decay 0.9999: after 1000 steps mean 0, deviation 1.0; after 3000 steps mean 0, deviation 1.0
about 100, decay 0.9999: after 1000 steps mean 100, deviation 95.2; after 3000 steps mean 100, deviation 86.1
about 100, decay 1.0: after 1000 steps mean 100, deviation 1.0; after 3000 steps mean 100, deviation 1.0' <<'PY'
import warnings

warnings.simplefilter("ignore")
import torch
from tensordict import TensorDict
from torchrl.envs.transforms import VecNormV2

noise = torch.randn(3000, 1, generator=torch.Generator().manual_seed(0))
noise = (noise - noise.mean()) / noise.std()
for about, decay in ((0, 0.9999), (100, 0.9999), (100, 1.0)):
    norm = VecNormV2(in_keys=["observation"], decay=decay)
    words = []
    for step, x in enumerate(noise + about, 1):
        observed = TensorDict({"observation": x})
        norm._step(observed, observed)
        if step in (1000, 3000):
            mean, deviation = norm.loc["observation"].item(), norm.scale["observation"].item()
            words.append(f"after {step} steps mean {abs(mean):.0f}, deviation {deviation:.1f}")
    print(f"about {about}, decay {decay}: {'; '.join(words)}")
PY
