"""The plans that fastbn keeps of calls, so that later ones like them are shorter: no other test module knows where."""

from internals import plans


def forget():
    """The next call of every kind is as the first."""
    plans.clear()


def number():
    """How many kinds of calls have a plan."""
    return plans.count()


def at_most(number, monkeypatch):
    """Keep no more plans than this many."""
    monkeypatch.setattr(plans, "MOST", number)
