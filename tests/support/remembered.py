"""What fastbn remembers of calls, so that later ones like them are shorter: no other test module knows where."""

from fastbn import _calls


def forget():
    """The next call of every kind is as the first."""
    _calls._remembered.clear()


def number():
    """How many kinds of calls are remembered."""
    return len(_calls._remembered)


def at_most(number, monkeypatch):
    """Remember no more than this many."""
    monkeypatch.setattr(_calls, "_MOST_REMEMBERED", number)
