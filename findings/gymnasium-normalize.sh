#!/usr/bin/env bash
# gymnasium 1.4.0, numpy 2.4.6.  NormalizeObservation and NormalizeReward keep a mean and variance that begin with 1e-4 of an observation of
# 0, merged like a batch: what lies far from 0 gets a variance with 1e-4 of its squared mean in it, over the number of observations.
# After 1,000 observations of 10,000 and 10,001 in turns it is 10.3, of 1,000,000 and 1,000,001 it is 100,000, and the environment's
# observations, which should be one deviation from their mean, are 0.0019 of one.  A variance of 0.25 was expected.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install gymnasium==1.4.0 numpy==2.4.6
expect 'about 0: mean 0.50, variance 0.3, last observation 1.0000
about 10000: mean 10000.50, variance 10.3, last observation 0.1565
about 1000000: mean 1000000.40, variance 100000.3, last observation 0.0019' <<'PY'
import gymnasium
import numpy as np


class Turns(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 1e9, (1,), np.float64)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, offset):
        self.offset, self.steps = offset, 0

    def observed(self):
        self.steps += 1
        return np.array([self.offset + (self.steps - 1) % 2], np.float64)

    def reset(self, *, seed=None, options=None):
        return self.observed(), {}

    def step(self, action):
        return self.observed(), 0.0, False, False, {}


for offset in (0, 10**4, 10**6):
    environment = gymnasium.wrappers.NormalizeObservation(Turns(offset))
    environment.reset()
    for _ in range(999):
        last = environment.step(0)[0].item()
    rms = environment.obs_rms
    print(f"about {offset}: mean {rms.mean[0]:.2f}, variance {rms.var[0]:.1f}, last observation {last:.4f}")
PY
