"""`python -m media_pipeline` is the console script."""

from media_pipeline.cli import main

main()
