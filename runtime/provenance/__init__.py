"""Signed provenance of pictures: a C2PA manifest that says which model made a picture, put in last of all.

Needs the extra `provenance` (c2pa-python, cryptography), which is imported when the first picture is signed. See
docs/security.md.
"""
