"""Models as files for other run times: ONNX, PyTorch's own format, OpenVINO.

A file contains one graph for all batches and image sizes, and the metadata that :class:`.metadata.Metadata` describes.
Imports ``utils`` and the folders below; no MM library. The libraries onnx, onnxscript, onnxruntime and openvino are
imported at first use. Add a file format here.
"""

SUFFIXES = (".onnx", ".pt2", ".xml")
"""The suffixes of exported models: ONNX, PyTorch's ``torch.export``, OpenVINO."""
