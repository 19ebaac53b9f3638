"""Records of a run: console, metrics.json, TensorBoard, log.txt."""
