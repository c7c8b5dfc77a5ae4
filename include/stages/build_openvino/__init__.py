"""Stage build, target openvino: a TensorRT-LLM AWQ checkpoint to an OpenVINO IR with the very same int4 weights."""
