"""`lora-studio words`: what the captions say as a whole: the tags, what is wrong, what the LoRA will absorb."""

import typer

app = typer.Typer(help=__doc__)
