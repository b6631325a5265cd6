"""What keeps a library from being made, told in one line."""


class ExportError(Exception):
    """A message for whoever asked for the library."""
