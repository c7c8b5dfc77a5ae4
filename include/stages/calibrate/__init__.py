"""Stage calibrate: a Hugging Face model to INT4 AWQ, as a TensorRT-LLM checkpoint with its reference."""
