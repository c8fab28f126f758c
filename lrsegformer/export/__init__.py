"""The formats that a model can be written in: a stock SegFormer checkpoint, ONNX, and a program of torch.export."""
