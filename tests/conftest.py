"""What a run of the tests chooses, and settings of the whole suite."""

import secrets
from pathlib import Path
from zlib import crc32

import draws
import pytest
import remembered
from hypothesis import HealthCheck, seed, settings

SYSTEMS = Path(__file__).parent / "systems"  # a folder for each package that tests of its own need
EXISTING = sorted({folder.name for folder in SYSTEMS.iterdir() if any(folder.glob("test_*.py"))} | {"jax"})


def pytest_addoption(parser):
    group = parser.getgroup("fastbn")
    group.addoption("--all", action="store_true", help="also run the tests marked full, which take many minutes")
    group.addoption("--share", default="1/1", help="K/N: of the tests marked full that are to run, the Kth of N parts")
    group.addoption("--systems", default="", help=f"run the tests that need these, of {', '.join(EXISTING)}")
    group.addoption("--docs", action="store_true", help="run every example of README.md and docs/")
    group.addoption("--seed", help="draw other inputs: a number, or random, which is then printed")


def pytest_configure(config):
    chosen = config.getoption("--seed")
    draws.seed = secrets.randbelow(2**32) if chosen == "random" else None if chosen is None else int(chosen)
    # No deadline: the first example of a kind compiles a kernel.  Without --seed, a run says the same thing twice.
    settings.register_profile(
        "fastbn",
        deadline=None,
        derandomize=draws.seed is None,
        database=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("fastbn")
    config.fastbn_choice = Choice(config)


class Choice:
    """Which tests are run, and how many are left out for which reason."""

    def __init__(self, config):
        self.all, self.docs = config.getoption("--all"), config.getoption("--docs")
        self.part, self.parts = self._share(config.getoption("--share"))
        self.systems = {name for name in config.getoption("--systems").split(",") if name}
        for name in self.systems.difference(EXISTING):
            raise pytest.UsageError(f"--systems={name}: tests/systems/ has {', '.join(EXISTING)}")
        self.plain = not (self.all or self.docs or self.systems)
        self.left_out = {"full": 0, "slow": 0}
        self.slow_too = config.getoption("markexpr") != "not slow"

    @staticmethod
    def _share(text):
        part, _, parts = text.partition("/")
        if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
            raise pytest.UsageError(f"--share={text}: expected K/N, as 1/3 for the first of three parts")
        return int(part), int(parts)

    def has(self, item):
        if item.get_closest_marker("slow") and not self.slow_too:
            self.left_out["slow"] += 1
            return True  # so that -m, whose default leaves it out, tells of it
        needed = {name for marker in item.iter_markers("system") for name in marker.args}
        if "torch" in item.fixturenames:
            needed.add("torch")
        if item.get_closest_marker("example") and self.docs:
            return True
        wanted = needed <= self.systems if needed else self.all or self.plain
        if not wanted or not item.get_closest_marker("full"):
            return wanted
        chosen = bool(needed or self.all) and crc32(item.nodeid.encode()) % self.parts == self.part - 1
        self.left_out["full"] += not chosen
        return chosen

    def __str__(self):
        drawn = "" if draws.seed is None else f"inputs drawn by --seed={draws.seed}; "
        told = []
        if self.left_out["full"]:
            share = f", of which this is --share={self.part}/{self.parts}" if self.parts > 1 else ""
            told.append(f"{self.left_out['full']} longer tests (pytest --all{share})")
        if self.left_out["slow"]:
            told.append(f"{self.left_out['slow']} that need minutes or many GB (pytest -m slow)")
        if missing := [name for name in EXISTING if name not in self.systems]:
            told.append(f"those of other systems (pytest --systems=NAME[,NAME], of {', '.join(missing)})")
        return drawn + ("left out: " + "; ".join(told) if told else "nothing was left out")


def pytest_ignore_collect(collection_path, config):
    if SYSTEMS in collection_path.parents:
        name = collection_path.relative_to(SYSTEMS).parts[0]
        return None if name in config.fastbn_choice.systems else True
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    for item in items:
        if SYSTEMS in item.path.parents:
            item.add_marker(pytest.mark.system(item.path.relative_to(SYSTEMS).parts[0]))
        if draws.seed is not None and getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            seed(draws.seed)(item.obj)
    named = [str(arg) for arg in config.args if "::" in str(arg)]  # a test that is asked for by its name is run
    chosen = [item for item in items if config.fastbn_choice.has(item) or named]
    left = set(items).difference(chosen)
    if left:
        config.hook.pytest_deselected(items=[item for item in items if item in left])
        items[:] = chosen


def pytest_sessionfinish(session, exitstatus):
    """A share may hold none of a few tests, which is then told, and no failure."""
    choice = session.config.fastbn_choice
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and choice.parts > 1 and choice.left_out["full"]:
        session.exitstatus = pytest.ExitCode.OK


def pytest_unconfigure(config):
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter and hasattr(config, "fastbn_choice"):
        reporter.write_line(str(config.fastbn_choice))


@pytest.fixture
def torch():
    """PyTorch: a test that takes it is one of its system."""
    import torch

    return torch


@pytest.fixture(autouse=True)
def nothing_remembered():
    """What is remembered of a call includes how it was to run, which tests of other ways would not change."""
    remembered.forget()
