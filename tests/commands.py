"""The command line, as the tests call it."""

from __future__ import annotations

import json

from click.testing import CliRunner

import cli


def msam(*words: str):
    """Run a command; words are split at spaces, and an empty one stays."""
    return CliRunner().invoke(cli.main, [part for word in words for part in (word.split() or [""])])


def json_of(*words: str, status: int = 0):
    """The object that a command prints with ``--json``."""
    result = msam(*words, "--json")
    assert result.exit_code == status, result.output
    return json.loads(result.stdout)


def refused(*words: str, status: int) -> str:
    """Run a command that must fail with one sentence, and print nothing but that; returns the sentence."""
    result = msam(*words)
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    sentence = result.stderr.split("Error: ")[-1].strip()
    assert "\n" not in sentence
    assert "a defect" not in sentence
    return sentence
