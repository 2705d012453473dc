"""TensorRT 10.12 to 11 and TensorRT-RTX: from a graph to a plan, and from a plan to a running engine."""
