"""The OpenAI API in front of the live models: ``python -m include.live.api``; see docs/endpoint.md."""
