"""`lora-studio seen`: what the model reads of the captions: tokens, the trigger, captions as they are trained."""

import typer

app = typer.Typer(help=__doc__)
