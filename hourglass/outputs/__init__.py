"""What each command asks for, writes and shows."""

from __future__ import annotations

from hourglass.outputs.output import Output
from hourglass.outputs.scores import ScoreOutput
from hourglass.outputs.values import DenoiseOutput, EmbedOutput, FillOutput, GenerateOutput

__all__ = ["DenoiseOutput", "EmbedOutput", "FillOutput", "GenerateOutput", "Output", "ScoreOutput"]
