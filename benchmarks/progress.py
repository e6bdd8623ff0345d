"""The progress bar of everything that takes long: how far, how long it took, how long is left."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def progress(console: Console) -> Progress:
    """A bar with the time passed and left; a task's description names what is under way."""
    columns = (TextColumn("{task.description:<40}"), BarColumn(), TaskProgressColumn())
    times = (TextColumn("passed"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    return Progress(*columns, *times, console=console, speed_estimate_period=600)
