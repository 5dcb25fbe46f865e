"""What an analyzer is made of, for the analyzers here and for those of other packages."""

from media_pipeline.analyzers._spec import AnalyzerSpec, Audio, Batch, Frame, Image, Medium, ModelChoice, Options

__all__ = ["AnalyzerSpec", "Audio", "Batch", "Frame", "Image", "Medium", "ModelChoice", "Options"]
