"""Published rows compared with ground truth, and the drift of inputs."""
