"""``idl-hub smoke``: a student who exists for a minute gets a GPU, trains, and is gone again."""
