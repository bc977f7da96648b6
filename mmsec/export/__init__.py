"""Models -> ONNX files of ONNX's own operators, and how far onnxruntime agrees with torch on them."""

from mmsec.export.program import MIN_SIZE, OPSET, Exported, export, require_packages
from mmsec.export.verification import Agreement, session, verify

__all__ = ['MIN_SIZE', 'OPSET', 'Agreement', 'Exported', 'export', 'require_packages', 'session', 'verify']
