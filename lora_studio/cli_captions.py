"""`lora-studio captions`: change captions of many pictures at once, and bring them in and out as files."""

import typer

app = typer.Typer(help=__doc__)
