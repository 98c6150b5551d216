"""The levels of one large image: exactly those of the complete image, without the complete image in memory.

XCA needs only a sum over the tokens of an image, and everything else in an XCiT needs only neighbours. So the trunk can
go over an image strip by strip (:func:`xcit_dense.stream`), and several processes can share one image
(:func:`xcit_dense.streaming.shard.sharded_levels`). Heads are graphs of maps that are computed by windows (``maps.py``)
or by the processes of an image (``band_maps.py``).

Imports ``rasters``, ``models`` and the folders below; no MM library. The heads of the MM libraries are in
``mm.streaming``.
"""
