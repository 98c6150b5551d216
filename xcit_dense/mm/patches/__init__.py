"""Every global effect on other libraries, one file each, with its reason.

Imports nothing of ``mm`` above it. docs/architecture.md lists each patch. A new patch is a file here and a row there,
if no documented call of the library can do the same.
"""
