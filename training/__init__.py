"""The engine: one compiled step, the loop above it, and the run folder it fills."""
