"""What tests reach into of fastbn's inside, here alone: where it stands and what it is called may change."""

from importlib import import_module

# Name here: module, and the name there, if it is not the module itself.  Each is imported when it is first asked for.
_PLACES = {
    "Driver": ("fastbn.kernels.jit", "Driver"),
    "Entries": ("fastbn.engine.entries", "Entries"),
    "Pace": ("fastbn.engine.pace", "_Pace"),
    "Runs": ("fastbn.kernels.plans", "Runs"),
    "Store": ("fastbn.kernels.cache", "_Store"),
    "arguments": ("fastbn.engine.arguments", None),
    "compiled_kernels": ("fastbn._warmup", "_counts"),
    "config": ("fastbn._config", None),
    "double_backward": ("fastbn.engine.double_backward", None),
    "driver": ("fastbn.kernels.jit", "driver"),
    "folders": ("fastbn.kernels.folders", None),
    "entries": ("fastbn.engine.entries", None),
    "integers": ("fastbn.engine.integers", None),
    "lent": ("fastbn.kernels.lent", None),
    "likeness": ("fastbn.kernels.likeness", None),
    "lock": ("fastbn.kernels.lock", None),
    "lock_of_compilation": ("fastbn.engine.threads", "_compiling"),
    "loops": ("fastbn.kernels.loops", None),
    "memory": ("fastbn.engine.memory", None),
    "names_in_pickles": ("fastbn.files._torch", "_NAMES"),
    "numbers": ("fastbn.engine.numbers", None),
    "pace": ("fastbn.engine.pace", None),
    "plans": ("fastbn.engine.plans", None),
    "power": ("fastbn._powers", "power"),
    "rows": ("fastbn.kernels.rows", None),
    "runs": ("fastbn.kernels.runs", None),
    "sources": ("fastbn.kernels.sources", None),
    "steps": ("fastbn._compiled.steps", None),
    "stores": ("fastbn.engine.stores", None),
    "stop_the_keeper_of_memory": ("fastbn.engine.memory", "_stop_keeper"),
    "threads": ("fastbn.engine.threads", None),
    "views": ("fastbn.engine.views", None),
}


def __getattr__(name):
    if name not in _PLACES:
        raise AttributeError(name)
    place, own = _PLACES[name]
    module = import_module(place)
    return module if own is None else getattr(module, own)


def idle_memory_goes_after(seconds, monkeypatch):
    monkeypatch.setattr("fastbn.engine.memory._IDLE", seconds)


def held_buffers():
    """The memory that the pool holds."""
    return import_module("fastbn.engine.memory")._pool.held


def no_keeper_of_memory_begins(monkeypatch):
    monkeypatch.setattr("fastbn.engine.memory._watch", lambda pool, now: None)


def a_keeper_of_memory_is_stopped_by(lock, monkeypatch):
    pool = import_module("fastbn.engine.memory")._pool
    monkeypatch.setattr(pool, "stop", lock)
    monkeypatch.setattr(pool, "watched", 1.0)


def hold_memory_in(held, monkeypatch):
    """The pool holds its memory in this dict."""
    monkeypatch.setattr(import_module("fastbn.engine.memory")._pool, "held", held)


def nothing_is_kept_of_what_is_compiled(monkeypatch):
    monkeypatch.setattr("fastbn.kernels.cache.attach", lambda *args: None)


def no_pace_is_known(monkeypatch):
    monkeypatch.setattr("fastbn.engine.pace._paces", {})


def no_number_of_threads_is_set(monkeypatch):
    monkeypatch.setattr("fastbn.engine.threads._chosen", None)


def read_the_machine_anew():
    """The environment and the number of CPUs are looked at when they are next asked for."""
    threads = import_module("fastbn.engine.threads")
    threads._from_environment.cache_clear()
    threads._cpus.cache_clear()


def elements_read_at_once(number, monkeypatch):
    """So many elements of a data set are read at a time."""
    monkeypatch.setattr("fastbn.moments._datasets._READ", number)


def channels_one_by_one(monkeypatch):
    """No gradients of batch norm are computed of several channels together."""
    monkeypatch.setattr("fastbn.engine.integers._LONG_STRETCH", 0)


def warm_up_on(inputs, monkeypatch):
    """What a warm-up calls the operations on."""
    monkeypatch.setattr("fastbn._warmup._inputs", lambda *_: inputs)
