"""What docs/scale.md says to users of Ray, run on one machine; and a worker that dies."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import ray

import fastbn

PAGE = Path(__file__).parents[3] / "docs" / "scale.md"
CODE = re.compile(r"^With Ray:\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """A cluster of two processes, whose tasks import this fastbn."""
    paths = os.pathsep.join([str(Path(fastbn.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": paths}})
    yield
    ray.shutdown()


@pytest.mark.parametrize("count", [1, 7, 70])
def test_the_code_of_the_page(count):
    data = np.random.default_rng(0).normal(5.0, 2.0, (1000, 3))
    (code,) = CODE.findall(PAGE.read_text(encoding="utf-8"))
    names = {"measure": lambda part: fastbn.Moments(axis=1).update(part), "parts": np.array_split(data, count)}
    exec(code, names)
    expected = fastbn.Moments(axis=1).update(data)
    together = names["together"]
    np.testing.assert_array_equal(together.count, expected.count)
    np.testing.assert_allclose(together.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(together.var(), expected.var(), rtol=1e-12)


def test_integers_to_the_bit():
    data = np.random.default_rng(1).integers(0, 256, (500, 3), np.uint8)
    remote = ray.remote(lambda part: fastbn.Moments(axis=1).update(part))
    together = sum(ray.get([remote.remote(part) for part in np.array_split(data, 9)]))
    assert together.to_dict() == fastbn.Moments(axis=1).update(data).to_dict()


def test_a_worker_that_dies_ends_in_rays_own_error():
    def die(part):
        os._exit(3)

    lost = ray.remote(max_retries=0)(die).remote(np.ones((3, 2)))
    add = ray.remote(lambda a, b: a + b)
    with pytest.raises(ray.exceptions.RayError):
        ray.get(add.remote(lost, fastbn.Moments(axis=1)), timeout=300)
