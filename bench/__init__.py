"""Measurements of mybouncer on this machine, side by side with what it is compared with: `python -m bench`."""
