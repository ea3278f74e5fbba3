"""Builds the images; the command is ``script/image``. Needs Python's standard library only."""
