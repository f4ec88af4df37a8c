"""The seam between training and service: what a published model is. pydantic and numpy only."""
