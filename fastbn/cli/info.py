"""``fastbn info``: what fastbn runs on, and what would make it run better."""

import argparse
from typing import Any

from fastbn._config import as_text, config, show_config

__all__ = ["add_parser", "as_text", "config", "run"]


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "info",
        help="say what fastbn runs on",
        description="Say what fastbn runs on (versions, processor, threads, cache), and what would make it run better.",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    show_config()
    return 0
