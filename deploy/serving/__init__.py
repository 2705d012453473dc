"""Serving: the Open Inference Protocol from one process, a client for it, and what NVIDIA Triton needs."""
