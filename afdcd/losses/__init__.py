"""Distillation methods, one a file; a new one is a file and a line in this table."""

from __future__ import annotations

METHODS: dict[str, str] = {
    "kd": "afdcd.losses.kd:LogitKD",
    "afdcd": "afdcd.losses.afdcd:AfDCD",
    "mgd": "afdcd.losses.mgd:MGD",
}
