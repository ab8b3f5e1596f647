"""ONNX: a packed model as a graph that onnxruntime runs, assembled from the packed weights."""
