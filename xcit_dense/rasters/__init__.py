"""Images of any size, read and written by windows: GeoTIFFs, slides, pyramids and Zarr arrays.

Knows files and arrays, and does not know torch, models or MM libraries. :mod:`.open` has the table of all readers. The
libraries of the extra ``[large]`` are imported at the first file that needs them.
"""
