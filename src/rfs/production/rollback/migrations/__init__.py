"""Migrations of the application's own: Alembic's, Django's, and plain SQL; which are in force, and the way down.

What is in force is read from the database itself, and scripts are read as files: for looking, none of the
application's code is run. Only to take something back are Alembic and Django started, with the application's Python.
"""
