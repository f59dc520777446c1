"""Bytes of the MySQL protocol: sans-IO, standard library only, imports nothing else of ours."""
