"""Pictures, videos and recordings understood on one plain server."""

import os

__version__ = "0.1.0"

# Nothing leaves the machine unasked, and libraries read these when they are loaded. ONNX Runtime's official builds send
# names, hashes and sizes of models to Microsoft unless told not to.
for _name in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    os.environ[_name] = "1"
