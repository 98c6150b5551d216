"""Prediction of images of any size by windows, in memory that does not grow with the image.

``plan.py`` covers an image with windows. ``blend.py`` joins the class scores of a segmentor's windows, and ``merge.py``
joins the objects of a detector's windows, which ``objects.py`` describes. ``journal.py`` records what is done.
``outputs.py`` writes the results. ``run.py`` is the loop over images and windows. ``engine.py`` states what the loop
asks of a model, and ``exported.py`` is that for exported models.

Imports ``rasters``, ``media``, ``utils`` and ``structures``. Imports no MM library.
"""
