#!/bin/sh
# Takes out of the image's environment what no container of it needs: a third of a gigabyte of symbols, tests, headers and
# files that only other uses of these packages have. Run where it was installed; ends with importing what was touched.
set -eu
rm -f .venv/.lock
cd .venv/lib/python3.11/site-packages

# What only compilers and test suites read.
rm -rf torch/include torch/test torch/share pyarrow/include pandas/tests
find . -type d -name tests -prune -exec rm -rf {} +
find torch/bin -type f ! -name torch_shm_manager -delete
find dagster_webserver/webapp -name '*.map' -delete

# Packages of which weights are read and no code is run (pyproject.toml, `dependency-metadata`).
rm -f face_recognition_models/models/shape_predictor_*.dat face_recognition_models/models/mmod_*.dat
find mediapipe -type f ! -name '__init__.py' \
    ! -path '*/face_detection/*' ! -path '*/face_landmark/*' ! -path '*/pose_detection/*' ! -path '*/pose_landmark/*' -delete
find mediapipe -name '*.so' -delete
rm -rf mediapipe.libs

# Parts of packages for other machines and services.
rm -f pyarrow/libarrow_flight* pyarrow/libarrow_python_flight* pyarrow/_flight*
rm -rf ai_edge_litert/libLiteRtWebGpuAccelerator.so ai_edge_litert/tools ai_edge_litert/vendors

# paddlex imports it for its downloads only.
rm -rf modelscope/models modelscope/pipelines modelscope/trainers modelscope/preprocessors

# Compiled modules of what hardly ever runs: imported, it is compiled in memory.
find sympy modelscope paddlex networkx torch/_inductor torch/testing torch/ao torch/onnx -name __pycache__ -prune -exec rm -rf {} +

# Symbols that only debuggers read, where there are many. Not everywhere: libraries that a wheel brings for itself
# (`*.libs`) have been moved about, and strip breaks some.
strip --strip-unneeded torch/lib/libtorch_cpu.so torch/lib/libtorch_python.so ctranslate2/_ext.*.so pyarrow/lib*.so*

# Some of them are needed after all when another release of a package says so: then the build ends here.
cd - >/dev/null
.venv/bin/python - <<'PYTHON'
import av, ctranslate2, cv2, deltalake, duckdb, faiss, faster_whisper, onnxruntime, pandas, PIL.Image  # noqa
import pillow_heif, pocketsphinx, pyarrow.compute, pyarrow.dataset, pyarrow.parquet, rapidocr, tokenizers, torch  # noqa
import ai_edge_litert.interpreter, scenedetect, safetensors.torch, dagster, dagster_webserver  # noqa

assert torch.nn.Linear(8, 2)(torch.ones(1, 8)).shape == (1, 2)
assert cv2.blur(__import__("numpy").ones((8, 8), "uint8"), (3, 3)).shape == (8, 8)
PYTHON
