"""Models -> ONNX files of ONNX's own operators, and how far onnxruntime agrees with torch on them."""

from mmsec.export.onnx import MIN_SIZE, Agreement, Exported, export, require_packages, session, verify

__all__ = ['MIN_SIZE', 'Agreement', 'Exported', 'export', 'require_packages', 'session', 'verify']
