"""Stage build of target vllm: the checkpoint's weights as vLLM reads them, proved by vLLM itself."""
