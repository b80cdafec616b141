"""What leaves this package for production: plain checkpoints, ONNX graphs, embedding models, each compared with what was trained."""
