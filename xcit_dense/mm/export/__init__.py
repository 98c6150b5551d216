"""Detectors and segmentors of the MM libraries as modules that take and return plain tensors.

MM's detectors return objects with as many boxes as they find, image by image. A graph needs tensors whose shapes follow
from the input. So the modules here read the weights and the test settings of MM's modules, and compute the same with
operations that every run time has. Add the export of a head here.
"""
