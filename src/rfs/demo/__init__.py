"""`rfs demo`: a real shop is checkpointed, broken and brought back, and every claim is checked.

Nothing here imports the engine: the story runs the `rfs` command as a user would, and
what it claims is compared by code of its own.
"""
