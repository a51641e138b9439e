"""Where and when something was measured."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path

import torch


def machine(device: str = "cpu") -> str:
    """Day, processor, threads and versions."""
    processor = platform.processor() or platform.machine()
    about = Path("/proc/cpuinfo")
    if about.is_file():
        lines = [line for line in about.read_text().splitlines() if line.startswith("model name")]
        processor = lines[0].split(":")[1].strip() if lines else processor
    if device != "cpu":
        processor = f"{torch.get_device_module(device).get_device_name()}, beside {processor}"
    return (
        f"{datetime.date.today().isoformat()}, {processor}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )
