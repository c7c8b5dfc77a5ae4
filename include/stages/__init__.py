"""Programs that run inside a target's environment. They know only their files and flags.

Each program is a package with a ``__main__``; with `include.errors`, `include.model` and the modules of this
folder it is all that is sent into a container. No Airflow, no Docker, no network.
"""
