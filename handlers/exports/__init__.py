"""Exports: rows of a database into files.

``payloads`` what the jobs carry, ``tasks`` the function, ``worker`` the family. ``datasets`` is what can be exported,
``formats`` how it is written, ``spool`` where the file lies until it is stored.
"""
