"""How a call is shared among threads, whatever the size of its arrays: the one place that knows how that is set."""

from internals import integers, pace


def as_large(monkeypatch, threads=64):
    """Every array counts as large, and as many threads as told have a part in it."""
    monkeypatch.setattr(pace, "SERIAL_BYTES", 0)
    monkeypatch.setattr(pace, "with_team", lambda kind, nbytes, run, *args: run(threads, *args))
    monkeypatch.setattr(integers, "PAST_CACHE_BYTES", 0)
