"""Export networks for use without this package."""

from lightning_optreg.export.onnx_file import export_onnx

__all__ = ["export_onnx"]
