"""Builds a TensorRT-LLM engine: runs the image's own ``trtllm-build`` on a checkpoint and checks the engine.

Contract: NVIDIA/TensorRT-LLM 1.2.1, ``tensorrt_llm/commands/build.py`` and ``tensorrt_llm/plugin/plugin.py``.
"""
