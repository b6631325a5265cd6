"""What watching costs: training steps of the network of ``fastbn demo``, with and without a monitor.

python benchmarks/monitor.py

Windows of ten steps, of which the monitor looks at one, by turns with windows of a network that nobody watches.
"""

from statistics import median
from time import perf_counter

import numpy as np

import fastbn

EVERY, WINDOWS = 10, 200


def network_and_optimizer(rng):
    from fastbn.cli._network import SGD, AvgPool2d, Conv2d, Linear, ReLU, Sequential

    norms = [fastbn.BatchNorm2d(16, axis=-1), fastbn.BatchNorm2d(32, axis=-1)]
    layers = (
        Conv2d(1, 16, rng),
        norms[0],
        ReLU(),
        AvgPool2d(),
        Conv2d(16, 32, rng),
        norms[1],
        ReLU(),
        Linear(512, 10, rng),
    )
    network = Sequential(*layers)
    return network, norms, SGD(network, 0.05)


def main():
    from fastbn.cli._network import cross_entropy

    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((64, 8, 8, 1), dtype=np.float32), rng.integers(0, 10, 64)
    plain, watched = (network_and_optimizer(rng) for _ in range(2))
    times = {"plain": [], "watched": []}
    with fastbn.monitor.Monitor(watched[1], every=EVERY) as monitor:

        def window(network, optimizer, told):
            start = perf_counter()
            for _ in range(EVERY):
                network.zero_grad()
                _, dlogits = cross_entropy(network(x), labels)
                network.backward(dlogits)
                optimizer.step()
                told()
            return perf_counter() - start

        for i in range(WINDOWS + 2):
            turns = [("plain", plain, lambda: None), ("watched", watched, monitor.step)]
            for name, (network, _, optimizer), told in turns if i % 2 else turns[::-1]:
                taken = window(network, optimizer, told)
                if i > 1:
                    times[name].append(taken)
    ratio = median(w / p for w, p in zip(times["watched"], times["plain"], strict=True))
    print(f"a step: {median(times['plain']) / EVERY * 1e3:.2f} ms; watched at every {EVERY}th: {ratio - 1:+.1%}")


if __name__ == "__main__":
    main()
