"""Stage calibrate: a Hugging Face model in a format of `include.stages.formats`, with its reference."""
