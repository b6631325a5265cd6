#!/usr/bin/env bash
# brainstate 0.5.4, jax 0.10.2.  BatchNorm1d to 3d with `track_running_stats=False, affine=False` return x as it is, in training and in evaluation,
# without a word.  Their docstring says that the batch's statistics are used in both then, as torch's layers of these
# arguments do, which was expected; `affine=True`, the default, is refused beside it as "not needed".
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install brainstate==0.5.4 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
expect 'tracked, training: mean 0.0, deviation 1.0
not tracked, training: mean 5.0, deviation 3.0, x itself: True
not tracked, evaluation: mean 5.0, deviation 3.0, x itself: True
with weights: AssertionError' <<'PY'
import brainstate
import jax.numpy as jnp
import numpy as np

x = np.random.default_rng(0).normal(size=(64, 4, 3))
x = jnp.asarray((5 + 3 * (x - x.mean()) / x.std()).astype(np.float32))


def words(norm, training):
    with brainstate.environ.context(fit=training):
        y = np.asarray(norm(x))
    same = "" if norm.track_running_stats else f", x itself: {np.array_equal(y, x)}"
    return f"mean {abs(y.mean()):.1f}, deviation {y.std():.1f}{same}"


print("tracked, training:", words(brainstate.nn.BatchNorm1d((4, 3)), True))
for training in (True, False):
    norm = brainstate.nn.BatchNorm1d((4, 3), track_running_stats=False, affine=False)
    print(f"not tracked, {'training' if training else 'evaluation'}:", words(norm, training))
try:
    brainstate.nn.BatchNorm1d((4, 3), track_running_stats=False)
except AssertionError as error:
    print("with weights:", type(error).__name__)
PY
