"""Stage build of target vllm: the checkpoint's int4 weights as vLLM reads them, proved by vLLM itself."""
