"""Data sets as people have them: layouts, checks, and the embedded data set ``shapes``.

Imports ``utils`` and ``structures``; knows files and arrays, not models or MM libraries. A new data format is a module
here that finds, reads and checks.
"""
