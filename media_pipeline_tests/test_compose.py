"""docker-compose.yml, deploy/Dockerfile and .dockerignore agree with each other and with the product."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from media_pipeline.cli.serve import _STOP_PATIENCE_S, serve
from media_pipeline.config import ENV_PREFIX, Settings
from scripts import env_example  # noqa: F401 - placeholder

ROOT = Path(__file__).resolve().parent.parent
