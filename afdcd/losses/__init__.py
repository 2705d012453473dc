"""Distillation methods, one a file; a new one is a file and a line in this table."""

from __future__ import annotations

METHODS: dict[str, str] = {
    "kd": "afdcd.losses.kd:LogitKD",
    "afdcd": "afdcd.losses.afdcd:AfDCD",
    "fitnet": "afdcd.losses.fitnet:FitNet",
    "cwd": "afdcd.losses.cwd:ChannelWise",
    "skd": "afdcd.losses.skd:SKD",
    "ifvd": "afdcd.losses.ifvd:IntraClassVariation",
    "at": "afdcd.losses.at:AttentionTransfer",
    "dist": "afdcd.losses.dist:DIST",
    "cirkd": "afdcd.losses.cirkd:CIRKD",
    "mgd": "afdcd.losses.mgd:MGD",
    "idd": "afdcd.losses.idd:IDD",
    "apd": "afdcd.losses.apd:APD",
    "ka": "afdcd.losses.ka:KA",
}
