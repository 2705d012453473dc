"""The one exception that users are meant to read."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend: the message names the thing, the place and the remedy."""
